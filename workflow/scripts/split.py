"""FASTA files of a sample → folder of shards."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.sequences.split import split_fasta

    params = dict(snakemake.params)
    del params["identity"]  # is for Snakemake, which compares it
    split_fasta([Path(path) for path in params.pop("fastas")], Path(snakemake.output[0]), **params)
