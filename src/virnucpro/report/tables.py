"""The numbers of a sample's page: from contigs.tsv and chunks.tsv, in bounded memory."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virnucpro.result_tables import CHUNK_COLUMNS, CONTIG_COLUMNS, NO_OPEN_FRAME, VIRAL, read_rows

BINS = 40
"""Bars of a score distribution."""
LISTED_CONTIGS = 100_000
"""Rows of the page's contig table at most; all are in contigs.tsv."""
LISTED_BYTES = 10 * 2**20
"""Bytes that those rows may take in the page."""
DRAWN_CONTIGS = 30
"""Contigs that are drawn with their chunks."""
COLUMNS = 300
"""Bars of a drawn contig at most; each then stands for the best chunk of its part."""

Row = dict[str, str]

_LENGTH, _VIRAL_CHUNKS, _MEAN_SCORE, _CALL = map(CONTIG_COLUMNS.index, ("length", "viral_chunks", "mean_score", "call"))


@dataclass
class Bar:
    """Chunks of one part of a drawn contig."""

    start: int
    end: int
    chunks: int = 0
    score: float | None = None  # the best; None without an open frame
    viral: bool = False


@dataclass
class Drawn:
    """A contig with its chunks along it."""

    row: Row
    bars: list[Bar]


@dataclass
class ContigFacts:
    """What contigs.tsv says as a whole."""

    listed: list[Row] = field(default_factory=list)  # highest mean score first, unscored ones last
    drawn: list[Row] = field(default_factory=list)  # called viral, most viral chunks first
    scores: list[int] = field(default_factory=lambda: [0] * BINS)
    bases: Counter[str] = field(default_factory=Counter)  # by call


@dataclass
class ChunkFacts:
    """What chunks.tsv says as a whole."""

    scores: list[int] = field(default_factory=lambda: [0] * BINS)
    open_frames: list[int] = field(default_factory=lambda: [0] * 7)  # chunks with 0 … 6 of them
    drawn: list[Drawn] = field(default_factory=list)


def read_contigs(path: Path) -> ContigFacts:
    """Summarise contigs.tsv; memory is bounded by ``LISTED_CONTIGS``.

    Raises StorageError for a table with other columns.
    """
    facts = ContigFacts()

    def counted() -> Iterator[list[str]]:
        for row in read_rows(path, CONTIG_COLUMNS):
            facts.bases[row[_CALL]] += int(row[_LENGTH])
            if row[_MEAN_SCORE]:
                facts.scores[_bin(row[_MEAN_SCORE])] += 1
            yield row

    best = heapq.nlargest(LISTED_CONTIGS, counted(), key=lambda row: float(row[_MEAN_SCORE] or -1))
    left = LISTED_BYTES
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
    """Summarise chunks.tsv, and lay the chunks of the contigs in ``drawn`` along them."""
    facts = ChunkFacts()
    wanted: dict[str, dict[int, Bar]] = {}
    chosen = list(drawn)
    lengths = {row["record"]: (int(row["length"]), min(int(row["chunks"]), COLUMNS)) for row in chosen}
    for record, _, first, last, open_frames, score, _, call in read_rows(path, CHUNK_COLUMNS):
        facts.open_frames[int(open_frames)] += 1
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
    """Contig rows as the page's script reads them: a list per column, numbers as numbers, None for no value."""
    text = ("record", "call")

    def numbers(name: str) -> list[Any]:
        return json.loads(f"[{','.join(row[name] or 'null' for row in listed)}]")

    return {name: [row[name] for row in listed] if name in text else numbers(name) for name in CONTIG_COLUMNS}


def _evidence(row: list[str]) -> tuple[bool, int, float]:
    return row[_CALL] == VIRAL, int(row[_VIRAL_CHUNKS]), float(row[_MEAN_SCORE])


def _bin(score: str) -> int:
    return min(int(float(score) * BINS), BINS - 1)
