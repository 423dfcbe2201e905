"""``virnucpro predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virnucpro.cli import options
from virnucpro.cli.inputs import samples_of
from virnucpro.cli.options import RUN_KEYS, from_schema, running
from virnucpro.cli.workflow import start, working_folder


@click.command()
@options.inputs
@from_schema(*RUN_KEYS)
@running
def predict(inputs: tuple[str, ...], output: str, dry_run: bool, **given: Any) -> None:
    """Predict which records of FASTA (or FASTQ) files are viral.

    INPUT is a file, plain or compressed (gzip, bgzip, zstd), and a sample named after it; a quoted pattern; - for
    standard input; NAME=INPUT, where several with the same NAME are one sample; or a table of samples (.tsv with the
    columns sample and fasta).

    Results are in OUTPUT/SAMPLE: predictions.tsv, chunks.tsv, contigs.tsv, regions.tsv, viral.fasta.gz, report.html. Resuming is
    the default: the same command again computes only what is missing or new.

    \b
    Examples:
      virnucpro predict contigs.fa -o out
      virnucpro predict 'assemblies/*.fa.gz' --threshold 0.9 -o out
      virnucpro predict gut=gut_1.fa gut=gut_2.fa soil=soil.fa.zst -o out
      samtools fasta unmapped.bam | virnucpro predict - -o out
      virnucpro predict samples.tsv --preset virnucpro-500 --gpus 2 --cache-dir /data/cache -o out
      virnucpro predict contigs.fa --dry-run -- --quiet       (what follows -- goes to Snakemake)
    """
    with working_folder(output, dry_run) as work:
        samples = samples_of(inputs, work / "inputs")
        folders = [*samples, "."] if len(samples) > 1 else samples  # the run's own folder has a page over all of them
        made = [Path(output).absolute() / name / "report.html" for name in folders]
        start("all", output, work, made, dry_run=dry_run, samples=samples, named=inputs, **given)
