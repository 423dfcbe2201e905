# One job per shard and encoder, a GPU each: embed_dnabert_s for the configured DNA encoder, embed_esm2 for the protein encoder,
# whichever architectures they are. Inputs are ancient: the shard's name is its content, and the model's digest is in the path.
# There is no `benchmark`: for it Snakemake reads the memory map of a young process twice a second, which slows its start, and
# more so the more run; a job measures itself, and its file keeps it.


rule embed_dnabert_s:
    input:
        sequences=ancient(text_of("dna")),
        model=ancient(MODELS["dna"]),
    output:
        kept(f"{OUT}/embeddings/{SOURCES['dna'].kind}/{{key}}/{{shard}}.h5", "shards"),
    log:
        f"{OUT}/logs/embed_{SOURCES['dna'].kind}/{{key}}/{{shard}}.log",
    # A GPU that is free takes a shard before a core takes anything else.
    priority: 1
    conda:
        EMBED_ENVIRONMENT
    threads: threads_per_embedding
    resources:
        gpu=gpus_per_job(),
        mem_mb=embedding_memory("dna"),
        runtime=embedding_minutes("dna"),
    script:
        "../scripts/embed.py"


rule embed_esm2:
    input:
        sequences=ancient(text_of("protein")),
        model=ancient(MODELS["protein"]),
    output:
        kept(f"{OUT}/embeddings/{SOURCES['protein'].kind}/{{key}}/{{shard}}.h5", "shards"),
    log:
        f"{OUT}/logs/embed_{SOURCES['protein'].kind}/{{key}}/{{shard}}.log",
    # A GPU that is free takes a shard before a core takes anything else.
    priority: 1
    conda:
        EMBED_ENVIRONMENT
    threads: threads_per_embedding
    resources:
        gpu=gpus_per_job(),
        mem_mb=embedding_memory("protein"),
        runtime=embedding_minutes("protein"),
    script:
        "../scripts/embed.py"


# All shards of all samples, as targets.
rule all_dnabert_s:
    input:
        vectors_of("dna"),
    localrule: True


rule all_esm2:
    input:
        vectors_of("protein"),
    localrule: True
