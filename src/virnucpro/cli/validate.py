"""``virnucpro validate``."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from virnucpro.cli import options
from virnucpro.cli.inputs import samples_of
from virnucpro.cli.options import from_schema, given_keys
from virnucpro.sequences.statistics import statistics_of
from virnucpro.settings.environment import read_switches
from virnucpro.settings.validation import resolve

LABELS = {
    "windows": "chunks",
    "windows_with_open_frame": "chunks with a stop-free frame",
    "records_without_open_frame": "records without one",
    "open_frames": "stop-free frames",
    "partial_frames": "partial frames, of other chunks",
}
"""What the text calls the keys that JSON keeps since version 0.1."""


@click.command()
@options.inputs
@from_schema("preset", "chunk_length", "empty_records")
@options.as_json
def validate(inputs: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Say what is in FASTA (or FASTQ) files, or what is wrong.

    They are read as `predict` would with the same options, and nothing is run: exit status 1 is a file that it would
    refuse. INPUT is as for `predict`. Each stop-free frame becomes two embeddings, of its DNA and of its
    protein; partial frames do, too, with a classifier that was validated for them.

    \b
    Examples:
      virnucpro validate contigs.fa
      virnucpro validate 'reads/*.fq.gz' --chunk-length 300 --json
    """
    settings = resolve(given_keys(given), read_switches(os.environ))
    length = settings.chunk_length
    reading: dict[str, Any] = {"empty_records": settings.empty_records, "rna_as_dna": settings.rna_as_dna}
    with tempfile.TemporaryDirectory() as spool:
        samples = samples_of(inputs, Path(spool))
        found = {name: statistics_of(paths, length, **reading) for name, paths in samples.items()}
    if as_json:
        click.echo(json.dumps({name: asdict(counts) for name, counts in found.items()}, indent=2))
        return
    for name, counts in found.items():
        click.echo(f"{name}: {', '.join(map(str, samples[name]))}")
        for key, value in asdict(counts).items():
            if key not in ("remarks", "notes", "share_read"):
                click.echo(f"  {LABELS.get(key, key.replace('_', ' ')):30}{value:>16,}")
        click.echo(f"  {f'embeddings ({length}-base chunks)':30}{2 * counts.open_frames:>16,}")
        for remark, example in counts.remarks.items():
            click.echo(f"  note: records {remark}, e.g. '{example[:60]}'")
        for note in counts.notes:
            click.echo(f"  note: {note}")
