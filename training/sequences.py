"""Sequence files, base codes, translation and k-mers shared by the training scripts.

Bases are uint8 codes A0 C1 G2 T3 (anything else 4); residues are ESM-2 token ids (stop = 0).
"""

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BASE_CODE = np.full(256, 4, np.uint8)
for _i, _b in enumerate("ACGT"):
    BASE_CODE[ord(_b)] = BASE_CODE[ord(_b.lower())] = _i
BASE_LETTER = np.frombuffer(b"ACGTN", np.uint8)

# NCBI genetic code table 1, codon index = 16·first + 4·second + third, letters in the order A, C, G, T.
_TABLE_TCAG = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_TCAG = {b: i for i, b in enumerate("TCAG")}
CODON_LETTER = "".join(
    _TABLE_TCAG[16 * _TCAG[a] + 4 * _TCAG[b] + _TCAG[c]] for a in "ACGT" for b in "ACGT" for c in "ACGT"
)
ESM_ORDER = "LAGVSERTIDPKQNFYMHWC"  # ids 4..23 of the ESM-2 alphabet
RESIDUE_ID = {a: i + 4 for i, a in enumerate(ESM_ORDER)}
CODON_RESIDUE = np.array([RESIDUE_ID.get(a, 0) for a in CODON_LETTER], np.uint8)  # 0 = stop


def read_fasta(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (header without '>', sequence) of a FASTA file, gzipped or not."""
    opener = gzip.open if str(path).endswith(".gz") else open
    header, parts = None, []
    with opener(path, "rt") as handle:
        for line in handle:
            if line.startswith(">"):
                if header is not None:
                    yield header, "".join(parts)
                header, parts = line[1:].strip(), []
            else:
                parts.append(line.strip())
    if header is not None:
        yield header, "".join(parts)


def encode(sequence: str) -> np.ndarray:
    """Bases as codes 0..4."""
    return BASE_CODE[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]


def decode(codes: np.ndarray) -> str:
    return BASE_LETTER[codes].tobytes().decode()


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Reverse complement along the last axis; code 4 stays."""
    flipped = codes[..., ::-1]
    return np.where(flipped < 4, 3 - flipped, 4).astype(np.uint8)


def known_spans(codes: np.ndarray, shortest: int) -> list[tuple[int, int]]:
    """Start and end (excluded) of the runs without an unknown base that have at least `shortest` bases."""
    edges = [-1, *np.flatnonzero(codes > 3).tolist(), len(codes)]
    return [(a + 1, b) for a, b in itertools.pairwise(edges) if b - a - 1 >= shortest]


def known_runs(codes: np.ndarray, shortest: int) -> list[np.ndarray]:
    """The bases of `known_spans`."""
    return [codes[start:end] for start, end in known_spans(codes, shortest)]


def translate(codes: np.ndarray) -> np.ndarray:
    """Residues (…, n // 3) of frame 1 along the last axis; stops are 0. All bases must be known."""
    n = codes.shape[-1] // 3 * 3
    c = codes[..., :n].astype(np.int16)
    return CODON_RESIDUE[16 * c[..., 0::3] + 4 * c[..., 1::3] + c[..., 2::3]]


def positional_kmers(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical 31-mers of every position (uint64, n − 30), and which of them have no unknown base."""
    n = len(codes) - 30
    if n <= 0:
        return np.empty(0, np.uint64), np.empty(0, bool)
    padded = np.concatenate([codes, np.zeros(1, np.uint8)]).astype(np.uint64)
    forward, backward = padded & np.uint64(3), np.uint64(3) - (padded & np.uint64(3))
    known = (padded < 4).astype(np.int64)
    known[-1] = 1
    for width in (1, 2, 4, 8):  # 16-mers by doubling
        forward = (forward[:-width] << np.uint64(2 * width)) | forward[width:]
        backward = backward[:-width] | (backward[width:] << np.uint64(2 * width))
    forward = (forward[:n] << np.uint64(30)) | (forward[16 : 16 + n] >> np.uint64(2))
    low30 = np.uint64(2**30 - 1)
    backward = backward[:n] | ((backward[16 : 16 + n] & low30) << np.uint64(32))
    total = np.concatenate([[0], np.cumsum(known)])
    return np.minimum(forward, backward), total[31 : 31 + n] - total[:n] == 31


def base_kmers(codes: np.ndarray) -> np.ndarray:
    """Distinct canonical 31-mers of a sequence, sorted."""
    kmers, known = positional_kmers(codes)
    return np.unique(kmers[known])


def residue_kmers(residues: np.ndarray, k: int) -> np.ndarray:
    """k-mers of a residue sequence in base 20 (int64), stretches with a stop or unknown left out; order kept."""
    if len(residues) < k:
        return np.empty(0, np.int64)
    n = len(residues) - k + 1
    code = np.zeros(n, np.int64)
    good = np.ones(n, bool)
    for i in range(k):
        window = residues[i : i + n]
        good &= (window >= 4) & (window <= 23)
        code = code * 20 + (np.maximum(window, 4).astype(np.int64) - 4)
    return code[good]


class KmerSet:
    """A set of 31-mers with a hashed bitmap in front, so that most look-ups touch one byte."""

    def __init__(self, sequences):
        self.kmers = np.unique(np.concatenate([base_kmers(c) for c in sequences]))
        self.bitmap = np.zeros(2**30, bool)
        self.bitmap[self._hash(self.kmers)] = True

    @staticmethod
    def _hash(kmers: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return (kmers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(34)

    def hits(self, codes: np.ndarray) -> np.ndarray:
        """Positions of the sequence whose 31-mer is in the set."""
        kmers, known = positional_kmers(codes)
        at = np.flatnonzero(known & self.bitmap[self._hash(kmers)])
        found = np.minimum(np.searchsorted(self.kmers, kmers[at]), len(self.kmers) - 1)
        return at[self.kmers[found] == kmers[at]]
