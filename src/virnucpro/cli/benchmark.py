"""``virnucpro benchmark``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click

from virnucpro.cli.options import UserPath
from virnucpro.errors import ConfigError
from virnucpro.files import atomic_file
from virnucpro.models.registry import ARCHITECTURES, ESM2, PROTEIN

COLUMNS = {
    "way": "", "precision": "", "sequences_per_second": ".1f", "tokens_per_second": ".0f", "tflops": ".1f",
    "share_of_bound": ".1%", "times_the_original": ".1f", "relative_l2_rest": ".1e", "fill": ".1%", "gpu_share": ".1%",
}  # fmt: skip
LEGEND = """
share_of_bound    of the speed of the encoder's matrix products alone
relative_l2_rest  difference from fp32, without outlier dimensions (relative L2, mean square over sequences)
fill              how full the packs were
gpu_share         of the time in which the GPU had a pack to compute"""


@click.command()
@click.option("--encoder", type=click.Choice([*ARCHITECTURES]), default=ESM2.name, show_default=True)
@click.option("--size", type=click.Choice([size for each in ARCHITECTURES.values() for size in each.shapes]),
              help="A published shape, with random weights  [default: 650M of ESM-2, else the smallest]")  # fmt: skip
@click.option("--model", type=UserPath(), help="A checkpoint instead of random weights.")
@click.option("--tokenizer", type=UserPath(exists=True, dir_okay=False),
              help="A byte-pair tokenizer.json, with random weights  [default: the bundled small model's]")  # fmt: skip
@click.option("--length", default="", metavar="N|MIN-MAX",
              help="Residues or bases of random sequences  [default: 166 residues, 500 bases]")  # fmt: skip
@click.option(
    "--fasta", type=UserPath(), help="Sequences of a FASTA file instead, of the letters that the encoder reads."
)
@click.option("--precision", default="auto", show_default=True, help="One or several, with commas: fp16,fp8.")
@click.option("--attention", default="auto", show_default=True, help="One or several, with commas: triton,sdpa.")
@click.option("--compile", is_flag=True, help="Compiled blocks, too.")
@click.option("--tokens-per-batch", default="auto", show_default=True)
@click.option("--others", default="original,autocast,transformers", show_default=True,
              help="Other ways to compare with; '' for none.")  # fmt: skip
@click.option("--memory-limit", default="", metavar="GB[,GB…]",
              help="Measure this project's way within so much GPU memory, too: 16,24.")  # fmt: skip
@click.option("--seconds", type=float, default=10.0, show_default=True,
              help="About how long to measure each way, beside 64 sequences in fp32.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "output", type=UserPath(), help="Write everything that was measured here.")
def benchmark(model: str | None, fasta: str | None, length: str, output: str | None, **given: Any) -> None:
    """Measure how fast an encoder is on this machine.

    Beside this project's way stand the original's, others', and the hardware's bound. The bound is the speed of the
    encoder's matrix products alone. The last columns tell how far the vectors of each way are from fp32 (relative L2
    without outlier dimensions), how full the packs were, and the GPU's share of the time.

    \b
    Example:
      virnucpro benchmark --size 3B --precision fp16,fp8 --json 3B.json
    """
    import tempfile

    import torch

    from virnucpro.benchmark import Plan, run_benchmark
    from virnucpro.embeddings.shard import resolve_device
    from virnucpro.encoders.prepare import prepare_encoder
    from virnucpro.sequences.fasta import read_fasta, read_letters
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
    try:
        limits = tuple(map(float, filter(None, given["memory_limit"].split(","))))
    except ValueError:
        raise ConfigError(f"--memory-limit {given['memory_limit']}: give GB, several with commas: 16,24") from None
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
            others=tuple(filter(None, given["others"].split(","))),
            seconds=given["seconds"],
            memory_limits=limits,
            sequences=sequences,
        )
        result = run_benchmark(plan, resolve_device(given["device"]))
    lines = [list(COLUMNS)]
    lines += [
        [format(row[key], kind) if key in row else "–" for key, kind in COLUMNS.items()] for row in result["rows"]
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for way, precision, *numbers in lines:
        aligned = [way.ljust(widths[0]), precision.ljust(widths[1]), *map(str.rjust, numbers, widths[2:])]
        click.echo("  ".join(aligned))
    click.echo(LEGEND)
    click.echo("".join(f"\n{key}: {value}" for key, value in result["setting"].items()))
    if output:
        with atomic_file(output) as file:
            file.write_text(json.dumps(result, indent=1) + "\n")
