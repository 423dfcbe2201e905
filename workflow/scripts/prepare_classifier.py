"""A user's classifier → classifier file, checked against both encoders."""

from pathlib import Path

from virnucpro.logging import job, logger

with job(snakemake.log[0]):
    from virnucpro.classifier.importer import prepare_classifier
    from virnucpro.encoders.spec import read_spec

    prepare_classifier(
        Path(snakemake.params.source),
        Path(snakemake.output[0]),
        dna_spec=read_spec(Path(snakemake.input.dna) / "model.safetensors"),
        protein_spec=read_spec(Path(snakemake.input.protein) / "model.safetensors"),
        chunk_length=snakemake.params.chunk_length,
        warn=logger.warning,
    )
