"""The longest stretch without a stop of each chunk, in any of its six frames: what is scored where no frame is stop-free."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

MIN_CODONS = 20
"""Fewest codons of a stretch: below 60 bases there is nothing to tell."""
_BOTH = 3  # stops of both strands


class Stretches(NamedTuple):
    """A stretch per chunk, (n,) int64 each."""

    frame: np.ndarray  # 0..5, an index into ``frames.FRAME_NAMES``
    codons: np.ndarray
    low: np.ndarray  # first base in the chunk, on the forward strand


def longest_stretches(stops: np.ndarray, start: np.ndarray, length: np.ndarray) -> Stretches:
    """The longest stretch of whole codons between stops, of n ≥ 1 chunks.

    Of equals the first one in the order F1 … R3, and in a frame the first that is read.

    Args:
        stops: (b,) uint8; bit 0: a stop starts at this position; bit 1: a stop of the other strand ends here. It must reach
            three positions beyond every chunk's start and the longest one's length.
        start, length: (n,) int64, the chunks.
    """
    columns = int(length.max()) // 3 + 1  # codons of one residue class, modulo 3, and at least one stop after them
    chunks = as_strided(stops, (len(stops) - 3 * columns + 1, 3 * columns), (1, 1))[start]  # a copy
    chunks[np.arange(3 * columns) > (length - 3)[:, None]] = _BOTH  # where no codon fits
    # Codons and first base, by strand and residue class.
    found = np.empty((2, 2, 3, len(start)), dtype=np.int64)
    for residue in range(3):
        codons = np.ascontiguousarray(chunks[:, residue::3])
        for strand in range(2):
            count, first = _longest_gaps(codons & (1 << strand), last=strand == 1)
            found[:, strand, residue] = count, residue + 3 * first
    every, classes = np.arange(len(start)), (length - np.arange(3)[:, None]) % 3
    by_frame = np.concatenate([found[:, 0], found[:, 1, classes, every]], axis=1)
    frame = by_frame[0].argmax(axis=0)
    return Stretches(frame, *by_frame[:, frame, every])


def _longest_gaps(stops: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Length and begin of the longest run of zeros in each row of (n, c), whose last column has none.

    Of equals the first one, or the ``last``.
    """
    rows, columns = stops.shape
    ends = np.flatnonzero(stops)
    gaps = np.diff(ends, prepend=-1) - 1  # the row before ends with a stop
    place = ends % columns
    ranks = gaps * columns + (place if last else columns - 1 - place)
    best = np.maximum.reduceat(ranks, np.searchsorted(ends, np.arange(rows) * columns))
    count, place = best // columns, best % columns
    return count, (place if last else columns - 1 - place) - count
