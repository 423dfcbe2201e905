# Controls: shuffled contigs of each sample, and the user's own sequences that aren't viral. They are split, embedded and merged by the
# same rules as samples are, under names that no sample can have, and scored here; `predict` makes the table and the report of them.


# It also refuses ids that a sample shares with the user's controls, which `vectors_of` waits for.
checkpoint make_controls:
    input:
        fasta=fasta_of,
        controls=current(filter(None, [SETTINGS.control_fasta])),
    output:
        f"{OUT}/{CONTROL_SETS}/{{sample}}/controls.fasta",
    log:
        f"{OUT}/logs/make_controls/{{sample}}.log",
    priority: 2
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=lambda wildcards, attempt: attempt * 120,
    params:
        contigs=SETTINGS.controls,
        chunk_length=SETTINGS.chunk_length,
        control_fasta=SETTINGS.control_fasta,
        fastas=lambda wildcards: fastas_of(wildcards)[wildcards.sample],
        identity=identity_of_fasta,
        identity_of_controls=identity_of(filter(None, [SETTINGS.control_fasta])),
    script:
        "../scripts/make_controls.py"


rule score_controls:
    input:
        embeddings=f"{OUT}/{{controls}}/embeddings.h5",
        classifier=CLASSIFIER,
        shards=f"{OUT}/{{controls}}/shards",
        dna_model=PREPARED["dna"],
        protein_model=PREPARED["protein"],
    output:
        **{name: f"{OUT}/{{controls}}/{file}" for name, file in TABLES.items()},
    log:
        f"{OUT}/logs/score_controls/{{controls}}.log",
    wildcard_constraints:
        controls=f"{CONTROL_SETS}/[^/]+",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 3000,
        runtime=lambda wildcards, attempt: attempt * 240,
    params:
        classifier=str(SOURCES["classifier"].path),
        rules=RULES,
        version=VERSION,
        rna_as_dna=SETTINGS.rna_as_dna,
    script:
        "../scripts/score_controls.py"
