# embed_dnabert_s and embed_esm2: one job per shard and encoder, a GPU each. Inputs are ancient: the shard's name is its
# content, and the model's digest is in the path. There is no `benchmark`: for it Snakemake reads the memory map of a
# young process twice a second, which slows its start, and more so the more run; a job measures itself, and its file keeps it.


for family, bytes_per_frame in (("dnabert_s", 6_000), ("esm2", 16_000)):

    rule:
        name:
            f"embed_{family}"
        input:
            sequences=ancient(f"{OUT}/{{sample}}/shards/{{shard}}.{LETTERS[family]}"),
            model=ancient(MODELS[family]),
        output:
            f"{OUT}/{{sample}}/embeddings/{family}/{{key}}/{{shard}}.h5",
        log:
            f"{OUT}/logs/embed_{family}/{{sample}}/{{key}}/{{shard}}.log",
        # A GPU that is free takes a shard before a core takes anything else.
        priority: 1
        conda:
            EMBED_ENVIRONMENT
        threads: threads_per_embedding
        resources:
            gpu=gpus_per_job(),
            mem_mb=embedding_memory(family, bytes_per_frame),
            runtime=embedding_minutes(family),
        params:
            settings=JOB_SETTINGS,
            run=RUN,
        script:
            "../scripts/embed.py"

    # All shards of all samples, as a target.
    rule:
        name:
            f"all_{family}"
        input:
            embeddings_of(family),
        localrule: True
