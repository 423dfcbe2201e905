# How far the chosen way of computing is from fp32 on this machine. A target, not part of `all`.


rule measure:
    input:
        shards=expand(f"{OUT}/{{unit}}/shards", unit=UNITS),
        dna=PREPARED["dna"],
        protein=PREPARED["protein"],
        classifier=CLASSIFIER,
        published=[SETTINGS.check_published] if SETTINGS.check_published else [],
    output:
        **{name.partition(".")[2]: f"{OUT}/check/{name}" for name in TARGETS["check"]},
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
        frames=SETTINGS.check_frames,
        kinds=EMBEDDED,
        precision=SETTINGS.precision,
        vectors=SETTINGS.vectors,
        attention=SETTINGS.attention,
        batching=SETTINGS.batching,
        device=SETTINGS.device,
        version=VERSION,
    script:
        "../scripts/measure.py"


# Fails where what was measured exceeds a gate; so it isn't the rule that makes the files, for they stay.
rule check:
    input:
        f"{OUT}/check/check.json",
    log:
        f"{OUT}/logs/check/verdict.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    script:
        "../scripts/check.py"
