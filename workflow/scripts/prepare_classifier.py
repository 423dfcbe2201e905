"""A user's classifier → canonical classifier file, checked against both encoders."""

from pathlib import Path

from virnucpro.logging import job, logger

with job(snakemake.log[0]):
    from virnucpro.classifier.importer import prepare_classifier
    from virnucpro.encoders.canonical import read_spec

    prepare_classifier(
        Path(snakemake.params.source),
        Path(snakemake.output[0]),
        dna_spec=read_spec(Path(snakemake.input.dnabert_s) / "model.safetensors"),
        protein_spec=read_spec(Path(snakemake.input.esm2) / "model.safetensors"),
        chunk_length=snakemake.params.chunk_length,
        warn=logger.warning,
    )
