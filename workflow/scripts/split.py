"""FASTA files of a sample → folder of shards."""

from pathlib import Path

from virnucpro.joblog import job

with job(snakemake.log[0]):
    from virnucpro.sequences.split import split_fasta

    split_fasta([Path(path) for path in snakemake.input], Path(snakemake.output[0]), **snakemake.params)
