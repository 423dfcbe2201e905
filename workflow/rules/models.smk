# Each checkpoint becomes one canonical safetensors file, once; what doesn't fit together ends here.


checkpoint prepare_dnabert_s:
    input:
        SOURCES["dnabert_s"].files,
    output:
        directory(PREPARED["dnabert_s"]),
    log:
        f"{OUT}/logs/prepare_dnabert_s/{SOURCES['dnabert_s'].identifier}.log",
    benchmark:
        f"{OUT}/benchmarks/prepare_dnabert_s/{SOURCES['dnabert_s'].identifier}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * (2000 + 3 * megabytes_of_models("dnabert_s")),
        runtime=60,
    params:
        source=lambda wildcards: str(SOURCES["dnabert_s"].path),
        family="dnabert_s",
    script:
        "../scripts/prepare_encoder.py"


checkpoint prepare_esm2:
    input:
        SOURCES["esm2"].files,
    output:
        directory(PREPARED["esm2"]),
    log:
        f"{OUT}/logs/prepare_esm2/{SOURCES['esm2'].identifier}.log",
    benchmark:
        f"{OUT}/benchmarks/prepare_esm2/{SOURCES['esm2'].identifier}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * (2000 + 3 * megabytes_of_models("esm2")),
        runtime=60,
    params:
        source=lambda wildcards: str(SOURCES["esm2"].path),
        family="esm2",
    script:
        "../scripts/prepare_encoder.py"


checkpoint prepare_classifier:
    input:
        source=str(SOURCES["classifier"].path),
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
        chunk_length=SETTINGS.chunk_length,
    script:
        "../scripts/prepare_classifier.py"
