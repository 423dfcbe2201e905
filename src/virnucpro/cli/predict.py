"""``virnucpro predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virnucpro.cli.options import COMPUTE_KEYS, MODEL_KEYS, from_schema, running
from virnucpro.cli.workflow import start
from virnucpro.configuration import missing_fasta, name_samples
from virnucpro.files import atomic_file


@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...", required=True, type=click.Path())
@from_schema(*MODEL_KEYS, "classifier", *COMPUTE_KEYS, "threshold")
@running
def predict(inputs: tuple[str, ...], output: str, **given: Any) -> None:
    """Predict for FASTA files (plain or gzip), each a sample named after its file.

    Results are in OUTPUT/SAMPLE: predictions.tsv, chunks.tsv, contigs.tsv, viral.fasta.gz, report.html.
    The same command again computes only what is missing.
    """
    samples = name_samples([Path(path).absolute() for path in inputs])
    for (path,) in samples.values():
        if not path.is_file():
            raise missing_fasta(path, "the command line")
    folder = Path(output).absolute()
    with atomic_file(folder / "samples.tsv") as file:
        file.write_text("sample\tfasta\n" + "".join(f"{name}\t{path}\n" for name, (path,) in samples.items()))
    start("all", folder, [folder / name / "report.html" for name in samples], samples=folder / "samples.tsv", **given)
