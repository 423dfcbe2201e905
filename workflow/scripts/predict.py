"""embeddings.h5 and classifier → tables."""

from pathlib import Path

from virnucpro.logging import job

with job(snakemake.log[0]):
    from virnucpro.calls import one_blas_thread

    one_blas_thread()  # before NumPy is imported
    from virnucpro.calls.predict import Outputs, predict

    predict(
        Path(snakemake.input.embeddings),
        Path(snakemake.input.classifier),
        Path(snakemake.input.shards),
        Outputs(**{name: Path(path) for name, path in snakemake.output.items()}),
        threshold=snakemake.params.threshold,
        chunk_length=snakemake.params.chunk_length,
        rna_as_dna=snakemake.params.rna_as_dna,
        encoders=tuple(Path(snakemake.input[f"{role}_model"]) / "model.safetensors" for role in ("dna", "protein")),
        threads=snakemake.threads,
        run=snakemake.params.run,
    )
