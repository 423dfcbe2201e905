"""``virnucpro benchmark``."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from virnucpro.cli.options import UserPath
from virnucpro.errors import ConfigError
from virnucpro.io import atomic_file
from virnucpro.models.registry import ARCHITECTURES, ESM2, PROTEIN
from virnucpro.rendering import text_table

if TYPE_CHECKING:
    from virnucpro.benchmark import Benchmark

COLUMNS = {
    "way": "", "precision": "", "sequences_per_second": ".1f", "tokens_per_second": ".0f", "tflops": ".1f",
    "share_of_bound": ".1%", "share_of_fastest": ".1%", "times_the_original": ".1f", "relative_l2_rest": ".1e", "fill": ".1%", "gpu_share": ".1%",
}  # fmt: skip
LEGEND = """
share_of_bound    of the speed of the encoder's matrix products alone
share_of_fastest  of their speed with the fastest call of each, such as one that ends in a bias and GELU
relative_l2_rest  difference from fp32, without outlier dimensions (relative L2, mean square over sequences)
fill              how full the packed batches were
gpu_share         of the time in which the GPU had a batch to compute"""


@click.command()
@click.option("--encoder", type=click.Choice([*ARCHITECTURES]), default=ESM2.name, show_default=True)
@click.option("--size", type=click.Choice([size for each in ARCHITECTURES.values() for size in each.shapes]),
              help="A published shape, with random weights  [default: 650M of ESM-2, else the smallest]")  # fmt: skip
@click.option("--model", type=UserPath(), help="A checkpoint instead of random weights.")
@click.option("--tokenizer", type=UserPath(exists=True, dir_okay=False),
              help="A byte-pair tokenizer.json, with random weights  [default: the bundled small model's]")  # fmt: skip
@click.option("--length", default="", metavar="N|MIN-MAX",
              help="Residues or bases of random sequences  [default: 166 residues, 500 bases]")  # fmt: skip
@click.option("--fasta", type=UserPath(),
              help="Sequences of a FASTA file instead, of the letters that the encoder reads.")  # fmt: skip
@click.option("--precision", default="auto", show_default=True, help="One or several, with commas: fp16,int8.")
@click.option("--attention", default="auto", show_default=True, help="One or several, with commas: triton,sdpa.")
@click.option("--compile", is_flag=True, help="Compiled blocks, too.")
@click.option("--tokens-per-batch", default="auto", show_default=True)
@click.option("--seconds", type=float, default=10.0, show_default=True,
              help="About how long to measure each way, beside 64 sequences in fp32.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "output", type=UserPath(), help="Write everything that was measured here.")
def benchmark(output: str | None, **given: Any) -> None:
    """Measure how fast an encoder is on this machine.

    Beside this project's way stands the hardware's bound: the speed of the encoder's matrix products alone. The last
    columns tell how far the vectors are from fp32 (relative L2 without outlier dimensions), how full the packed batches
    were, and the GPU's share of the time.

    \b
    Example:
      virnucpro benchmark --size 3B --precision fp16,int8 --json 3B.json
    """
    with planned(**given) as prepared:
        prepared.measure()
        show(prepared.result(), output)


@contextmanager
def planned(model: str | None, fasta: str | None, length: str, **given: Any) -> Iterator[Benchmark]:
    """What the options ask for, ready to be measured."""
    import torch

    from virnucpro.benchmark import Benchmark, Plan
    from virnucpro.embeddings.shard import resolve_device
    from virnucpro.encoders.prepare import prepare_encoder
    from virnucpro.sequences.read import read_fasta, read_letters
    from virnucpro.sequences.split import check_protein

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    architecture = ARCHITECTURES[given["encoder"]]
    size = given["size"] or ("650M" if architecture is ESM2 else next(iter(architecture.shapes)))
    if size not in architecture.shapes:
        raise ConfigError(f"--size {size}: {architecture.title} has {', '.join(architecture.shapes)}")
    low, _, high = (length or str(architecture.role.letters_per_frame)).partition("-")
    if not low.isdigit() or not (high or "0").isdigit() or not 0 < int(low) <= int(high or low):
        raise ConfigError(f"--length {length}: give a number, or two with a dash between: 10-1022")
    tokens = given["tokens_per_batch"]
    sequences: tuple[bytes, ...] = ()
    if fasta and architecture.role is PROTEIN:
        sequences = tuple(read_letters(fasta))
        check_protein(fasta, sequences)
    elif fasta:
        sequences = tuple(record.sequence.upper() for record in read_fasta(fasta))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        prepared = Path(folder) / "model.safetensors"
        if model is not None:
            prepare_encoder(Path(model), architecture.name, prepared)
        plan = Plan(
            architecture=architecture,
            size=size,
            model=prepared if model is not None else None,
            tokenizer=Path(given["tokenizer"]) if given["tokenizer"] else None,
            lengths=(int(low), int(high or low)),
            precisions=tuple(given["precision"].split(",")),
            attentions=tuple(given["attention"].split(",")),
            compile=given["compile"],
            tokens_per_batch=int(tokens) if tokens.isdigit() else tokens,
            seconds=given["seconds"],
            sequences=sequences,
        )
        yield Benchmark(plan, resolve_device(given["device"]))


def show(result: dict[str, Any], output: str | None) -> None:
    """Print the rows as a table, with those of its columns that have a value, and write all of it to ``output``."""
    columns = {key: kind for key, kind in COLUMNS.items() if any(key in row for row in result["rows"])}
    cells = [[format(row[key], kind) if key in row else "–" for key, kind in columns.items()] for row in result["rows"]]
    click.echo(text_table([list(columns), *cells], left=2))
    click.echo(LEGEND)
    click.echo("".join(f"\n{key}: {value}" for key, value in result["setting"].items()))
    if output:
        with atomic_file(output) as file:
            file.write_text(json.dumps(result, indent=1) + "\n")
