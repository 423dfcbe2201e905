# Published models are fetched, each checkpoint becomes one canonical safetensors file, once; what doesn't fit together
# ends here.


for family, source in SOURCES.items():
    if source.published:

        # Where Snakemake itself runs, since compute nodes often have no way to the internet, and before anything else.
        rule:
            name:
                f"fetch_{family}"
            output:
                CHECKPOINTS[family],
            log:
                f"{OUT}/logs/fetch_{family}/{source.identifier}.log",
            benchmark:
                f"{OUT}/benchmarks/fetch_{family}/{source.identifier}.tsv"
            priority: 100
            localrule: True
            conda:
                "../../envs/cpu.yaml"
            threads: 1
            resources:
                mem_mb=1000,
                runtime=600,
            params:
                model={"family": family, "name": source.name, "models_dir": str(source.path.parent)},
            script:
                "../scripts/fetch_model.py"


for family in PREPARED:

    checkpoint:
        name:
            f"prepare_{family}"
        input:
            current(CHECKPOINTS[family]),
        output:
            directory(PREPARED[family]),
        log:
            f"{OUT}/logs/prepare_{family}/{SOURCES[family].identifier}.log",
        benchmark:
            f"{OUT}/benchmarks/prepare_{family}/{SOURCES[family].identifier}.tsv"
        conda:
            "../../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=preparing_memory(family),
            runtime=60,
        params:
            source=path_of(family),
            family=family,
            identity=identity_of([] if SOURCES[family].published else SOURCES[family].files),
        script:
            "../scripts/prepare_encoder.py"


checkpoint prepare_classifier:
    input:
        checkpoint=current(CHECKPOINTS["classifier"]),
        dnabert_s=PREPARED["dnabert_s"],
        esm2=PREPARED["esm2"],
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
        encoders=[str(SOURCES[family].path) for family in PREPARED],
        identity=identity_of([] if SOURCES["classifier"].published else SOURCES["classifier"].files),
        chunk_length=SETTINGS.chunk_length,
    script:
        "../scripts/prepare_classifier.py"
