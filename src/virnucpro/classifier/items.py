"""Result tables and labels → arrays of frames, chunks and contigs, with what is known of each: the levels of an evaluation."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from virnucpro.classifier.evidence import probability
from virnucpro.classifier.labels import Labelled
from virnucpro.classifier.ranking import Ranking
from virnucpro.classifier.weighted import group_weights
from virnucpro.errors import InputError
from virnucpro.result_tables import (
    AMBIGUOUS,
    CHUNK_COLUMNS,
    CONTIG_COLUMNS,
    FRAME,
    NON_VIRAL,
    PARTIAL,
    PREDICTION_COLUMNS,
    UNSCORED,
    VIRAL,
    read_rows,
)

LEVELS = {
    "frame": "stop-free frames",
    "chunk": "chunks with a stop-free frame",
    "chunk_partial": "chunks scored by a partial frame",
    "chunk_scored": "chunks with a score",
    "chunk_all": "all chunks; one without a score counts as 0",
    "contig": "records with a score",
    "contig_all": "all records; one without a score counts as 0",
}
CALLS = (VIRAL, AMBIGUOUS, NON_VIRAL, UNSCORED)
"""What ``Items.call`` and ``Level.call`` count through."""
_KINDS = (FRAME, PARTIAL, "")
_NO_LOGIT = -1000.0  # of what has no score: a probability of 0, and below all others


class Items:
    """m frames, chunks or contigs as they are read: of each its contig, call, kind, score, probability and logit."""

    def __init__(self) -> None:
        self._contig, self._call, self._kind = array("q"), array("b"), array("b")
        self._numbers = array("d")

    def add(self, contig: int, call: str, kind: str, score: str, likely: str, logit: str) -> None:
        """Add one; texts as in the tables, of numbers empty where there is none."""
        self._contig.append(contig)
        self._call.append(CALLS.index(call))
        self._kind.append(_KINDS.index(kind))
        self._numbers.extend(float(text) if text else np.nan for text in (score, likely, logit))

    @property
    def contig(self) -> np.ndarray:
        """(m,) int64, place of each one's contig among the contigs."""
        return np.frombuffer(self._contig, np.int64)

    @property
    def call(self) -> np.ndarray:
        """(m,) int8, place in ``CALLS``."""
        return np.frombuffer(self._call, np.int8)

    @property
    def numbers(self) -> np.ndarray:
        """(m, 3) float64: score, probability under the prior of the run, logit; NaN where there is none."""
        return np.frombuffer(self._numbers, np.float64).reshape(-1, 3)

    def of_kind(self, kind: str) -> np.ndarray:
        """(m,) bool: those scored by ``FRAME`` or ``PARTIAL``."""
        return np.frombuffer(self._kind, np.int8) == _KINDS.index(kind)


@dataclass(frozen=True)
class Tables:
    """n labelled contigs of all samples, in the order of the tables, and their chunks and frames.

    Attributes:
        sample, record: names, a list item each.
        viral: (n,) bool.
        group: (n,) int, place in ``groups``; a contig without a group is one of its own.
        category: (n,) int, place in ``categories``.
        length: (n,) int, bases.
        called: the category that the classifier named, empty where it named none.
        contigs, chunks, frames: their scores. A frame has no probability.
        chunk_start: (m,) int64, of the chunks, 0-based.
        calibrated: whether there are probabilities, and so logits of chunks and contigs that can be compared.
    """

    sample: list[str]
    record: list[str]
    viral: np.ndarray
    group: np.ndarray
    category: np.ndarray
    length: np.ndarray
    called: list[str]
    groups: list[str]
    categories: list[str]
    contigs: Items
    chunks: Items
    chunk_start: np.ndarray
    frames: Items
    calibrated: bool

    def level(self, name: str) -> Level:
        """All items of one of ``LEVELS``."""
        if name == "frame":
            return self._level(self.frames, np.ones(len(self.frames.contig), bool), calibrated=False)
        items = self.chunks if name.startswith("chunk") else self.contigs
        rows = {
            "chunk": items.of_kind(FRAME),
            "chunk_partial": items.of_kind(PARTIAL),
            "chunk_all": np.ones(len(items.contig), bool),
            "contig_all": np.ones(len(items.contig), bool),
        }.get(name, ~np.isnan(items.numbers[:, 0]))
        return self._level(items, rows, self.calibrated)

    def _level(self, items: Items, rows: np.ndarray, calibrated: bool) -> Level:
        score, likely, logit = items.numbers[rows].T
        rank = np.where(np.isnan(score), _NO_LOGIT, logit) if calibrated else np.nan_to_num(score)
        order = np.argsort(rank, kind="stable")
        contig = items.contig[rows][order]
        return Level(
            calibrated=calibrated,
            viral=self.viral[contig],
            group=self.group[contig],
            category=self.category[contig],
            length=self.length[contig],
            score=np.nan_to_num(likely if calibrated else score)[order],
            rank=rank[order],
            call=items.call[rows][order],
        )


