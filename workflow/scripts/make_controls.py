"""A sample's FASTA → shuffled contigs of it."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.sequences.controls import make_controls

    make_controls(
        snakemake.wildcards.sample,
        [Path(path) for path in snakemake.params.fastas],
        Path(snakemake.output[0]),
        snakemake.params.contigs,
        snakemake.params.chunk_length,
        Path(snakemake.params.control_fasta) if snakemake.params.control_fasta else None,
    )
