"""FASTA records → chunks → open reading frames → content-named shards."""
