"""Six-frame translation, against a plain implementation of the specification."""

import random
import re
from itertools import groupby
from pathlib import Path

import pytest
from Bio.Data import CodonTable
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.sequences import frames
from virnucpro.sequences.chunks import chunk_starts
from virnucpro.sequences.frames import FRAME_NAMES, frame_span, stop_free_frames
from virnucpro.sequences.read import read_fasta

PARITY = Path(__file__).parents[1] / "data" / "parity"
TABLE = CodonTable.unambiguous_dna_by_id[1]
CODONS = TABLE.forward_table | dict.fromkeys(TABLE.stop_codons, "*")


def plain_frames(sequence, chunk_length):
    """(chunk, frame, nucleotides, protein) of each open frame, letter by letter."""
    for index, start in enumerate(chunk_starts(len(sequence), chunk_length).tolist()):
        chunk = sequence[start : start + chunk_length].upper()
        reverse = chunk.translate(str.maketrans("ACGT", "TGCA"))[::-1]
        for frame in range(6):
            strand, k = (chunk, reverse)[frame // 3], frame % 3
            protein = "".join(CODONS.get(strand[i : i + 3], "") for i in range(k, len(strand) - 2, 3))
            if protein and "*" not in protein:
                yield index, frame, strand[k : k + 3 * len(protein) + 1], protein


def plain_partial_frames(sequence, chunk_length):
    """(chunk, frame, nucleotides, protein, low) of the longest stretch of each chunk without a stop-free frame."""
    with_frames = {row[0] for row in plain_frames(sequence, chunk_length)}
    for index, start in enumerate(chunk_starts(len(sequence), chunk_length).tolist()):
        chunk = sequence[start : start + chunk_length].upper()
        reverse = chunk.translate(str.maketrans("ACGT", "TGCA"))[::-1]
        best = (0,)
        for frame in range(6):
            strand, k = (chunk, reverse)[frame // 3], frame % 3
            protein = "".join(CODONS.get(strand[i : i + 3], "*") for i in range(k, len(strand) - 2, 3))
            for match in re.finditer("[^*]+", protein):
                if len(match[0]) > best[0]:
                    best = len(match[0]), frame, strand, k + 3 * match.start(), match[0]
        if index not in with_frames and best[0] >= 20:
            codons, frame, strand, first, protein = best
            low = first if frame < 3 else len(chunk) - first - 3 * codons
            yield index, frame, strand[first : first + 3 * codons + 1], protein, low


def found_frames(sequence, chunk_length):
    rows = []
    for batch in stop_free_frames([sequence.encode()], chunk_length):
        found = batch.frames
        texts = [[text.decode() for text in texts] for texts in (found.nucleotides, found.proteins)]
        rows += zip(found.chunk.tolist(), found.frame.tolist(), *texts, strict=True)
    return rows


LETTERS = ("ACGT", "ACG", "AC", "ACGTacgt", "ACGTN", "ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "N", "T")


@st.composite
def sequences(draw, longest=3000):
    """Random letters of one of several alphabets; hypothesis chooses length, alphabet and seed."""
    length = draw(st.one_of(st.integers(1, 40), st.integers(1, longest)))
    return "".join(random.Random(draw(st.integers(0, 2**32))).choices(draw(st.sampled_from(LETTERS)), k=length))


@settings(max_examples=150)
@given(sequences(), st.one_of(st.sampled_from([300, 500]), st.integers(3, 600)))
def test_same_as_the_plain_implementation(sequence, chunk_length):
    assert found_frames(sequence, chunk_length) == list(plain_frames(sequence, chunk_length))


@settings(max_examples=150)
@given(sequences(), st.one_of(st.sampled_from([300, 500]), st.integers(60, 600)))
def test_the_longest_stretches_are_the_plain_implementations(sequence, chunk_length):
    rows = []
    for batch in stop_free_frames([sequence.encode()], chunk_length):
        found = batch.partial
        texts = [[text.decode() for text in texts] for texts in (found.nucleotides, found.proteins)]
        rows += zip(found.chunk.tolist(), found.frame.tolist(), *texts, batch.partial_low.tolist(), strict=True)
    assert rows == list(plain_partial_frames(sequence, chunk_length))


def test_of_equal_stretches_the_first_is_taken():
    half = "TTAACTAATTAG" + "CTAATTAGC" * 12 + "TAACTAGTGA"
    palindrome = half + half.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    ((_, frame, nucleotides, _, low),) = plain_partial_frames(palindrome, 500)
    (batch,) = stop_free_frames([palindrome.encode()], 500)
    assert batch.partial.frame.tolist() == [frame] and frame < 3, "the other strand has it, too"
    assert batch.partial.nucleotides == [nucleotides.encode()] and batch.partial_low.tolist() == [low]


@settings(max_examples=40)
@given(st.lists(sequences(700), min_size=1, max_size=12), st.integers(3, 600), st.integers(1, 3000))
def test_batches_and_blocks_change_nothing(texts, chunk_length, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "BLOCK_BASES", block)
        batches = list(stop_free_frames((text.encode() for text in texts), chunk_length))
    for kind, plain in (("frames", plain_frames), ("partial", plain_partial_frames)):
        rows = []
        for batch in batches:
            found = getattr(batch, kind)
            assert (found.record >= batch.first_record).all()
            columns = [found.record.tolist(), found.chunk.tolist(), found.frame.tolist()]
            columns += [[text.decode() for text in texts] for texts in (found.nucleotides, found.proteins)]
            rows += zip(*columns, *([batch.partial_low.tolist()] if kind == "partial" else []), strict=True)
        assert rows == [(r, *row) for r, text in enumerate(texts) for row in plain(text, chunk_length)]
    assert sum(batch.chunks for batch in batches) == sum(len(chunk_starts(len(t), chunk_length)) for t in texts)


def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr(frames, "BLOCK_BASES", 1000)
    assert [batch.chunks for batch in stop_free_frames([b"T" * 5000], 500)] == [2, 2, 2, 2, 2]


def test_parity_with_the_original():
    named = {"nucleotide.fa": [], "protein.faa": []}
    chunked = []
    for record in read_fasta(PARITY / "input.fa"):
        for index, start in enumerate(chunk_starts(len(record.sequence), 500).tolist()):
            text = record.sequence[start : start + 500].decode()
            lines = "".join(text[i : i + 60] + "\n" for i in range(0, len(text), 60))
            chunked.append(f">{record.id}_chunk_{index + 1}\n{lines}")
        for batch in stop_free_frames([record.sequence], 500):
            found = batch.frames
            for row, (chunk, frame) in enumerate(zip(found.chunk, found.frame, strict=True)):
                name = f">{record.id}_chunk_{chunk + 1}{FRAME_NAMES[frame]}\n"
                named["nucleotide.fa"].append(f"{name}{found.nucleotides[row].decode()}\n")
                named["protein.faa"].append(f"{name}{found.proteins[row].decode()}\n")
    assert "".join(chunked) == (PARITY / "expected" / "input_chunked500.fa").read_text()
    for suffix, lines in named.items():
        assert "".join(lines) == (PARITY / "expected" / f"input_identified_{suffix}").read_text()


def test_skipped_codons_shorten_the_protein_and_the_text():
    rows = {row[1]: row[2:] for row in found_frames("GCTNNNGCTGCT", 500)}
    assert rows[0] == ("GCTNNNGCTG", "AAA")


def test_a_frame_has_one_base_more_than_its_codons():
    assert (0, 0, "GCTGCTG", "AA") in found_frames("GCTGCTGC", 500)


@given(st.integers(0, 1000), st.integers(1, 600), st.integers(0, 5))
def test_spans_hold_the_whole_codons(start, length, frame):
    low, high = frame_span(start, length, frame)
    assert start <= low <= high <= start + length
    assert high - low == max(0, length - frame % 3) // 3 * 3
    offset = low - start if frame < 3 else start + length - high
    assert offset == min(frame % 3, length)


def test_spans_of_both_strands_are_forward_coordinates():
    assert [frame_span(100, 11, frame) for frame in range(6)] == [
        (100, 109),
        (101, 110),
        (102, 111),
        (102, 111),
        (101, 110),
        (100, 109),
    ]


def test_chunks_are_in_order():
    rows = found_frames("".join(random.Random(3).choices("ACG", k=4000)), 300)
    assert [(chunk, frame) for chunk, frame, *_ in rows] == sorted((chunk, frame) for chunk, frame, *_ in rows)
    assert len(list(groupby(rows, key=lambda row: row[0]))) == 14
