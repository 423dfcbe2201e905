"""Some frames of the samples through the chosen path and the references → how far they are apart."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.embeddings.shard import held_gpu

    with held_gpu(snakemake.params.settings, "check"):
        from virnucpro.check.run import check

        check(
            [Path(path) for path in snakemake.input.shards],
            {role: Path(snakemake.input[role]) / "model.safetensors" for role in ("dna", "protein")},
            Path(snakemake.input.classifier),
            Path(snakemake.params.output),
            snakemake.params.settings,
            frames=snakemake.params.frames,
            published=Path(snakemake.input.published[0]) if snakemake.input.published else None,
            threads=snakemake.threads,
            run=snakemake.params.run,
        )
