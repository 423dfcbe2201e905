"""Shuffled sequences keep what they are said to keep, and are a fair choice of those that do."""

from __future__ import annotations

import time
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.sequences.shuffle import codon_shuffle, dinucleotide_shuffle

sequences = st.text("ACGTUNacgtun", max_size=60).map(str.encode)
runs = st.lists(st.sampled_from(["A", "AC", "G" * 9, "TA", "N", "RR"]), max_size=12).map(
    lambda parts: "".join(parts).encode()
)


def pairs(sequence: bytes) -> Counter[bytes]:
    return Counter(sequence[at : at + 2] for at in range(len(sequence) - 1))


def codons(sequence: bytes) -> list[bytes]:
    return [sequence[at : at + 3] for at in range(0, len(sequence) - len(sequence) % 3, 3)]


@given(sequences | runs, st.integers(0, 99))
def test_dinucleotides_are_kept(sequence, seed):
    shuffled = dinucleotide_shuffle(sequence, np.random.default_rng(seed))
    upper = sequence.upper()
    assert pairs(shuffled) == pairs(upper)
    assert len(shuffled) == len(upper) and shuffled[:1] + shuffled[-1:] == upper[:1] + upper[-1:]
    assert [(at, letter) for at, letter in enumerate(shuffled) if letter not in b"ACGTU"] == [
        (at, letter) for at, letter in enumerate(upper) if letter not in b"ACGTU"
    ]


@given(sequences | runs, st.integers(0, 99))
def test_codons_are_kept(sequence, seed):
    shuffled, upper = codon_shuffle(sequence, np.random.default_rng(seed)), sequence.upper()
    assert Counter(codons(shuffled)) == Counter(codons(upper))
    assert len(shuffled) == len(upper) and shuffled[len(upper) // 3 * 3 :] == upper[len(upper) // 3 * 3 :]
    for before, after in zip(codons(upper), codons(shuffled), strict=True):
        assert before == after or set(before) <= set(b"ACGTU"), "a codon with another letter stays"


@pytest.mark.parametrize("shuffle", [codon_shuffle, dinucleotide_shuffle])
def test_chance_is_the_generators(shuffle):
    sequence = "".join(np.random.default_rng(1).choice(list("ACGT"), 3000)).encode()
    first, again, other = (shuffle(sequence, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again and len({first, other, sequence}) == 3
    assert sum(map(int.__eq__, first, sequence)) < 1200, "nothing stays in place but by chance"


def test_each_sequence_with_these_dinucleotides_is_as_likely():
    sequence = b"AGATAGTC"  # A and T are left for the last time to letters that follow them unequally often
    possible = {bytes(each) for each in permutations(sequence) if pairs(bytes(each)) == pairs(sequence)}
    rng = np.random.default_rng(0)
    found = Counter(dinucleotide_shuffle(sequence, rng) for _ in range(300 * len(possible)))
    assert found.keys() == {each for each in possible if each[:1] + each[-1:] == b"AC"} and len(found) > 2
    fewest, most = min(found.values()), max(found.values())
    expected = sum(found.values()) / len(found)
    assert 0.8 * expected < fewest and most < 1.2 * expected, found


@pytest.mark.parametrize("sequence", [b"A" * 100_000 + b"C", b"AC" * 50_000, b"A" * 50_000 + b"CGT" + b"T" * 50_000])
def test_repeats_take_no_longer_than_others(sequence):
    began = time.perf_counter()
    shuffled = dinucleotide_shuffle(sequence, np.random.default_rng(0))
    assert pairs(shuffled) == pairs(sequence)
    assert time.perf_counter() - began < 5
