"""contigs.tsv and input → viral.fasta.gz."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.calls.viral import write_viral

    write_viral(
        Path(snakemake.input.contigs),
        [Path(path) for path in snakemake.params.fastas],
        Path(snakemake.output[0]),
        threads=snakemake.threads,
    )
