"""The numbers on a sample's page, from contigs.tsv and chunks.tsv, in bounded memory."""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virnucpro.calls.rules import is_unusual
from virnucpro.result_tables import (
    AMBIGUOUS,
    CHUNK_COLUMNS,
    CONTIG_COLUMNS,
    NON_VIRAL,
    PARTIAL,
    UNSCORED,
    VIRAL,
    read_rows,
)

SCORE_BINS = 40
"""Bars of a score histogram."""
MAX_LISTED_CONTIGS = 100_000
"""Rows of the page's contig table; all are in contigs.tsv."""
MAX_LISTED_BYTES = 15 * 2**20
"""Size of those rows in the page."""
MAX_AMBIGUOUS = 50
"""Ambiguous contigs that the page says something of."""
DRAWN_CONTIGS = 30
"""Number of contigs that are drawn with their chunks."""
MAX_BARS = 300
"""Bars of a drawn contig; if it has more chunks, a bar stands for the best of several neighbours."""

Row = dict[str, str]

_LENGTH, _VIRAL_CHUNKS, _MEAN_SCORE, _CALL, _LOGIT, _PROBABILITY, _Q_VALUE, _REASON = map(
    CONTIG_COLUMNS.index, ("length", "viral_chunks", "mean_score", "call", "logit", "probability", "q_value", "reason")
)
_DISTANCE, _CATEGORY = map(CONTIG_COLUMNS.index, ("distance", "category"))


class Histogram:
    """Numbers of items by call, in ``SCORE_BINS`` equal parts of 0 to 1."""

    def __init__(self) -> None:
        self.counts = {call: [0] * SCORE_BINS for call in (VIRAL, AMBIGUOUS, NON_VIRAL)}

    def add(self, call: str, value: float) -> None:
        """Count an item with a value from 0 to 1."""
        self.counts[call][min(int(value * SCORE_BINS), SCORE_BINS - 1)] += 1

    @property
    def totals(self) -> list[int]:
        """Whatever the call."""
        return [sum(each) for each in zip(*self.counts.values(), strict=True)]


@dataclass
class Bar:
    """A bar of a drawn contig: one chunk, or several neighbours."""

    start: int
    end: int
    chunks: int = 0
    score: float | None = None  # the best, or probability at even odds, if there is one
    partial: bool = False  # whether that is of a chunk without a stop-free frame
    viral: bool = False


@dataclass
class Drawn:
    """A contig and its bars, from its first base to its last."""

    row: Row
    bars: list[Bar]
    regions: list[Row] = field(default_factory=list)  # its rows of regions.tsv


@dataclass
class ContigFacts:
    """Contigs to list and to draw, and sums over contigs.tsv."""

    listed: list[Row] = field(default_factory=list)  # highest probability or mean score first, unscored ones last
    drawn: list[Row] = field(default_factory=list)  # called viral, then ambiguous, most viral chunks first
    wanted: list[Row] = field(default_factory=list)  # those that were asked for by name, in that order
    ambiguous: list[Row] = field(default_factory=list)  # most probable first
    scores: Histogram = field(default_factory=Histogram)
    bases: Counter[str] = field(default_factory=Counter)  # by call
    unscored: Counter[str] = field(default_factory=Counter)  # contigs, by reason
    highest_q: float | None = None  # of those called viral; None if they have no q-values
    categories: Counter[str] = field(default_factory=Counter)  # of those called viral; none without a category head
    unusual: int = 0  # of those called viral, how many are unlike what the classifier was trained on


@dataclass
class ChunkFacts:
    """Sums over chunks.tsv, and the drawn contigs."""

    scores: Histogram = field(default_factory=Histogram)
    stop_free_frames: list[int] = field(default_factory=lambda: [0] * 7)  # numbers of chunks with 0 … 6 of them
    unscored: Counter[str] = field(default_factory=Counter)  # chunks, by reason
    drawn: list[Drawn] = field(default_factory=list)


