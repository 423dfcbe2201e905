"""Six-frame translation of chunks, keeping the stop-free frames.

Stop-free means that none of a frame's codons is a stop. No start codon is asked for, so these aren't open reading frames.

Works on blocks of chunks with NumPy: every position of a block gets the code of the codon that starts
there; one byte per position then says "stop on this strand" (bit 0) and "stop on the other" (bit 1).
Or-ing that array with itself at distances of 3, 6, 12 ... positions leaves at each position what its
next 2, 4, 8 ... codons hold, so that two look-ups tell whether a frame is stop-free. Only those are
translated. Semantics are those of the original VirNucPro: a codon with a letter other than A, C, G, T
contributes no residue, and the nucleotide text of a frame with P residues has 3 P + 1 bases, clipped at
the chunk's end.

Bases are coded as bits 1 and 2 of their ASCII letter (A 0, C 1, T 2, G 3, in either case) and a codon as
16 a + 4 b + c, so that whole blocks are coded with shifts and ors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from virnucpro.sequences.chunks import chunk_table
from virnucpro.sequences.stretches import MIN_CODONS, longest_stretches

FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
BLOCK_BASES = 3 << 18  # handled at a time: enough to hide the cost of NumPy's calls, few enough for the caches

_EACH_BYTE = 0x0101010101010101  # times b: a word of eight bytes b
_FRAME_OFFSETS = np.array([0, 1, 2, 0, 1, 2])  # of a frame's first codon, on its own strand
_STOP_BITS = np.array([1, 1, 1, 2, 2, 2], dtype=np.uint8)

# NCBI's translation table 1, codons in the order TTT, TTC, TTA, TTG, TCT, …; Biopython has it, too, but takes 30 ms to import.
_GENETIC_CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_RESIDUE_OF = dict(zip(map("".join, product("TCAG", repeat=3)), _GENETIC_CODE, strict=True))
_CODONS = ["".join(codon) for codon in product("ACTG", repeat=3)]  # in the order of their codes
_REVERSE_CODONS = [codon.translate(str.maketrans("ACGT", "TGCA"))[::-1] for codon in _CODONS]
_STOP_CODES = [code for code, codon in enumerate(_CODONS) if _RESIDUE_OF[codon] == "*"]
_REVERSE_STOP_CODES = [code for code, codon in enumerate(_REVERSE_CODONS) if _RESIDUE_OF[codon] == "*"]
_SKIPPED_CODE = 64  # of a codon with a letter other than A, C, G, T
_REVERSE_BIT = 128  # set in a codon's code where it is read on the other strand
_FORWARD_RESIDUES, _REVERSE_RESIDUES = (
    "".join(map(_RESIDUE_OF.__getitem__, codons)) for codons in (_CODONS, _REVERSE_CODONS)
)
_RESIDUES = (
    _FORWARD_RESIDUES.ljust(_REVERSE_BIT, "-") + _REVERSE_RESIDUES.ljust(_REVERSE_BIT, "-")
).encode()  # by code


class Frames(NamedTuple):
    """Frames of consecutive chunks, or parts of such, chunks ascending and frames F1..R3 in a chunk; arrays are (k,) int64."""

    record: np.ndarray  # each frame's sequence, an index into the sequences given
    chunk: np.ndarray  # 0-based index of its chunk in the sequence
    frame: np.ndarray  # 0..5, an index into ``FRAME_NAMES``
    nucleotides: list[bytes]  # upper case, on the frame's own strand
    proteins: list[bytes]  # never empty, never with ``*``


class FrameBatch(NamedTuple):
    """What consecutive chunks have."""

    chunks: int  # in the batch, with or without stop-free frames
    first_record: int  # the sequence of the first chunk, an index into the sequences given
    frames: Frames  # the stop-free ones
    partial: Frames  # of chunks without those, the longest stretch without a stop or a letter other than A, C, G, T
    partial_low: np.ndarray  # (k,) int64, its first base in the chunk, on the forward strand


def frame_span(start: int, length: int, frame: int) -> tuple[int, int]:
    """Half-open 0-based interval, in forward coordinates for both strands, that a frame's whole codons cover.

    The chunk is given by its ``start`` in the contig and its ``length``; ``frame`` indexes ``FRAME_NAMES``.
    """
    offset = min(frame % 3, length)
    bases = (length - offset) // 3 * 3
    low = start + offset if frame < 3 else start + length - offset - bases
    return low, low + bases


class Workspace:
    """Arrays reused by all blocks: new ones would cost more in page faults than the work itself."""

    size = 0

    def reserve(self, size: int) -> None:
        """Make the arrays large enough for ``size`` bases, a multiple of 8."""
        if size > self.size:
            self.size = size
            self.letters, self.codons = np.zeros((2, 2 * size), dtype=np.uint8)  # both strands, one after the other
            self.bases, self.stops, self.other = np.zeros((3, size), dtype=np.uint8)


def stop_free_frames(
    sequences: Iterable[bytes], chunk_length: int, work: Workspace | None = None
) -> Iterator[FrameBatch]:
    """Stop-free frames of many sequences, in batches of bounded size that cover all chunks in order.

    Short sequences share a batch, which is what makes reads and small contigs fast. ``work`` may be that of an earlier call.
    """
    work = work or Workspace()
    group: list[bytes] = []
    bases = first = 0
    for sequence in sequences:
        if group and bases + len(sequence) > BLOCK_BASES:
            yield from _group_frames(group, first, chunk_length, work)
            first += len(group)
            group, bases = [], 0
        group.append(sequence)
        bases += len(sequence)
    if group:
        yield from _group_frames(group, first, chunk_length, work)


def _group_frames(group: list[bytes], first: int, chunk_length: int, work: Workspace) -> Iterator[FrameBatch]:
    """Batches for the sequences of ``group``; ``first`` is the index of its first one."""
    lengths = np.fromiter(map(len, group), dtype=np.int64, count=len(group))
    table = chunk_table(lengths, chunk_length)
    letters = np.frombuffer(b"".join(group), dtype=np.uint8)  # no copy if there is one sequence
    starts = table.start + (np.cumsum(lengths) - lengths)[table.record]
    step = max(1, BLOCK_BASES // chunk_length)
    for begin in range(0, len(starts), step):
        start, length = starts[begin : begin + step], table.length[begin : begin + step]
        low, high = int(start[0]), int(start[-1] + length[-1])
        records, indices = table.record[begin : begin + step] + first, table.index[begin : begin + step]
        found = _block_frames(letters[low:high], start - low, length, records, indices, work)
        yield FrameBatch(len(start), int(records[0]), *found)


def part_frames(
    letters: bytes, start: np.ndarray, length: np.ndarray, index: int, work: Workspace
) -> Iterator[FrameBatch]:
    """Stop-free frames of some chunks of one sequence, whose record is 0.

    ``start`` and ``length`` ((n,) int64) are the chunks in ``letters``, the first of which has this ``index`` in the sequence.
    """
    text = np.frombuffer(letters, dtype=np.uint8)
    step = max(1, BLOCK_BASES // int(length.max()))
    for begin in range(0, len(start), step):
        starts, lengths = start[begin : begin + step], length[begin : begin + step]
        low, high = int(starts[0]), int(starts[-1] + lengths[-1])
        records, indices = np.zeros(len(starts), dtype=np.int64), np.arange(len(starts)) + begin + index
        yield FrameBatch(len(starts), 0, *_block_frames(text[low:high], starts - low, lengths, records, indices, work))


def _block_frames(
    text: np.ndarray, start: np.ndarray, length: np.ndarray, record: np.ndarray, chunk: np.ndarray, work: Workspace
) -> tuple[Frames, Frames, np.ndarray]:
    """Stop-free frames, partial ones and their first bases of the chunks ``text[start : start + length]`` of letters ((b,) uint8), in order.

    ``record`` and ``chunk`` say which chunks these are.
    """
    margin = -(-(int(length.max()) + 3) // 8) * 8  # either side, so that whole rows can be read anywhere
    size = -(-(len(text) + 2 * margin) // 8) * 8
    work.reserve(size)
    letters, stops, other = work.letters[:size], work.stops[:size], work.other[:size]
    inside = slice(margin, margin + len(text))
    letters[:margin] = letters[inside.stop :] = 0
    letters[inside] = text
    words = letters.view(np.uint64)
    words &= np.uint64(0xDF * _EACH_BYTE)  # upper case, if all are letters
    same = other.view(bool)
    plain = sum(int(np.count_nonzero(np.equal(letters, base, out=same))) for base in b"ACGT")
    others = None if plain == len(text) else _other_letters(letters, stops.view(bool), same, inside)

    bases, codons = work.bases[:size].view(np.uint64), work.codons[:size]
    np.right_shift(words, np.uint64(1), out=bases)
    bases &= np.uint64(3 * _EACH_BYTE)
    _code_codons(bases, codons)
    if others is not None:
        for back in range(3):
            codons[others - back] = _SKIPPED_CODE
    _find_stops(codons, stops, other)
    kept_stops = stops.copy()
    row, frame, residues = _without_stop(stops, other, start + margin, length)

    # Both strands stand one after the other; on the second, a codon's code stands where its last base is.
    np.bitwise_or(codons.view(np.uint64), np.uint64(_REVERSE_BIT * _EACH_BYTE), out=other.view(np.uint64))
    _reverse(other, work.codons[size : 2 * size])
    _complement(words, bases, other.view(np.uint64))
    if others is not None:
        other[others] = letters[others]
    _reverse(other, work.letters[size : 2 * size])

    def texts(
        row: np.ndarray, frame: np.ndarray, offset: np.ndarray, codons: np.ndarray
    ) -> tuple[np.ndarray, list[bytes]]:
        """Places of the first base on both strands, and proteins; ``offset`` bases from the chunk's begin on the frame's."""
        reverse = frame >= 3
        first = np.where(reverse, 2 * size - margin - start[row] - length[row], margin + start[row]) + offset
        return first, _texts(work.codons, first + 2 * reverse, codons, 3, _RESIDUES)

    offset = _FRAME_OFFSETS[frame]
    first, proteins = texts(row, frame, offset, residues)
    if others is not None:
        begin = margin + start[row]
        touched = np.searchsorted(others, begin) < np.searchsorted(others, begin + length[row])
        for index in np.flatnonzero(touched).tolist():
            proteins[index] = proteins[index].replace(b"-", b"")
            residues[index] = len(proteins[index])
        kept = residues > 0
        proteins = [protein for protein in proteins if protein]
        row, frame, residues, first, offset = (x[kept] for x in (row, frame, residues, first, offset))
    nucleotides = _texts(work.letters, first, np.minimum(3 * residues + 1, length[row] - offset), 1)
    frames = Frames(record[row], chunk[row], frame, nucleotides, proteins)

    without = np.ones(len(start), dtype=bool)
    without[row] = False
    row = np.flatnonzero(without)
    if not len(row):
        return frames, Frames(row, row, row, [], []), row
    if others is not None:
        kept_stops[codons == _SKIPPED_CODE] = 3
    frame, residues, low = longest_stretches(kept_stops, start[row] + margin, length[row])
    long = residues >= MIN_CODONS
    row, frame, residues, low = row[long], frame[long], residues[long], low[long]
    offset = np.where(frame < 3, low, length[row] - low - 3 * residues)
    first, proteins = texts(row, frame, offset, residues)
    nucleotides = _texts(work.letters, first, np.minimum(3 * residues + 1, length[row] - offset), 1)
    return frames, Frames(record[row], chunk[row], frame, nucleotides, proteins), low


def _other_letters(letters: np.ndarray, valid: np.ndarray, scratch: np.ndarray, inside: slice) -> np.ndarray:
    """Positions (int64) in ``inside`` of letters other than A, C, G, T; ``valid`` and ``scratch`` are (n,) bool."""
    np.equal(letters, ord("A"), out=valid)
    for base in b"CGT":
        valid |= np.equal(letters, base, out=scratch)
    return np.flatnonzero(~valid[inside]) + inside.start


def _code_codons(bases: np.ndarray, codons: np.ndarray) -> None:
    """Code of the codon that starts at each position, (8 w,) uint8, of base codes packed in (w,) uint64."""
    single, words = bases.view(np.uint8), codons.view(np.uint64)
    np.left_shift(bases, np.uint64(2), out=words)
    codons[:-1] |= single[1:]
    words <<= np.uint64(2)
    codons[:-2] |= single[2:]


def _find_stops(codons: np.ndarray, stops: np.ndarray, scratch: np.ndarray) -> None:
    """Fill ``stops`` (uint8): bit 0, a stop starts here; bit 1, a stop of the other strand ends here."""
    words, more, same = stops.view(np.uint64), scratch.view(np.uint64), scratch.view(bool)
    np.equal(codons, _REVERSE_STOP_CODES[0], out=stops.view(bool))
    for code in _REVERSE_STOP_CODES[1:]:
        np.equal(codons, code, out=same)
        words |= more
    words <<= np.uint64(1)
    for code in _STOP_CODES:
        np.equal(codons, code, out=same)
        words |= more


def _without_stop(
    stops: np.ndarray, other: np.ndarray, start: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, frames and numbers of codons, (k,) int64 each, of the frames without a stop.

    ``stops`` is what ``_find_stops`` gives, overwritten, ``other`` scratch space of the same shape; ``start``
    and ``length`` ((n,) int64) are the chunks.
    """
    # The codons of one residue class, modulo 3, are those of a frame of either strand.
    residue = np.arange(3)[:, None]
    codons = np.maximum(length - residue, 0) // 3
    counts, first = codons.ravel(), (start + residue).ravel()
    # Two spans of 2**level codons, one from either end, cover a frame.
    level = np.frexp(counts.astype(np.float64))[1] - 1
    lowest, top = int(level.min()), int(level.max())
    found = np.full(len(counts), 3, dtype=np.uint8)  # both bits, which stay for a frame without a codon
    for power in range(top + 1):
        if power >= lowest:
            at = np.flatnonzero(level == power) if lowest < top else slice(None)
            low = first[at]
            found[at] = stops.take(low) | stops.take(low + 3 * (counts[at] - (1 << power)))
        if power < top:
            _or_shifted(stops, 3 << power, other)
            stops, other = other, stops
    forward = found.reshape(codons.shape)
    backward = forward[(length - residue) % 3, np.arange(len(length))]
    row, frame = np.nonzero((np.concatenate([forward, backward]).T & _STOP_BITS) == 0)
    return row, frame, codons[frame % 3, row]


