# Published models are fetched, each checkpoint becomes one safetensors file, once; what doesn't fit together
# ends here.


for role, source in SOURCES.items():
    if source.published:

        # Where Snakemake itself runs, since compute nodes often have no way to the internet, and before anything else.
        rule:
            name:
                f"fetch_{source.kind}"
            output:
                CHECKPOINTS[role],
            log:
                f"{OUT}/logs/fetch_{source.kind}/{source.identifier}.log",
            benchmark:
                f"{OUT}/benchmarks/fetch_{source.kind}/{source.identifier}.tsv"
            priority: 100
            localrule: True
            conda:
                "../../envs/cpu.yaml"
            threads: 1
            resources:
                mem_mb=1000,
                runtime=600,
            params:
                model={"role": role, "name": source.name, "models_dir": str(source.path.parent)},
            script:
                "../scripts/fetch_model.py"


for role in ROLES:

    checkpoint:
        name:
            f"prepare_{SOURCES[role].kind}"
        input:
            current(CHECKPOINTS[role]),
        output:
            directory(PREPARED[role]),
        log:
            f"{OUT}/logs/prepare_{SOURCES[role].kind}/{SOURCES[role].identifier}.log",
        benchmark:
            f"{OUT}/benchmarks/prepare_{SOURCES[role].kind}/{SOURCES[role].identifier}.tsv"
        conda:
            "../../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=preparing_memory(role),
            runtime=60,
        params:
            source=path_of(role),
            architecture=SOURCES[role].kind,
            identity=identity_of([] if SOURCES[role].published else SOURCES[role].files),
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
    benchmark:
        f"{OUT}/benchmarks/prepare_classifier/classifier.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=20,
    params:
        source=path_of("classifier"),
        encoders=[str(SOURCES[role].path) for role in ROLES],
        identity=identity_of([] if SOURCES["classifier"].published else SOURCES["classifier"].files),
        chunk_length=SETTINGS.chunk_length,
    script:
        "../scripts/prepare_classifier.py"
