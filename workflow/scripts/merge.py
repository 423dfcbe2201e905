"""Shard embeddings of a sample → embeddings.h5."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.embeddings.merge import merge

    merge(
        Path(snakemake.input.shards),
        [Path(path) for path in snakemake.input.dna],
        [Path(path) for path in snakemake.input.protein],
        Path(snakemake.input.dna_model) / "model.safetensors",
        Path(snakemake.input.protein_model) / "model.safetensors",
        Path(snakemake.output[0]),
        run=snakemake.params.run,
        keep="merged" if snakemake.params.keep in ("merged", "none") else "shards",
    )
