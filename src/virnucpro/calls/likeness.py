"""What contigs are like: their category, and how far they are from the training data, of a whole block at once.

Sums are of multiples of 2⁻²⁰, which float64 adds without rounding, so they are the same however contigs are cut into blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from virnucpro.calls.rules import Rules
from virnucpro.classifier.scoring import Scores
from virnucpro.result_tables import AMBIGUOUS, NON_VIRAL, VIRAL

DISTANCE_DECIMALS, PROBABILITY_DECIMALS = 4, 6

_UNIT = 2.0**20


class Totals(NamedTuple):
    """Of m contigs, or of a block's parts of them."""

    frames: np.ndarray  # (m,) int64, partial ones included
    chunks: np.ndarray  # (m,) int64, scored ones
    categories: (
        np.ndarray | None
    )  # (m, c) float64, sum over frames of the log-probabilities; None without a category head
    distances: (
        np.ndarray | None
    )  # (m,) float64, sum over chunks of their frames' least distance; None without a reference

    def of(self, index: int) -> Totals:
        """Those of one contig, m = 1."""
        return Totals(*(None if each is None else each[index : index + 1].copy() for each in self))  # type: ignore[arg-type]

    def plus(self, other: Totals) -> Totals:
        """The sums of two parts of the same contigs."""
        pairs = zip(self, other, strict=True)
        return Totals(*(None if one is None or two is None else one + two for one, two in pairs))  # type: ignore[arg-type]


class FrameTotals:
    """Adds up a block's frames: ``add`` their scores, say which chunks and contigs they are of, then take the ``totals``."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._frames: list[Scores] = []
        self._partial: list[Scores] = []
        self._sizes: list[int] = []  # frames of each chunk that has any
        self._rows: list[int] = []  # partial frames, in the order of their chunks
        self._ends: list[tuple[int, int]] = []  # of each contig, places in these two

    def add(self, scores: Scores) -> None:
        """The next stop-free frames."""
        self._frames.append(scores)

    def add_partial(self, scores: Scores) -> int:
        """The next partial frames; returns the number of those before them."""
        before = sum(len(each.scores) for each in self._partial)
        self._partial.append(scores)
        return before

    def end_chunk(self, frames: int) -> None:
        """The next ``frames`` stop-free frames, at least one, are a chunk's."""
        self._sizes.append(frames)

    def end_partial(self, row: int) -> None:
        """The partial frame ``row`` is the next chunk's."""
        self._rows.append(row)

    def end_contig(self) -> None:
        """The chunks that ended since the last call, maybe none, are a contig's."""
        self._ends.append((len(self._sizes), len(self._rows)))

    def totals(self) -> Totals:
        """Of all contigs that ended, in order."""
        chunk_ends, partial_ends = np.array(self._ends, np.int64).reshape(-1, 2).T
        sizes, rows = np.array(self._sizes, np.int64), np.array(self._rows, np.int64)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        frame_ends = bounds[chunk_ends]
        categories = distances = None
        if self._rules.categories:
            of_frames, of_partial = (
                _joined([each.categories for each in scores], (0, len(self._rules.categories)))
                for scores in (self._frames, self._partial)
            )
            categories = _sums(of_frames, frame_ends) + _sums(of_partial[rows], partial_ends)
        if self._rules.limit is not None:
            of_frames, of_partial = (
                _joined([each.distances for each in scores], (0,)) for scores in (self._frames, self._partial)
            )
            least = np.minimum.reduceat(of_frames, bounds[:-1]) if len(sizes) else of_frames
            distances = _sums(least, chunk_ends) + _sums(of_partial[rows], partial_ends)
        frames, chunks = (np.diff(ends + partial_ends, prepend=0) for ends in (frame_ends, chunk_ends))
        return Totals(frames, chunks, categories, distances)


class Likeness:
    """Category and distance of m contigs.

    Attributes:
        distances: as shares of the reference's limit, rounded; 0 for a contig without a scored chunk. None without a reference.
    """

    def __init__(self, totals: Totals, rules: Rules) -> None:
        self.distances: list[float] | None = None
        self._categories = [name for name, _ in rules.categories]
        self._choices: dict[str, tuple[list[int], list[float]]] = {}
        if totals.distances is not None and rules.limit is not None:
            means = totals.distances / np.maximum(totals.chunks, 1) / rules.limit
            self.distances = [round(value, DISTANCE_DECIMALS) for value in means.tolist()]
        if totals.categories is None or not self._categories:
            return
        means = totals.categories / np.maximum(totals.frames, 1)[:, None]
        viral = np.array([is_viral for _, is_viral in rules.categories])
        for call, fits in ((VIRAL, viral), (NON_VIRAL, ~viral), (AMBIGUOUS, viral | True)):
            if fits.any():
                odds = np.exp(means[:, fits] - means[:, fits].max(axis=1, keepdims=True))
                best = odds.argmax(axis=1)
                self._choices[call] = (np.flatnonzero(fits)[best].tolist(), (1 / odds.sum(axis=1)).tolist())

    def category(self, index: int, call: str) -> tuple[str, str]:
        """The likeliest category of a scored contig that fits its call, and its probability among those; empty if none does."""
        if call not in self._choices:
            return "", ""
        best, probabilities = self._choices[call]
        return self._categories[best[index]], str(round(probabilities[index], PROBABILITY_DECIMALS))


def _joined(scores: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray:
    """All values, in float64 and in whole units: (n, …); ``shape`` is that of none."""
    found = [each for each in scores if each is not None]
    return np.rint(np.concatenate(found).astype(np.float64) * _UNIT) / _UNIT if found else np.zeros(shape)


def _sums(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of consecutive rows of (n, …), which end before ``ends`` (m,) → (m, …); the last end is n."""
    starts = np.concatenate([[0], ends[:-1]])
    filled = ends > starts  # reduceat gives the next row for an empty part
    sums = np.zeros((len(ends), *values.shape[1:]))
    if filled.any():
        sums[filled] = np.add.reduceat(values, starts[filled], axis=0)
    return sums
