"""Predictions, vectors and labels → the classifier that made them, calibrated."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.classifier.calibrate import calibrate_from_table
    from virnucpro.provenance import RunRecord

    calibrate_from_table(
        Path(snakemake.params.table),
        {name: Path(path).parent for name, path in zip(snakemake.params.samples, snakemake.input.contigs, strict=True)},
        Path(snakemake.input.classifier),
        Path(snakemake.output.classifier),
        embeddings={
            name: Path(path) for name, path in zip(snakemake.params.samples, snakemake.input.embeddings, strict=True)
        },
        split=Path(snakemake.params.split) if snakemake.params.split else None,
        run=RunRecord(**snakemake.config["run"]),
    )
