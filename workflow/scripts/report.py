"""Tables of a sample → report.html."""

from pathlib import Path

from virnucpro.joblog import job

with job(snakemake.log[0]):
    from virnucpro.report import write_report

    write_report(
        Path(snakemake.input.summary).parent,
        snakemake.wildcards.sample,
        snakemake.params.settings,
        Path(snakemake.output[0]),
    )
