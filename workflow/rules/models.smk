# Published models are fetched, each checkpoint becomes one safetensors file, once; what doesn't fit together
# ends here.


# Where Snakemake itself runs, since compute nodes often have no way to the internet, and before anything else.
rule fetch_model:
    output:
        f"{OUT}/models/{{kind}}/{{identifier}}.sha256",
    log:
        f"{OUT}/logs/fetch_model/{{kind}}-{{identifier}}.log",
    wildcard_constraints:
        kind=any_of(source.kind for source in SOURCES.values()),
        identifier=any_of(source.identifier for source in SOURCES.values()),
    priority: 100
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=600,
    params:
        model=how_to_find,
    script:
        "../scripts/fetch_model.py"


checkpoint prepare_encoder:
    input:
        lambda wildcards: current(CHECKPOINTS[role_of(wildcards)]),
    output:
        directory(f"{OUT}/models/{{kind}}/{{identifier}}"),
    log:
        f"{OUT}/logs/prepare_encoder/{{kind}}-{{identifier}}.log",
    wildcard_constraints:
        kind=any_of(SOURCES[role].kind for role in ROLES),
        identifier=any_of(SOURCES[role].identifier for role in ROLES),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * preparing_memory(role_of(wildcards)),
        runtime=60,
    params:
        source=lambda wildcards: str(SOURCES[role_of(wildcards)].path),
        identity=lambda wildcards: identity_of_model(role_of(wildcards)),
    script:
        "../scripts/prepare_encoder.py"


checkpoint prepare_classifier:
    input:
        checkpoint=current(CHECKPOINTS["classifier"]),
        dna=PREPARED["dna"],
        protein=PREPARED["protein"],
    output:
        CLASSIFIER,
    log:
        f"{OUT}/logs/prepare_classifier/classifier.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=20,
    params:
        source=lambda wildcards: str(SOURCES["classifier"].path),
        encoders=[str(SOURCES[role].path) for role in ROLES],
        identity=lambda wildcards: identity_of_model("classifier"),
        chunk_length=SETTINGS.chunk_length,
    script:
        "../scripts/prepare_classifier.py"
