"""``virnucpro check``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from virnucpro.cli import options
from virnucpro.cli.inputs import samples_of
from virnucpro.cli.options import RUN_KEYS, UserPath, from_schema, running
from virnucpro.cli.workflow import start, working_folder


@click.command()
@options.inputs
@click.option("--frames", "check_frames", type=int, help="Frames to compare  [default: 200]")
@click.option("--published", "check_published", type=UserPath(), help="Published vectors (.npz) to compare with, too.")
@from_schema(*RUN_KEYS, without=["threshold", "regions", "controls", "control_fasta"])
@running
def check(inputs: tuple[str, ...], output: str, dry_run: bool, **given: Any) -> None:
    """Compare this machine's vectors and scores with fp32.

    Some frames of the input are computed as a run with these options would, and in fp32 by other code. Ends with status
    0 if the vectors and scores keep to the gates, with 3 otherwise. INPUT is as for predict. OUTPUT/check holds
    check.txt (the table that is printed), check.json, check.png and check.svg.

    \b
    Example:
      virnucpro check contigs.fa --preset virnucpro-500 --frames 1000 -o out
    """
    made = [Path(output).absolute() / "check" / f"check.{kind}" for kind in ("txt", "json", "png", "svg")]
    with working_folder(output, dry_run) as work:
        samples, began = samples_of(inputs, work / "inputs"), time.time()
        try:
            start("check", output, work, made, dry_run=dry_run, samples=samples, named=inputs, **given)
        finally:
            if made[0].exists() and made[0].stat().st_mtime >= began and not dry_run:
                click.echo(f"\n{made[0].read_text()}")
