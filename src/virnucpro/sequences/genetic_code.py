"""The standard genetic code as NumPy-friendly tables, built from Biopython's table 1.

Bases are coded as bits 1 and 2 of their ASCII letter (A 0, C 1, T 2, G 3, in either case) and a codon as
16 a + 4 b + c, so that whole blocks are coded with shifts and ors. The tables follow from ``BASES``.
"""

from __future__ import annotations

from itertools import product

from Bio.Data import CodonTable

BASES = "ACTG"
"""Bases in the order of their codes: ``(ord(base) >> 1) & 3``."""

SKIPPED = 64
"""Code of a codon with a letter other than A, C, G, T: it contributes no residue."""

REVERSE = 128
"""Added to a codon's code where it is read on the other strand."""

SKIPPED_RESIDUE = b"-"
"""What ``RESIDUES`` holds for a skipped codon."""

COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
"""``bytes.translate`` table; letters other than ACGT stay themselves, as in the original."""

_TABLE = CodonTable.unambiguous_dna_by_id[1]
_CODONS = ["".join(codon) for codon in product(BASES, repeat=3)]


def _residue(codon: str) -> str:
    return "*" if codon in _TABLE.stop_codons else _TABLE.forward_table[codon]


def _opposite(codon: str) -> str:
    return codon.encode().translate(COMPLEMENT)[::-1].decode()


_residues = bytearray(SKIPPED_RESIDUE * 256)
for _code, _codon in enumerate(_CODONS):
    _residues[_code] = ord(_residue(_codon))
    _residues[REVERSE + _code] = ord(_residue(_opposite(_codon)))
RESIDUES = bytes(_residues)
"""``bytes.translate`` table from codon codes (plus ``REVERSE`` or not) to one-letter residues."""

STOPS = tuple(code for code, codon in enumerate(_CODONS) if _residue(codon) == "*")
"""Codes of the stop codons."""

REVERSE_STOPS = tuple(code for code, codon in enumerate(_CODONS) if _residue(_opposite(codon)) == "*")
"""Codes, as read on the forward strand, of the codons that are stops on the other strand."""