def _or_shifted(source: np.ndarray, distance: int, out: np.ndarray) -> None:
    """``out[i] = source[i] | source[i + distance]``, as far as that goes; eight bytes at a time where the distance allows it."""
    if distance % 8 == 0:
        source, out, distance = source.view(np.uint64), out.view(np.uint64), distance // 8
    np.bitwise_or(source[:-distance], source[distance:], out=out[:-distance])


def _complement(words: np.ndarray, bases: np.ndarray, out: np.ndarray) -> None:
    """Complement of upper-case A, C, G, T; (w,) uint64 with a letter or code per byte; ``bases`` is overwritten."""
    # A ^ T is 0x15 and C ^ G is 0x04. Bit 0 of a base's code is set for C and G, and 0x15 ^ 0x11 is 0x04.
    bases &= np.uint64(_EACH_BYTE)
    np.left_shift(bases, np.uint64(4), out=out)
    out |= bases
    out ^= words
    out ^= np.uint64(0x15 * _EACH_BYTE)


def _reverse(source: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out`` with the bytes of ``source`` from the last to the first; both are (8 w,) uint8."""
    out.view(">u8")[:] = source.view("<u8")[::-1]


def _texts(
    source: np.ndarray, first: np.ndarray, length: np.ndarray, step: int, table: bytes | None = None
) -> list[bytes]:
    """``source[first :: step]``, ``length`` bytes of it, for each row of ``first``, by ``table`` if there is one."""
    if not len(first):
        return []
    columns = int(length.max())
    rows = as_strided(source, (len(source), columns), (1, step))[first]  # a copy
    if table is not None:
        rows = np.frombuffer(bytearray(rows).translate(table), dtype=np.uint8).reshape(rows.shape)
    for back in range(1, min(4, columns + 1)):  # few columns suffice for the frames of full chunks
        rows[length <= columns - back, columns - back] = 0
    short = np.flatnonzero(length < columns - 3)
    if len(short):
        mask = np.repeat(np.array([0xFF, 0], dtype=np.uint8), columns)
        rows[short] &= as_strided(mask, (columns + 1, columns), (1, 1))[columns - length[short]]
    return rows.view(f"S{columns}").ravel().tolist()  # trailing zeros are no part of such a string