def read_contigs(path: Path, by_score: bool, wanted: Sequence[str] = ()) -> ContigFacts:
    """Summarise contigs.tsv; memory is bounded by ``MAX_LISTED_CONTIGS`` and the contigs that are ``wanted`` by name.

    Contigs are ordered and counted by mean score if they were called ``by_score``, else by probability. Raises
    StorageError for a table with other columns.
    """
    facts = ContigFacts()
    named: dict[str, Row] = {record: {} for record in wanted}
    shown, order = (_MEAN_SCORE, _MEAN_SCORE) if by_score else (_PROBABILITY, _LOGIT)  # a logit is never rounded to 1

    def counted() -> Iterator[Sequence[str]]:
        for row in read_rows(path, CONTIG_COLUMNS):
            call = row[_CALL]
            facts.bases[call] += int(row[_LENGTH])
            if call == UNSCORED:
                facts.unscored[row[_REASON]] += 1
            else:
                facts.scores.add(call, float(row[shown]))
                if call == VIRAL:
                    if row[_Q_VALUE]:
                        facts.highest_q = max(facts.highest_q or 0.0, float(row[_Q_VALUE]))
                    if row[_CATEGORY]:
                        facts.categories[row[_CATEGORY]] += 1
                    facts.unusual += is_unusual(float(row[_DISTANCE] or 0))
            if row[0] in named:
                named[row[0]] = _named(row)
            yield row

    def evidence(row: Sequence[str]) -> float:
        return float(row[order]) if row[order] else -math.inf

    def viral_first(row: Sequence[str]) -> tuple[bool, bool, int, float]:
        return row[_CALL] == VIRAL, row[_CALL] == AMBIGUOUS, int(row[_VIRAL_CHUNKS]), float(row[order])

    left = MAX_LISTED_BYTES
    for row in heapq.nlargest(MAX_LISTED_CONTIGS, counted(), key=evidence):
        left -= len("".join(row).encode()) + 3 * len(row)
        if left < 0:
            break
        facts.listed.append(_named(row))
    facts.wanted = list(filter(None, named.values()))
    scored = (row for row in read_rows(path, CONTIG_COLUMNS) if row[_CALL] != UNSCORED)
    facts.drawn = list(map(_named, heapq.nlargest(DRAWN_CONTIGS, scored, key=viral_first)))
    if facts.bases[AMBIGUOUS]:
        ambiguous = (row for row in read_rows(path, CONTIG_COLUMNS) if row[_CALL] == AMBIGUOUS)
        facts.ambiguous = list(map(_named, heapq.nlargest(MAX_AMBIGUOUS, ambiguous, key=evidence)))
    return facts


def read_chunks(path: Path, drawn: Iterable[Row], by_score: bool) -> ChunkFacts:
    """Summarise chunks.tsv, and make the bars of the contigs whose rows are ``drawn``.

    Chunks are counted and drawn by score if they were called ``by_score``, else by probability at even odds.
    """
    facts = ChunkFacts()
    wanted: dict[str, dict[int, Bar]] = {}
    chosen = list(drawn)
    lengths = {row["record"]: (int(row["length"]), min(int(row["chunks"]), MAX_BARS)) for row in chosen}
    columns = ("record", "start", "end", "open_frames", "score", "call", "kind", "logit", "reason")
    for record, first, last, frames, score, call, kind, logit, reason in read_rows(path, CHUNK_COLUMNS, columns):
        facts.stop_free_frames[int(frames)] += 1
        value = None
        if call == UNSCORED:
            facts.unscored[reason] += 1
        else:
            value = float(score) if by_score else _at_even_odds(float(logit))
            facts.scores.add(call, value)
        if record in lengths:
            length, parts = lengths[record]
            start, end = int(first), int(last)
            bars = wanted.setdefault(record, {})
            bar = bars.setdefault((start + end) // 2 * parts // (length + 1), Bar(start, end))
            bar.end = end
            bar.chunks += 1
            if value is not None:
                if bar.score is None or value > bar.score:
                    bar.score, bar.partial = value, kind == PARTIAL
                bar.viral |= call == VIRAL
    facts.drawn = [Drawn(row, list(wanted.get(row["record"], {}).values())) for row in chosen]
    return facts


def columns(listed: list[Row]) -> dict[str, list[Any]]:
    """Contig rows as the page's script reads them: a list per column; numbers are numbers, an empty cell is None."""
    text = ("record", "call", "reason", "category")

    def numbers(name: str) -> list[Any]:
        return json.loads(f"[{','.join(row[name] or 'null' for row in listed)}]")

    return {name: [row[name] for row in listed] if name in text else numbers(name) for name in CONTIG_COLUMNS}


def _named(row: Sequence[str]) -> Row:
    return dict(zip(CONTIG_COLUMNS, row, strict=True))


def _at_even_odds(logit: float) -> float:
    """Probability if half of everything were viral."""
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
