"""A shard's FASTA → HDF5 file of vectors."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.embeddings.shard import embed_shard

    embed_shard(
        Path(snakemake.input.sequences),
        Path(snakemake.input.model),
        Path(snakemake.output[0]),
        settings=snakemake.params.settings,
        threads=snakemake.threads,
        run=snakemake.params.run,
    )
