"""A shard's FASTA → HDF5 file of vectors."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.embeddings.shard import embed_shard
    from virnucpro.gpu import job_settings
    from virnucpro.provenance import RunRecord
    from virnucpro.sequences.split import place_of_shard, read_manifest

    run, sequences = RunRecord(**snakemake.config["run"]), Path(snakemake.input.sequences)
    settings = job_settings(run.configuration, dict(snakemake.resources.items()))
    samples = read_manifest(place_of_shard(sequences)[0])["samples"]
    embed_shard(
        sequences,
        Path(snakemake.input.model),
        Path(snakemake.output[0]),
        settings=settings,
        threads=snakemake.threads,
        run=run,
        known=[Path(settings.output_dir, sample, "embeddings.h5") for sample in samples],
    )
