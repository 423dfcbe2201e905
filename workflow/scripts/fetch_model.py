"""A published model's name → the model in its folder, and the record of its digests."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.downloads import obtain
    from virnucpro.models.sources import find

    obtain(find(**snakemake.params.model), record=Path(snakemake.output[0]))
