"""Some frames of the samples through the chosen path and the references → how far they are apart."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.embeddings.shard import held_gpu
    from virnucpro.gpu import job_settings
    from virnucpro.provenance import RunRecord

    run = RunRecord(**snakemake.config["run"])
    settings = job_settings(run.configuration, dict(snakemake.resources.items()))
    with held_gpu(settings, "check"):
        from virnucpro.check.run import measure

        measure(
            [Path(path) for path in snakemake.input.shards],
            {role: Path(snakemake.input[role]) / "model.safetensors" for role in ("dna", "protein")},
            Path(snakemake.input.classifier),
            Path(snakemake.output.json).parent,
            settings,
            frames=snakemake.params.frames,
            kinds=snakemake.params.kinds,
            published=Path(snakemake.input.published[0]) if snakemake.input.published else None,
            threads=snakemake.threads,
            run=run,
        )
