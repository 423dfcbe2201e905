"""Tables of a sample → report.html."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.report.page import write_sample_page

    write_sample_page(
        Path(snakemake.input.summary).parent,
        snakemake.wildcards.sample,
        snakemake.params.fastas,
        Path(snakemake.output[0]),
    )
