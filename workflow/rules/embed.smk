# One job per shard and encoder, a GPU each. Inputs are ancient: the shard's name is its content, and the model's
# digest is in the path.


rule embed_dnabert_s:
    input:
        sequences=ancient(f"{OUT}/{{sample}}/shards/{{shard}}.fna"),
        model=ancient(MODELS["dnabert_s"]),
    output:
        f"{OUT}/{{sample}}/embeddings/dnabert_s/{{key}}/{{shard}}.h5",
    log:
        f"{OUT}/logs/embed_dnabert_s/{{sample}}/{{key}}/{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/embed_dnabert_s/{{sample}}/{{key}}/{{shard}}.tsv"
    conda:
        EMBED_ENVIRONMENT
    threads: threads_per_embedding
    resources:
        gpu=gpus_per_job(),
        mem_mb=embedding_memory("dnabert_s", 6_000),
        runtime=embedding_minutes("dnabert_s"),
    params:
        options=EMBED_OPTIONS,
    script:
        "../scripts/embed.py"


rule embed_esm2:
    input:
        sequences=ancient(f"{OUT}/{{sample}}/shards/{{shard}}.faa"),
        model=ancient(MODELS["esm2"]),
    output:
        f"{OUT}/{{sample}}/embeddings/esm2/{{key}}/{{shard}}.h5",
    log:
        f"{OUT}/logs/embed_esm2/{{sample}}/{{key}}/{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/embed_esm2/{{sample}}/{{key}}/{{shard}}.tsv"
    conda:
        EMBED_ENVIRONMENT
    threads: threads_per_embedding
    resources:
        gpu=gpus_per_job(),
        mem_mb=embedding_memory("esm2", 16_000),
        runtime=embedding_minutes("esm2"),
    params:
        options=EMBED_OPTIONS,
    script:
        "../scripts/embed.py"
