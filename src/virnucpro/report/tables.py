"""The numbers on a sample's page, from contigs.tsv and chunks.tsv, in bounded memory."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virnucpro.result_tables import CHUNK_COLUMNS, CONTIG_COLUMNS, NO_OPEN_FRAME, VIRAL, read_rows

SCORE_BINS = 40
"""Bars of a score histogram."""
MAX_LISTED_CONTIGS = 100_000
"""Rows of the page's contig table; all are in contigs.tsv."""
MAX_LISTED_BYTES = 10 * 2**20
"""Size of those rows in the page."""
DRAWN_CONTIGS = 30
"""Number of contigs that are drawn with their chunks."""
MAX_BARS = 300
"""Bars of a drawn contig; if it has more chunks, a bar stands for the best of several neighbours."""

Row = dict[str, str]

_LENGTH, _VIRAL_CHUNKS, _MEAN_SCORE, _CALL = map(CONTIG_COLUMNS.index, ("length", "viral_chunks", "mean_score", "call"))


@dataclass
class Bar:
    """A bar of a drawn contig: one chunk, or several neighbours."""

    start: int
    end: int
    chunks: int = 0
    score: float | None = None  # the best; None without a stop-free frame
    viral: bool = False


@dataclass
class Drawn:
    """A contig and its bars, from its first base to its last."""

    row: Row
    bars: list[Bar]


@dataclass
class ContigFacts:
    """Contigs to list and to draw, and sums over contigs.tsv."""

    listed: list[Row] = field(default_factory=list)  # highest mean score first, unscored ones last
    drawn: list[Row] = field(default_factory=list)  # called viral, most viral chunks first
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    bases: Counter[str] = field(default_factory=Counter)  # by call


@dataclass
class ChunkFacts:
    """Sums over chunks.tsv, and the drawn contigs."""

    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    stop_free_frames: list[int] = field(default_factory=lambda: [0] * 7)  # numbers of chunks with 0 … 6 of them
    drawn: list[Drawn] = field(default_factory=list)


def read_contigs(path: Path) -> ContigFacts:
    """Summarise contigs.tsv; memory is bounded by ``MAX_LISTED_CONTIGS``.

    Raises StorageError for a table with other columns.
    """
    facts = ContigFacts()

    def counted() -> Iterator[Sequence[str]]:
        for row in read_rows(path, CONTIG_COLUMNS):
            facts.bases[row[_CALL]] += int(row[_LENGTH])
            if row[_MEAN_SCORE]:
                facts.scores[_bin(row[_MEAN_SCORE])] += 1
            yield row

    best = heapq.nlargest(MAX_LISTED_CONTIGS, counted(), key=lambda row: float(row[_MEAN_SCORE] or -1))
    left = MAX_LISTED_BYTES
    for row in best:
        left -= len("".join(row).encode()) + 3 * len(row)
        if left < 0:
            break
        facts.listed.append(dict(zip(CONTIG_COLUMNS, row, strict=True)))
    scored = (row for row in read_rows(path, CONTIG_COLUMNS) if row[_MEAN_SCORE])
    facts.drawn = [
        dict(zip(CONTIG_COLUMNS, row, strict=True)) for row in heapq.nlargest(DRAWN_CONTIGS, scored, key=_evidence)
    ]
    return facts


def read_chunks(path: Path, drawn: Iterable[Row]) -> ChunkFacts:
    """Summarise chunks.tsv, and make the bars of the contigs whose rows are ``drawn``."""
    facts = ChunkFacts()
    wanted: dict[str, dict[int, Bar]] = {}
    chosen = list(drawn)
    lengths = {row["record"]: (int(row["length"]), min(int(row["chunks"]), MAX_BARS)) for row in chosen}
    for record, _, first, last, frames, score, _, call in read_rows(path, CHUNK_COLUMNS):
        facts.stop_free_frames[int(frames)] += 1
        if call != NO_OPEN_FRAME:
            facts.scores[_bin(score)] += 1
        if record in lengths:
            length, parts = lengths[record]
            start, end = int(first), int(last)
            bars = wanted.setdefault(record, {})
            bar = bars.setdefault((start + end) // 2 * parts // (length + 1), Bar(start, end))
            bar.end = end
            bar.chunks += 1
            if score:
                bar.score = max(bar.score or 0.0, float(score))
                bar.viral |= call == VIRAL
    facts.drawn = [Drawn(row, list(wanted.get(row["record"], {}).values())) for row in chosen]
    return facts


def columns(listed: list[Row]) -> dict[str, list[Any]]:
    """Contig rows as the page's script reads them: a list per column; numbers are numbers, an empty cell is None."""
    text = ("record", "call")

    def numbers(name: str) -> list[Any]:
        return json.loads(f"[{','.join(row[name] or 'null' for row in listed)}]")

    return {name: [row[name] for row in listed] if name in text else numbers(name) for name in CONTIG_COLUMNS}


def _evidence(row: Sequence[str]) -> tuple[bool, int, float]:
    return row[_CALL] == VIRAL, int(row[_VIRAL_CHUNKS]), float(row[_MEAN_SCORE])


def _bin(score: str) -> int:
    return min(int(float(score) * SCORE_BINS), SCORE_BINS - 1)
