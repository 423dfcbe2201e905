"""Composition of sequences, against a plain implementation."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.sequences import composition
from virnucpro.sequences.composition import compositions

WORD, WINDOW = 8, 1024  # as docs/outputs.md says


def plain(sequence):
    """The same three shares, letter by letter."""
    text = sequence.decode().upper()
    bases = [letter for letter in text if letter in "ACGT"]
    words = [text[at : at + WORD] for at in range(len(text) - WORD + 1)]
    distinct = sum(len(set(words[at : at + WINDOW])) for at in range(0, len(words), WINDOW))
    gc = sum(letter in "CG" for letter in bases) / len(bases) if bases else 0.0
    other = 1 - len(bases) / len(text) if text else 0.0
    return gc, other, 1 - distinct / len(words) if words else 0.0


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2500), st.sampled_from(["ACGT", "acgT", "AT", "A"])), max_size=8), st.integers()
)
def test_same_as_the_plain_implementation(wanted, seed):
    rng = random.Random(seed)
    sequences = ["".join(rng.choices(letters, k=length)).encode() for length, letters in wanted]
    found = compositions(sequences)
    assert found.shape == (len(sequences), 3)
    for row, sequence in zip(found.tolist(), sequences, strict=True):
        assert row == pytest.approx(plain(sequence), abs=1e-12)


def test_other_letters_are_counted_and_no_gc():
    assert compositions([b"ACGTNN"])[0, :2].tolist() == pytest.approx([0.5, 1 / 3])
    assert compositions([b"NNNN"])[0, :2].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("unit", [1, 3, 45, 150])
def test_tandem_repeats_are_of_low_complexity_and_random_letters_are_not(unit):
    rng = random.Random(unit)
    piece = "".join(rng.choices("ACGT", k=unit))
    repeat = (piece * (3000 // unit)).encode()
    ordinary = "".join(rng.choices("ACGT", k=3000)).encode()
    low, high = compositions([ordinary, repeat])[:, 2]
    assert low < 0.02 and high > 0.8


def test_a_long_sequence_is_read_in_slices(monkeypatch):
    sequence = "".join(random.Random(0).choices("ACGT", k=9 * WINDOW + 100)).encode()
    whole = compositions([sequence, b"ACGT"])
    monkeypatch.setattr(composition, "_SLICE", 4 * WINDOW)
    assert np.allclose(compositions([sequence, b"ACGT"]), whole, atol=1e-3)
    assert compositions([sequence])[0, 2] == whole[0, 2], "windows are the same"
