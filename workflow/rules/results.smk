# Vectors of all shards → scores → tables → viral sequences and report, side by side.


rule merge:
    input:
        shards=f"{OUT}/{{sample}}/shards",
        dna=embeddings_of("dna"),
        protein=embeddings_of("protein"),
        dna_model=PREPARED["dna"],
        protein_model=PREPARED["protein"],
    output:
        f"{OUT}/{{sample}}/embeddings.h5",
    log:
        f"{OUT}/logs/merge/{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/merge/{{sample}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=lambda wildcards, attempt: attempt * 240,
    params:
        # Known while the workflow is parsed, so that another model, precision or switch is noticed even
        # where the shards were deleted after a finished run.
        models=[str(SOURCES[role].path) for role in ROLES],
        precision=SETTINGS.precision,
        batching=SETTINGS.batching,
        chunk_length=SETTINGS.chunk_length,
        run=RUN,
    script:
        "../scripts/merge.py"


# Both encoders' vectors of all samples, as a target.
rule all_embeddings:
    input:
        expand(f"{OUT}/{{sample}}/embeddings.h5", sample=SAMPLES),
    localrule: True


rule predict:
    input:
        embeddings=f"{OUT}/{{sample}}/embeddings.h5",
        classifier=CLASSIFIER,
        shards=f"{OUT}/{{sample}}/shards",
        dna_model=PREPARED["dna"],
        protein_model=PREPARED["protein"],
    output:
        **{name: f"{OUT}/{{sample}}/{file}" for name, file in TABLES.items() if name != "contigs"},
        contigs=report(
            f"{OUT}/{{sample}}/contigs.tsv",
            caption="../report/contigs.rst",
            category="Contigs",
            labels={"sample": "{sample}"},
        ),
    log:
        f"{OUT}/logs/predict/{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/predict/{{sample}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    # Processes that read, score and make rows; the job itself joins those.
    threads: threads_beside_embedding
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 3000,
        runtime=lambda wildcards, attempt: attempt * 240,
    params:
        classifier=str(SOURCES["classifier"].path),
        threshold=SETTINGS.threshold,
        version=VERSION,
        chunk_length=SETTINGS.chunk_length,
        rna_as_dna=SETTINGS.rna_as_dna,
        run=RUN,
    script:
        "../scripts/predict.py"


rule extract_viral:
    input:
        contigs=f"{OUT}/{{sample}}/contigs.tsv",
        fasta=fasta_of,
    output:
        f"{OUT}/{{sample}}/viral.fasta.gz",
    log:
        f"{OUT}/logs/extract_viral/{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/extract_viral/{{sample}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=lambda wildcards, attempt: attempt * 120,
    params:
        fastas=lambda wildcards: [str(path) for path in SAMPLES[wildcards.sample]],
        identity=identity_of_fasta,
        version=VERSION,
    script:
        "../scripts/extract_viral.py"


rule report:
    input:
        **{name: f"{OUT}/{{sample}}/{file}" for name, file in TABLES.items()},
        embeddings=f"{OUT}/{{sample}}/embeddings.h5",
    output:
        report(
            f"{OUT}/{{sample}}/report.html",
            caption="../report/sample.rst",
            category="Samples",
            labels={"sample": "{sample}"},
        ),
    log:
        f"{OUT}/logs/report/{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{sample}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=60,
    params:
        fastas=lambda wildcards: [str(path) for path in SAMPLES[wildcards.sample]],
        version=VERSION,
        # Not an input, since nothing needs to make it; but after a new check, the page is made anew.
        check=check_digest(),
    script:
        "../scripts/report.py"


rule run_report:
    input:
        expand(f"{OUT}/{{sample}}/summary.json", sample=SAMPLES),
    output:
        report(f"{OUT}/report.html", caption="../report/run.rst", category="All samples"),
    log:
        f"{OUT}/logs/run_report/report.log",
    benchmark:
        f"{OUT}/benchmarks/run_report/report.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 1000,
        runtime=20,
    params:
        samples=list(SAMPLES),
        version=VERSION,
    script:
        "../scripts/run_report.py"
