"""``virnucpro train`` and ``virnucpro evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virnucpro.cli.options import COMPUTE_KEYS, MODEL_KEYS, from_schema, running
from virnucpro.cli.workflow import start


@click.command()
@click.argument("table", type=click.Path())
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="How to train, e.g. --set epochs=50; see config/README.md.",
)
@from_schema(*MODEL_KEYS, *COMPUTE_KEYS)
@running
def train(table: str, settings: tuple[str, ...], output: str, **given: Any) -> None:
    """Train a classifier on the labelled FASTA files of TABLE (columns fasta, label; group, category if wanted).

    The classifier is OUTPUT/training/classifier.safetensors, for any pair of encoders; it knows which.
    """
    folder, options = Path(output).absolute(), dict(setting.partition("=")[::2] for setting in settings)
    made = [folder / "training" / name for name in ("classifier.safetensors", "training.json", "split.tsv")]
    start("train", folder, made, training_data=Path(table).absolute(), training=options, **given)


@click.command()
@click.argument("table", type=click.Path())
@click.option(
    "--split", "evaluate_split", type=click.Path(), help="split.tsv of a training: measure its test part only."
)
@from_schema(*MODEL_KEYS, "classifier", *COMPUTE_KEYS, "threshold")
@running
def evaluate(table: str, evaluate_split: str | None, output: str, **given: Any) -> None:
    """Predict for the labelled FASTA files of TABLE and measure how good it is.

    OUTPUT/evaluation holds metrics.tsv, evaluation.json and the plots.
    """
    folder = Path(output).absolute()
    given |= {"labels": Path(table).absolute(), "evaluate_split": evaluate_split and Path(evaluate_split).absolute()}
    start("evaluate", folder, [folder / "evaluation" / "metrics.tsv"], **given)
