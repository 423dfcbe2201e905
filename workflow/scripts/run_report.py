"""Summaries of all samples → report.html of the run."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.report.page import write_run_page

    write_run_page(
        {sample: Path(path) for sample, path in zip(snakemake.params.samples, snakemake.input)},
        Path(snakemake.output[0]),
    )