@dataclass(frozen=True)
class Level:
    """n items of a level, or some of them, by ``rank`` from the lowest up.

    Attributes:
        calibrated: whether ``score`` is a probability.
        viral, group, category, length: of the item's contig, (n,) as in ``Tables``.
        score: (n,) float, 0 … 1: the probability as printed, else the score; 0 where there is none.
        rank: (n,) float, the logit, else the score; the lowest of all where there is none.
        call: (n,) int8, place in ``CALLS``.
    """

    calibrated: bool
    viral: np.ndarray
    group: np.ndarray
    category: np.ndarray
    length: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    call: np.ndarray

    def part(self, rows: np.ndarray) -> Level:
        """Those of (n,) bool rows."""
        of = (self.viral, self.group, self.category, self.length, self.score, self.rank, self.call)
        return Level(self.calibrated, *(each[rows] for each in of))

    @property
    def both(self) -> bool:
        """Whether there are items of both classes."""
        return bool(0 < self.viral.sum() < len(self.viral))

    @cached_property
    def weights(self) -> np.ndarray:
        """(n,) float: classes, the categories in them and the groups in those weigh the same."""
        return group_weights(self.viral, self.group, self.category)

    @cached_property
    def ranking(self) -> Ranking:
        """By ``rank``."""
        return Ranking(self.viral, self.rank)

    @property
    def even(self) -> np.ndarray:
        """(n,) float, 0 … 1: the probability where both classes are equally frequent, else the score."""
        return probability(self.rank, 0.5) if self.calibrated else self.score

    def groups(self, viral: bool) -> int:
        """How many groups one class has."""
        return len(np.unique(self.group[self.viral == viral]))


def read_tables(samples: Sequence[Labelled], only: Collection[tuple[str, str]] | None = None) -> Tables:
    """Read the tables of labelled samples; only some (sample, record), if given.

    Raises:
        InputError: a record has no label, no record is left, or only some of the samples have probabilities.
        StorageError: a table is missing, or of another version.
    """
    sample_of: list[str] = []
    record_of: list[str] = []
    called: list[str] = []
    viral, group, category, length = bytearray(), array("q"), array("q"), array("q")
    groups: dict[str, int] = {}
    categories: dict[str, int] = {}
    contigs, chunks, frames = Items(), Items(), Items()
    starts = array("q")
    first: dict[bool, Path] = {}  # whether calibrated → a folder that is
    of_contigs = ("record", "length", "category", "call", "mean_score", "probability", "logit")
    for sample in samples:
        place: dict[str, int] = {}
        for record, bases, named, *said in read_rows(sample.folder / "contigs.tsv", CONTIG_COLUMNS, of_contigs):
            if only is not None and (sample.name, record) not in only:
                continue
            label = sample.label_of(record)
            place[record] = number = len(viral)
            sample_of.append(sample.name)
            record_of.append(record)
            called.append(named)
            viral.append(label.viral)
            # No name of a group has a tab.
            group.append(groups.setdefault(label.group or f"{sample.name}\t{record}", len(groups)))
            category.append(categories.setdefault(label.category, len(categories)))
            length.append(int(bases))
            call, score, likely, logit = said
            contigs.add(number, call, "", score, likely, logit)
            if score:
                first.setdefault(bool(likely), sample.folder)
        of_chunks = ("record", "start", "call", "kind", "score", "probability", "logit")
        for record, start, *said in read_rows(sample.folder / "chunks.tsv", CHUNK_COLUMNS, of_chunks):
            if record in place:
                chunks.add(place[record], *said)
                starts.append(int(start) - 1)
        of_frames = ("record", "score_virus", "label")
        for record, score, word in read_rows(sample.folder / "predictions.tsv", PREDICTION_COLUMNS, of_frames):
            if record in place:
                frames.add(place[record], VIRAL if word == "virus" else NON_VIRAL, FRAME, score, "", "")
    if not viral:
        raise InputError("There is nothing to evaluate: no record of these samples is in the list.")
    if len(first) == 2:
        raise InputError(
            f"{first[True]} has probabilities, {first[False]} has none: their classifiers differ. Predict both with one."
        )
    return Tables(
        sample=sample_of,
        record=record_of,
        viral=np.frombuffer(bytes(viral), np.bool_),
        group=np.frombuffer(group, np.int64),
        category=np.frombuffer(category, np.int64),
        length=np.frombuffer(length, np.int64),
        called=called,
        groups=list(groups),
        categories=list(categories),
        contigs=contigs,
        chunks=chunks,
        chunk_start=np.frombuffer(starts, np.int64),
        frames=frames,
        calibrated=True in first,
    )
