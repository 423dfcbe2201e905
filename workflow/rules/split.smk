# FASTA → chunks → stop-free frames → shards named by their content, of a large sample or of several small ones.


checkpoint split:
    input:
        fasta=fasta_of,
    output:
        directory(f"{OUT}/{{unit}}/shards"),
    log:
        f"{OUT}/logs/split/{{unit}}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: threads_for_input
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 4000,
        runtime=lambda wildcards, attempt: attempt * 240,
    params:
        chunk_length=SETTINGS.chunk_length,
        shard_frames=SETTINGS.shard_frames,
        empty_records=SETTINGS.empty_records,
        rna_as_dna=SETTINGS.rna_as_dna,
        fastas=fastas_of,
        identity=identity_of_fasta,
    script:
        "../scripts/split.py"
