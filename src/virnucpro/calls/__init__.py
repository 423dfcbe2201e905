"""Scores of frames → calls of chunks and contigs → tables and the viral sequences."""
