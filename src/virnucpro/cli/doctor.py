"""``virnucpro doctor``."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from virnucpro.cli import options
from virnucpro.cli.inputs import samples_of
from virnucpro.cli.options import RUN_KEYS, UserPath, from_schema, given_keys
from virnucpro.settings.environment import read_switches
from virnucpro.settings.samples import read_samples
from virnucpro.settings.validation import resolve

MARKS = {"ok": "  ok     ", "note": "  note   ", "problem": "  PROBLEM"}


@click.command()
@click.argument("inputs", nargs=-1, metavar="[INPUT...]", type=click.Path(allow_dash=True))
@from_schema(*RUN_KEYS, without=["threshold", "regions", "controls", "control_fasta"])
@options.configfile
@click.option("--output", "-o", "output_dir", default="results", show_default=True, type=UserPath(),
              help="Folder of the run to be.")  # fmt: skip
@click.option("--measure/--no-measure", default=True, help="Whether to time the encoders, for half a minute or so.")
@options.as_json
def doctor(inputs: tuple[str, ...], configfile: str | None, measure: bool, as_json: bool, **given: Any) -> None:
    """Say whether a run would work here, and how long it takes.

    INPUT is as for `predict`; without one it is the bundled example. Looks at programs, the input, GPUs, precision and
    attention, compiler, models, disk and SLURM, and times the embedding. Nothing is written. Exit status 1 if the run
    can't work.

    \b
    Examples:
      virnucpro doctor
      virnucpro doctor contigs.fa --preset virnucpro-500 --models-dir /data/models -o out
    """
    from virnucpro.doctor import PROBLEM, Case, examine

    settings = resolve(given_keys(given, configfile), read_switches(os.environ))
    findings = []
    with tempfile.TemporaryDirectory() as spool:
        samples = samples_of(inputs, Path(spool)) if inputs else read_samples(settings.samples)
        for finding in examine(Case(settings, samples, measure)):
            findings.append(finding)
            if not as_json:
                click.echo(f"{MARKS[finding.state]} {finding.about}: {finding.found}")
                if finding.remedy:
                    click.echo(f"{'':10}-> {finding.remedy}")
    problems = sum(finding.state == PROBLEM for finding in findings)
    if as_json:
        click.echo(json.dumps({"works": not problems, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        click.echo(
            f"{problems} problem{'s' * (problems != 1)}: the run can't work." if problems else "The run can work."
        )
    sys.exit(1 if problems else 0)
