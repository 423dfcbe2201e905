"""FASTA → shard folder."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.provenance import RunRecord
    from virnucpro.sequences.split import split_samples

    options = dict(snakemake.params.items())
    options.pop("identity")
    split_samples(
        {sample: [Path(path) for path in paths] for sample, paths in options.pop("fastas").items()},
        Path(snakemake.output[0]),
        **options,
        threads=snakemake.threads,
        run=RunRecord(**snakemake.config["run"]),
    )
