"""What was measured → an error, if it exceeds a gate."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.check.output import refuse_failed

    refuse_failed(Path(snakemake.input[0]))
