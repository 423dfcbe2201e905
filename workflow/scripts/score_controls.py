"""embeddings.h5 of controls and classifier → their tables."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.calls import one_blas_thread

    one_blas_thread()  # before NumPy is imported
    from virnucpro.calls.predict import Outputs, predict
    from virnucpro.calls.rules import Rules
    from virnucpro.provenance import RunRecord

    predict(
        snakemake.input.embeddings,
        snakemake.input.classifier,
        snakemake.input.shards,
        snakemake.wildcards.controls,
        Outputs(**{name: Path(path) for name, path in snakemake.output.items()}),
        Rules(**snakemake.params.rules),
        rna_as_dna=snakemake.params.rna_as_dna,
        encoders=tuple(Path(snakemake.input[f"{role}_model"]) / "model.safetensors" for role in ("dna", "protein")),
        threads=snakemake.threads,
        run=RunRecord(**snakemake.config["run"]),
    )
