# Labelled sequences → a classifier; predictions and labels → how good it is, or its calibration. Targets, not part of `all`.


# Without training data nothing makes these files: a classifier trained before is an input like any other.
if SETTINGS.training_data:

    rule train:
        input:
            embeddings=expand(f"{OUT}/{{sample}}/embeddings.h5", sample=SAMPLES),
            shards=[f"{OUT}/{unit}/shards" for unit in UNITS],
            table=current([SETTINGS.training_data]),
        output:
            classifier=f"{OUT}/training/classifier.safetensors",
            report=f"{OUT}/training/training.json",
            split=f"{OUT}/training/split.tsv",
            calibration=f"{OUT}/training/calibration.json",
            presets=f"{OUT}/training/calibration.tsv",
        log:
            f"{OUT}/logs/train/train.log",
        benchmark:
            f"{OUT}/benchmarks/train/train.tsv"
        conda:
            "../../envs/cpu.yaml"
        threads: threads_per_embedding
        resources:
            mem_mb=lambda wildcards, attempt: attempt * 6000,
            runtime=lambda wildcards, attempt: attempt * 480,
        params:
            table=SETTINGS.training_data,
            identity=identity_of([SETTINGS.training_data]),
            options=SETTINGS.training,
            samples=list(SAMPLES),
            shards={sample: f"{OUT}/{UNIT_OF[sample]}/shards" for sample in SAMPLES},
        script:
            "../scripts/train.py"

else:

    rule train:
        input:
            table_or_error("training_data"),
        localrule: True


rule evaluate:
    input:
        predictions=expand(f"{OUT}/{{sample}}/predictions.tsv", sample=SAMPLES),
        chunks=expand(f"{OUT}/{{sample}}/chunks.tsv", sample=SAMPLES),
        contigs=expand(f"{OUT}/{{sample}}/contigs.tsv", sample=SAMPLES),
        controls=[f"{OUT}/{sample}/{CONTROLS}" for sample in SAMPLES if CONTROLLED],
        classifier=CLASSIFIER,
        table=table_or_error("labels"),
        split=current(filter(None, [SETTINGS.evaluate_split])),
    output:
        directory(f"{OUT}/evaluation"),
    log:
        f"{OUT}/logs/evaluate/evaluate.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 4000,
        runtime=lambda wildcards, attempt: attempt * 120,
    params:
        table=SETTINGS.labels,
        split=SETTINGS.evaluate_split,
        identity=identity_of(filter(None, [SETTINGS.labels, SETTINGS.evaluate_split])),
        contrasts=SETTINGS.contrasts,
        samples=list(SAMPLES),
    script:
        "../scripts/evaluate.py"


if CALIBRATES:

    rule calibrate:
        input:
            chunks=expand(f"{OUT}/{{sample}}/chunks.tsv", sample=SAMPLES),
            contigs=expand(f"{OUT}/{{sample}}/contigs.tsv", sample=SAMPLES),
            embeddings=expand(f"{OUT}/{{sample}}/embeddings.h5", sample=SAMPLES),
            classifier=CLASSIFIER,
            table=current([SETTINGS.labels]),
            split=current(filter(None, [SETTINGS.evaluate_split])),
        output:
            classifier=CALIBRATED,
            report=f"{OUT}/calibration/calibration.json",
            presets=f"{OUT}/calibration/calibration.tsv",
        log:
            f"{OUT}/logs/calibrate/calibrate.log",
        conda:
            "../../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=lambda wildcards, attempt: attempt * 4000,
            runtime=lambda wildcards, attempt: attempt * 120,
        params:
            table=SETTINGS.labels,
            split=SETTINGS.evaluate_split,
            identity=identity_of(filter(None, [SETTINGS.labels, SETTINGS.evaluate_split])),
            samples=list(SAMPLES),
        script:
            "../scripts/calibrate.py"

else:

    rule calibrate:
        input:
            table_or_error("labels"),
            not_the_calibrated_one,
        localrule: True
