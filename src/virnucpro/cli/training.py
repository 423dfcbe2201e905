"""``virnucpro train`` and ``virnucpro evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virnucpro.cli.inputs import check_labels
from virnucpro.cli.options import RUN_KEYS, UserPath, from_schema, running
from virnucpro.cli.workflow import start, working_folder


@click.command()
@click.argument("table", type=UserPath())
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="How to train, e.g. --set epochs=50; see config/README.md.",
)
@from_schema(*RUN_KEYS, without=["classifier", "threshold", "regions", "controls", "control_fasta"])
@running
def train(table: str, settings: tuple[str, ...], output: str, dry_run: bool, **given: Any) -> None:
    """Train a classifier on labelled FASTA files.

    TABLE has the columns fasta and label, and group and category if wanted. The classifier is
    OUTPUT/training/classifier.safetensors, for any pair of encoders; it knows which.

    \b
    Example:
      virnucpro train labels.tsv --esm-model 650M --dnabert-model DNABERT-S --chunk-length 500 --set epochs=50 -o out
    """
    names = ("classifier.safetensors", "training.json", "split.tsv", "calibration.json", "calibration.tsv")
    made = [Path(output).absolute() / "training" / name for name in names]
    check_labels(table, records=False)
    options = dict(setting.partition("=")[::2] for setting in settings) or None
    with working_folder(output, dry_run) as work:
        start(
            "train", output, work, made, dry_run=dry_run, training_data=table, training=options, named=[table], **given
        )


@click.command()
@click.argument("table", type=UserPath())
@click.option("--split", "evaluate_split", type=UserPath(), help="split.tsv of a training: measure its test part only.")
@from_schema(*RUN_KEYS)
@running
def evaluate(table: str, output: str, dry_run: bool, **given: Any) -> None:
    """Predict for labelled FASTA files and measure how good it is.

    TABLE has the columns fasta and label. OUTPUT/evaluation holds evaluation.md, tables, and the plots.

    \b
    Example:
      virnucpro evaluate labels.tsv --classifier out/training/classifier.safetensors --split out/training/split.tsv
    """
    check_labels(table, records=True)
    made = [Path(output).absolute() / "evaluation" / "metrics.tsv"]
    with working_folder(output, dry_run) as work:
        named = [table, *filter(None, [given["evaluate_split"]])]
        start("evaluate", output, work, made, dry_run=dry_run, labels=table, named=named, **given)
