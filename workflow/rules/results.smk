# Vectors of all shards of a sample → scores → tables, regions, viral sequences and report, by one job.


rule merge:
    input:
        shards=lambda wildcards: f"{OUT}/{unit_of(wildcards)}/shards",
        dna=vectors_of("dna"),
        protein=vectors_of("protein"),
        dna_model=PREPARED["dna"],
        protein_model=PREPARED["protein"],
    output:
        kept(f"{OUT}/{{sample}}/embeddings.h5", "shards", "merged"),
    log:
        f"{OUT}/logs/merge/{{sample}}.log",
    wildcard_constraints:
        sample=f"(?:{CONTROL_SETS}/)?[^/]+",
    # It takes no time, and says of a sample in a unit that it was refused, before hours of embedding.
    priority: 2
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
        vectors=SETTINGS.vectors,
        batching=SETTINGS.batching,
        chunk_length=SETTINGS.chunk_length,
        embedded=EMBEDDED,
        keep=SETTINGS.keep,
    script:
        "../scripts/merge.py"


# Both encoders' vectors of all samples, as a target.
rule all_embeddings:
    input:
        expand(f"{OUT}/{{sample}}/embeddings.h5", sample=SAMPLES),
    localrule: True


rule predict:
    input:
        unpack(controls_of),
        embeddings=f"{OUT}/{{sample}}/embeddings.h5",
        classifier=CLASSIFIER,
        shards=lambda wildcards: f"{OUT}/{unit_of(wildcards)}/shards",
        dna_model=PREPARED["dna"],
        protein_model=PREPARED["protein"],
        fasta=fasta_of,
    output:
        **{name: f"{OUT}/{{sample}}/{file}" for name, file in TABLES.items() if name != "contigs"},
        **{name: f"{OUT}/{{sample}}/{file}" for name, file in REGIONS.items() if SETTINGS.regions},
        **({"controls": f"{OUT}/{{sample}}/{CONTROLS}"} if CONTROLLED else {}),
        contigs=report(
            f"{OUT}/{{sample}}/contigs.tsv",
            caption="../report/contigs.rst",
            category="Contigs",
            labels={"sample": "{sample}"},
        ),
        viral=f"{OUT}/{{sample}}/{VIRAL}",
        page=report(
            f"{OUT}/{{sample}}/{REPORT}",
            caption="../report/sample.rst",
            category="Samples",
            labels={"sample": "{sample}"},
        ),
    log:
        f"{OUT}/logs/predict/{{sample}}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: threads_for_input
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 3000,
        runtime=lambda wildcards, attempt: attempt * 240,
    params:
        classifier=str(SOURCES["classifier"].path),
        rules=RULES,
        regions=SETTINGS.regions,
        # A change of inputs alone makes no job run again.
        controls=[SETTINGS.controls, SETTINGS.control_fasta],
        version=VERSION,
        rna_as_dna=SETTINGS.rna_as_dna,
        fastas=lambda wildcards: fastas_of(wildcards)[wildcards.sample],
        identity=identity_of_fasta,
        # As text, and not the file as an input, which would measure again whenever the samples change.
        check=CHECKED,
    script:
        "../scripts/predict.py"


rule run_report:
    input:
        expand(f"{OUT}/{{sample}}/summary.json", sample=SAMPLES),
    output:
        report(f"{OUT}/report.html", caption="../report/run.rst", category="All samples"),
    log:
        f"{OUT}/logs/run_report/report.log",
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
