"""A user's checkpoint → prepared encoder file."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.encoders.prepare import prepare_encoder

    prepare_encoder(
        Path(snakemake.params.source), snakemake.params.architecture, Path(snakemake.output[0]) / "model.safetensors"
    )
