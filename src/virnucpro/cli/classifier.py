"""``virnucpro classifier``."""

from __future__ import annotations

import click

from virnucpro.cli.options import UserPath
from virnucpro.outputs import refuse_existing


@click.group()
def classifier() -> None:
    """Classifier files: import the original's."""


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
