"""Shuffled sequences that keep what a composition is made of: codons, or dinucleotides.

A, C, G, T and U are shuffled; other letters stay at their place, and what lies between them is shuffled apart.
"""

from __future__ import annotations

import math
import re
from itertools import product

import numpy as np

LETTERS = b"ACGTU"
_RUN = re.compile(rb"[ACGTU]+")
_NUMBER = np.full(256, -1, np.int8)
_NUMBER[list(LETTERS)] = range(len(LETTERS))


def codon_shuffle(sequence: bytes, rng: np.random.Generator) -> bytes:
    """The codons of frame F1 in random order, in upper case; those with other letters, and bases after the last one, stay."""
    letters = np.frombuffer(sequence.upper(), np.uint8).copy()
    codons = letters[: len(letters) // 3 * 3].reshape(-1, 3)
    whole = (_NUMBER[codons] >= 0).all(axis=1)
    codons[whole] = rng.permutation(codons[whole])
    return letters.tobytes()


def dinucleotide_shuffle(sequence: bytes, rng: np.random.Generator) -> bytes:
    """One of all sequences with the same dinucleotides and ends, each as likely, in upper case; other letters stay.

    That is a random Euler path through the bases (Altschul and Erickson 1985), of each stretch between other letters.
    """
    return _RUN.sub(lambda run: _random_path(run[0], rng), sequence.upper())


def _random_path(run: bytes, rng: np.random.Generator) -> bytes:
    numbers = _NUMBER[np.frombuffer(run, np.uint8)]
    first, last = int(numbers[0]), int(numbers[-1])
    following = [numbers[1:][numbers[:-1] == letter] for letter in range(len(LETTERS))]
    counts = [np.bincount(after, minlength=len(LETTERS)).tolist() for after in following]
    exits = _last_exits(counts, last, rng)
    steps = []
    for letter, after in enumerate(following):
        if letter in exits:
            after = np.delete(after, int(np.argmax(after == exits[letter])))
        steps.append(iter([*rng.permutation(after).tolist(), *([exits[letter]] if letter in exits else [])]))
    path, at = bytearray([LETTERS[first]]), first
    for _ in range(len(run) - 1):
        at = next(steps[at])
        path.append(LETTERS[at])
    return bytes(path)


def _last_exits(counts: list[list[int]], last: int, rng: np.random.Generator) -> dict[int, int]:
    """Where the path goes on when it leaves each letter but the ``last`` for the last time.

    A path that uses every step exists only if these lead to the ``last`` letter from everywhere. Of such choices, which are few,
    each is as likely as it has ways: so none is tried in vain, however rare a dinucleotide is.

    Args:
        counts: how often each letter follows each.
        last: the last letter of the sequence.
    """
    left = [letter for letter, after in enumerate(counts) if sum(after) and letter != last]
    ways = [[to for to, count in enumerate(counts[letter]) if count and to != letter] for letter in left]
    chosen = [dict(zip(left, exits, strict=True)) for exits in product(*ways)]
    chosen = [exits for exits in chosen if all(_leads_to(last, letter, exits) for letter in left)]
    weights = np.array([math.prod(counts[letter][to] for letter, to in exits.items()) for exits in chosen], np.float64)
    return chosen[int(rng.choice(len(chosen), p=weights / weights.sum()))]


def _leads_to(last: int, letter: int, exits: dict[int, int]) -> bool:
    for _ in exits:
        letter = exits.get(letter, letter)
    return letter == last
