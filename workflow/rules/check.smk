# How far the chosen way of computing is from fp32 on this machine. A target, not part of `all`.


# No declared output, so that it is measured whenever it is asked for, and the files stay if it fails.
rule check:
    input:
        shards=expand(f"{OUT}/{{sample}}/shards", sample=SAMPLES),
        dna=PREPARED["dna"],
        protein=PREPARED["protein"],
        classifier=CLASSIFIER,
        published=[SETTINGS.check_published] if SETTINGS.check_published else [],
    log:
        f"{OUT}/logs/check/check.log",
    conda:
        EMBED_ENVIRONMENT
    threads: threads_per_embedding
    resources:
        gpu=gpus_per_job(),
        mem_mb=lambda wildcards, attempt: attempt * planning.check_memory(SOURCES[role].megabytes for role in ROLES),
        runtime=lambda wildcards, attempt: attempt * 120,
    params:
        output=f"{OUT}/check",
        frames=SETTINGS.check_frames,
        settings=JOB_SETTINGS,
        run=RUN,
    script:
        "../scripts/check.py"
