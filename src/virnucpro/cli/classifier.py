"""``virnucpro classifier``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virnucpro.cli.inputs import check_labels
from virnucpro.cli.options import RUN_KEYS, UserPath, from_schema, given_keys, running
from virnucpro.cli.workflow import start, working_folder
from virnucpro.outputs import TARGETS, refuse_existing
from virnucpro.provenance import OPTIONS_OF_TABLES


@click.group()
def classifier() -> None:
    """Classifier files: import the original's, calibrate any."""


@classifier.command("import")
@click.argument("original", type=UserPath())
@click.argument("output", type=UserPath())
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is there.")
def classifier_import(original: str, output: str, force: bool) -> None:
    """Turn the original's pickle (.pth) into OUTPUT.safetensors, without running what a pickle may hold."""
    from virnucpro.classifier.importer import import_original
    from virnucpro.classifier.model import write_classifier

    refuse_existing(output, force, source=original)
    spec = write_classifier(output, *import_original(original))
    click.echo(f"{output}: {spec.width} inputs, {spec.hidden} hidden units, weights {spec.weights_sha256}")


@classifier.command("calibrate")
@click.argument("classifier", type=UserPath())
@click.argument("labels", type=UserPath())
@click.option("--split", "evaluate_split", type=UserPath(), help="split.tsv of a training: use its test part only.")
@from_schema(*RUN_KEYS, without=OPTIONS_OF_TABLES)
@running
def classifier_calibrate(
    classifier: str, labels: str, output: str, dry_run: bool, configfile: str | None, **given: Any
) -> None:
    """Give CLASSIFIER probabilities, presets of calls and a reference, from labelled sequences that it wasn't trained on.

    CLASSIFIER is a name or a path, as for --classifier. LABELS is a table with the columns fasta and label, and group
    and category if wanted. The weights stay. OUTPUT/calibration holds the calibrated classifier, calibration.json and
    calibration.tsv (what the presets do). Partial frames are scored unless --partial-frames is false.

    \b
    Example:
      virnucpro classifier calibrate virnucpro-500 labels.tsv --preset virnucpro-500 -o out
    """
    check_labels(labels, records=True)
    if given_keys(given, configfile).get("partial_frames", "auto") == "auto":
        given["partial_frames"] = "true"
    made = [Path(output).absolute() / "calibration" / name for name in TARGETS["calibration"]]
    with working_folder(output, dry_run) as work:
        named = [labels, *filter(None, [given["evaluate_split"]])]
        start(
            "calibrate",
            output,
            work,
            made,
            dry_run=dry_run,
            configfile=configfile,
            classifier=classifier,
            labels=labels,
            named=named,
            **given,
        )
