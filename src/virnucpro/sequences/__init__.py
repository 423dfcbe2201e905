"""FASTA and FASTQ files → chunks → stop-free frames → shards named by their content."""
