"""The chunks that a sequence is cut into, exactly as the original VirNucPro cuts them.

A sequence of L bases becomes n = ceil(L / C) chunks of at most C bases that overlap a little, so that the
surplus n * C - L is spread over them. The original divides the surplus by n, not by n - 1, so the last
chunk is usually shorter than C; every other chunk has exactly C bases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChunkTable:
    """All chunks of several sequences, in order; every field is (n,) int64."""

    record: np.ndarray  # index of the sequence
    index: np.ndarray  # of the chunk in its sequence, 0-based
    start: np.ndarray  # in the sequence, 0-based
    length: np.ndarray  # bases


def chunk_table(lengths: np.ndarray, chunk_length: int) -> ChunkTable:
    """Chunks of sequences of ``lengths`` ((r,) int64) bases; an empty one has none."""
    if chunk_length < 1:
        raise ValueError(f"chunk_length must be at least 1, not {chunk_length}")
    counts = -(-lengths // chunk_length)
    record = np.repeat(np.arange(len(lengths), dtype=np.int64), counts)
    index = np.arange(len(record), dtype=np.int64) - (np.cumsum(counts) - counts)[record]
    surplus = counts * chunk_length - lengths
    low = surplus // np.maximum(counts, 1)
    higher = surplus - low * (counts - 1)  # the number of shifts that are low + 1
    start = index * (chunk_length - low[record]) - np.minimum(index, higher[record])
    return ChunkTable(record, index, start, np.minimum(chunk_length, lengths[record] - start))


def chunk_starts(length: int, chunk_length: int) -> np.ndarray:
    """0-based starts ((n,) int64) of a sequence's chunks; chunk i is [start, start + C), clipped at the sequence's end."""
    return chunk_table(np.array([length], dtype=np.int64), chunk_length).start


def chunk_id(record: str, index: int) -> str:
    """The id of chunk ``index`` (0-based) of the sequence with id ``record``; the id counts from 1."""
    return f"{record}_chunk_{index + 1}"
