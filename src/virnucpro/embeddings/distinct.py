"""Which sequences of a shard are equal, told by their digests: each distinct one is embedded once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from virnucpro.embeddings.store import DIGEST_BYTES


class DistinctSequences:
    """A shard's n rows, and its k distinct sequences, numbered by their first rows.

    Attributes:
        digests: (n, 16) uint8, BLAKE2b of each row's letters.
        first: (k,) int64, the first row of each distinct sequence; rises.
    """

    def __init__(self, sequences: Sequence[bytes]) -> None:
        numbers: dict[bytes, int] = {}
        digests = [blake2b(letters, digest_size=DIGEST_BYTES).digest() for letters in sequences]
        number = np.fromiter((numbers.setdefault(digest, len(numbers)) for digest in digests), np.int64, len(digests))
        self.digests = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
        self.first = np.unique(number, return_index=True)[1]
        self._rows = np.argsort(number, kind="stable")  # by distinct sequence
        self._ends = np.cumsum(np.bincount(number, minlength=len(self)))

    def __len__(self) -> int:
        """k."""
        return len(self.first)

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All rows of (m,) distinct sequences, rising, and for each of them which of the m it is."""
        starts = np.append(0, self._ends)[numbers]
        counts = self._ends[numbers] - starts
        which = np.repeat(np.arange(len(numbers)), counts)
        shift = np.repeat(starts - (np.cumsum(counts) - counts), counts)
        rows = self._rows[np.arange(len(which)) + shift]
        order = np.argsort(rows)
        return rows[order], which[order]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """(m, 16) digests -> (m,) numbers of the distinct sequences that have them, -1 where there is none."""
        own = np.ascontiguousarray(self.digests[self.first]).view(np.uint64)  # (k, 2)
        given = np.ascontiguousarray(digests).view(np.uint64)
        if not len(own):
            return np.full(len(given), -1)
        order = np.argsort(own[:, 0])
        place = np.minimum(np.searchsorted(own[order, 0], given[:, 0]), len(own) - 1)
        return np.where((own[order][place] == given).all(axis=1), order[place], -1)
