"""Predictions and labels → metrics, plots."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.classifier.evaluation import evaluate_from_table
    from virnucpro.provenance import RunRecord

    evaluate_from_table(
        Path(snakemake.params.table),
        {name: Path(path).parent for name, path in zip(snakemake.params.samples, snakemake.input.contigs, strict=True)},
        Path(snakemake.output[0]),
        split=Path(snakemake.params.split) if snakemake.params.split else None,
        contrasts=snakemake.params.contrasts,
        classifier=Path(snakemake.input.classifier),
        run=RunRecord(**snakemake.config["run"]),
    )
