"""Embeddings of labelled samples → classifier."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.classifier.training import train_from_table
    from virnucpro.provenance import RunRecord
    from virnucpro.settings.options import TrainOptions

    train_from_table(
        Path(snakemake.params.table),
        dict(zip(snakemake.params.samples, map(Path, snakemake.input.embeddings), strict=True)),
        {name: Path(folder) for name, folder in snakemake.params.shards.items()},
        Path(snakemake.output.classifier),
        TrainOptions(**snakemake.params.options),
        threads=snakemake.threads,
        run=RunRecord(**snakemake.config["run"]),
    )
