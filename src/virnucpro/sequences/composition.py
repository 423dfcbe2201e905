"""What sequences are made of: GC, letters that aren't bases, repetition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

WORD = 8
"""Bases of the words whose repetition is counted: each fits into 16 bits."""
WINDOW = 1024
"""Words among which repetition is counted, so that it doesn't grow with the length of a sequence."""

_SLICE = 1 << 20  # bases
_AT_ONCE = 512  # windows, of 2 kB each


def compositions(sequences: Sequence[bytes]) -> np.ndarray:
    """(n, 3) float64 shares of n sequences, in either case: GC, other letters, low complexity.

    * GC: of G and C among A, C, G and T; 0 if there is none of these.
    * Other letters: of those that aren't A, C, G or T.
    * Low complexity: of words of 8 bases that occurred before in the same 1,024 words. It is 0.01 for random letters and near 1
      for tandem repeats, also of units of some hundred bases, which DUST's score doesn't see. Other letters are taken for one of
      the bases.
    """
    if any(len(sequence) > _SLICE for sequence in sequences):
        counts = np.stack([_of_slices(sequence) for sequence in sequences])
    else:
        counts = _counts(sequences)
    shares = counts[:, ::2] / np.maximum(1, counts[:, 1::2])
    return np.asarray(shares)


def _of_slices(sequence: bytes) -> np.ndarray:
    """A long sequence's counts, in bounded memory."""
    starts = range(0, max(1, len(sequence)), _SLICE)
    counts = np.concatenate([_counts([sequence[start : start + _SLICE + WORD - 1]]) for start in starts])
    return np.asarray(counts.sum(axis=0))


def _counts(sequences: Sequence[bytes]) -> np.ndarray:
    """(n, 6) int64: strong bases, bases; other letters, letters; repeated words, words."""
    if not sequences:
        return np.zeros((0, 6), dtype=np.int64)
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    words = np.maximum(lengths - WORD + 1, 0)
    letters = np.frombuffer(b"".join(sequences) + bytes(WORD), dtype=np.uint8)
    upper, starts = letters & 0xDF, np.cumsum(lengths) - lengths

    def count(found: np.ndarray) -> np.ndarray:
        return np.where(lengths > 0, np.add.reduceat(found.view(np.uint8), starts, dtype=np.int64), 0)

    is_strong = (upper == ord("C")) | (upper == ord("G"))
    strong, bases = count(is_strong), count(is_strong | (upper == ord("A")) | (upper == ord("T")))
    repeated = words - _distinct_words(letters, starts, words)
    return np.stack([strong, bases, lengths - bases, lengths, repeated, words], axis=1)


def _distinct_words(letters: np.ndarray, starts: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(n,) different words of each sequence, in windows. ``letters`` go on for a word after the last one; a slice's overlap counts
    twice as letters, by 7 in a million."""
    codes = (letters >> 1) & 3
    codes = (codes[:-1] << 2) | codes[1:]
    codes = (codes[:-2] << 4) | codes[2:]
    codes = (codes[:-4].astype(np.uint16) << 8) | codes[4:]
    last = len(codes)
    codes = np.append(codes, np.zeros(WINDOW, dtype=np.uint16))
    windows = -(-words // WINDOW)
    of = np.repeat(np.arange(len(words)), windows)
    first = (np.arange(len(of)) - np.repeat(np.cumsum(windows) - windows, windows)) * WINDOW
    size = np.minimum(words[of] - first, WINDOW)
    first += starts[of]
    distinct = np.zeros(len(of), dtype=np.int64)
    for begin in range(0, len(of), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        width = int(size[some].max())
        rows = as_strided(codes, (last, width), (2, 2))[first[some]]  # a copy
        beyond = np.arange(width) >= size[some, None]
        rows = np.where(beyond, rows[:, :1], rows)  # a word more of what there is
        rows.sort(axis=1, kind="stable")  # a radix sort for so short integers
        distinct[some] = 1 + np.count_nonzero(np.diff(rows, axis=1), axis=1)
    return np.bincount(of, distinct, len(words)).astype(np.int64)
