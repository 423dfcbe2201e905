# embed_dnabert_s and embed_esm2, or what the configured encoders are: one job per shard and encoder, a GPU each. Inputs
# are ancient: the shard's name is its content, and the model's digest is in the path. There is no `benchmark`: for it Snakemake reads the memory map of a
# young process twice a second, which slows its start, and more so the more run; a job measures itself, and its file keeps it.


for role in ROLES:
    encoder = SOURCES[role].kind

    rule:
        name:
            f"embed_{encoder}"
        input:
            sequences=ancient(f"{OUT}/{{sample}}/shards/{{shard}}.{ROLES[role].suffix}"),
            model=ancient(MODELS[role]),
        output:
            f"{OUT}/{{sample}}/embeddings/{encoder}/{{key}}/{{shard}}.h5",
        log:
            f"{OUT}/logs/embed_{encoder}/{{sample}}/{{key}}/{{shard}}.log",
        # A GPU that is free takes a shard before a core takes anything else.
        priority: 1
        conda:
            EMBED_ENVIRONMENT
        threads: threads_per_embedding
        resources:
            gpu=gpus_per_job(),
            mem_mb=embedding_memory(role),
            runtime=embedding_minutes(role),
        params:
            settings=JOB_SETTINGS,
            run=RUN,
        script:
            "../scripts/embed.py"

    # All shards of all samples, as a target.
    rule:
        name:
            f"all_{encoder}"
        input:
            embeddings_of(role),
        localrule: True
