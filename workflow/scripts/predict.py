"""embeddings.h5 and classifier → a sample's tables, regions, viral sequences and report."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.calls import one_blas_thread

    one_blas_thread()  # before NumPy is imported
    from virnucpro.calls.rules import Rules
    from virnucpro.provenance import RunRecord
    from virnucpro.results import Results, make_results

    make_results(
        snakemake.wildcards.sample,
        Path(snakemake.input.embeddings),
        Path(snakemake.input.classifier),
        Path(snakemake.input.shards),
        [Path(path) for path in snakemake.params.fastas],
        Results(**{name: Path(path) for name, path in snakemake.output.items()}),
        Rules(**snakemake.params.rules),
        rna_as_dna=snakemake.params.rna_as_dna,
        encoders=tuple(Path(snakemake.input[f"{role}_model"]) / "model.safetensors" for role in ("dna", "protein")),
        **{name: Path(snakemake.input[name]) for name in ("shuffled", "given") if name in snakemake.input.keys()},
        check=snakemake.params.check,
        threads=snakemake.threads,
        run=RunRecord(**snakemake.config["run"]),
    )
