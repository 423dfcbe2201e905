# FASTA → chunks → stop-free frames → shards named by their content.


checkpoint split:
    input:
        fasta_to_split,
    output:
        directory(f"{OUT}/{{sample}}/shards"),
    log:
        f"{OUT}/logs/split/{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/split/{{sample}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 4000,
        runtime=lambda wildcards, attempt: attempt * 240,
    params:
        chunk_length=SETTINGS.chunk_length,
        shard_frames=SETTINGS.shard_frames,
        empty_records=SETTINGS.empty_records,
        fastas=lambda wildcards: [str(path) for path in SAMPLES[wildcards.sample]],
        identity=identity_of_fasta,
        rna_as_dna=SETTINGS.rna_as_dna,
        run=RUN,
    script:
        "../scripts/split.py"
