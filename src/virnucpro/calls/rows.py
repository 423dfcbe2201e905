"""The rows of all result tables for one block of a sample: the calls of its chunks and contigs.

Chunks follow from the lengths of the sequences and scores come in the same order, so the two streams are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from virnucpro.calls.blocks import Block, misplaced
from virnucpro.classifier.spec import CLASSES
from virnucpro.errors import StorageError
from virnucpro.result_tables import NO_OPEN_FRAME, NON_VIRAL, UNSCORED, VIRAL
from virnucpro.sequences.chunks import chunk_id, chunk_starts
from virnucpro.sequences.frames import FRAME_NAMES, frame_span

SCORE_DECIMALS = 9
"""Chunk and contig scores are rounded to this before they are compared, so that a call follows from the number printed
beside it. Two float32 scores that differ give chunk scores at least 1.4e-8 from 0.5."""

_FRAME_INDEX = {name: index for index, name in enumerate(FRAME_NAMES)}
_STRAND = {"F": "+", "R": "-"}


@dataclass
class Counts:
    """What was written."""

    records: int = 0
    chunks: int = 0
    frames: int = 0
    virus_frames: int = 0
    scored_chunks: int = 0
    viral_chunks: int = 0
    viral_records: int = 0
    unscored_records: int = 0

    def add(self, other: Counts) -> None:
        """Add another part's counts."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


class Part(NamedTuple):
    """What a block has of a contig that others have parts of, too."""

    record: str
    length: int
    chunks: int  # of the whole contig
    scores: list[float]  # of the scored chunks in this block
    ends: bool  # whether the contig's last chunk is among the block's


@dataclass
class BlockTables:
    """A block's rows: of each table as UTF-8, and what can't be written before its neighbours are known."""

    predictions: bytes = b""
    results: bytes = b""
    chunks: bytes = b""
    contigs: bytes = b""  # of those that are in no other block
    highest: list[tuple[str, bool]] = field(default_factory=list)  # sorted: a chunk's id, and the original's call
    opening: Part | None = None  # of a contig that an earlier block began
    closing: Part | None = None  # of a contig that begins here and that a later block ends
    counts: Counts = field(default_factory=Counts)  # without those of ``opening`` and ``closing``


class Contig:
    """The scores of a contig's chunks so far."""

    __slots__ = ("best", "chunks", "length", "record", "scored", "threshold", "total", "viral")

    def __init__(self, record: str, length: int, chunks: int, threshold: float):
        self.record, self.length, self.chunks, self.threshold = record, length, chunks, threshold
        self.scored = self.viral = 0
        self.total = self.best = 0.0

    def add(self, scores: Iterable[float]) -> None:
        """Add scores of the next chunks."""
        for score in scores:
            self.scored += 1
            self.viral += score >= self.threshold
            self.total += score  # one after the other: sum() rounds otherwise from Python 3.12 on
            self.best = max(self.best, score)

    def row(self, counts: Counts) -> str:
        """The row of contigs.tsv, which is counted."""
        counts.records += 1
        place = f"{self.record}\t{self.length}\t{self.chunks}\t{self.scored}\t{self.viral}"
        if not self.scored:
            counts.unscored_records += 1
            return f"{place}\t\t\t\t{UNSCORED}\n"
        mean = round(self.total / self.scored, SCORE_DECIMALS)
        is_viral = mean >= self.threshold
        counts.viral_records += is_viral
        share = round(self.viral / self.scored, SCORE_DECIMALS)
        return f"{place}\t{share}\t{mean}\t{self.best}\t{VIRAL if is_viral else NON_VIRAL}\n"


class _Chunk:
    """The current chunk: its coordinates, and the best scores of its frames so far."""

    __slots__ = ("best_frame", "frames", "id", "last", "length", "number", "others", "record", "start", "virus")

    def __init__(self, record: str, number: int, start: int, length: int):
        self.id, self.record, self.number = chunk_id(record, number - 1), record, number
        self.start, self.length = start, length
        self.frames, self.last, self.others, self.virus, self.best_frame = 0, -1, -1.0, -1.0, ""


class BlockRows:
    """Makes a block's rows: ``add`` its scores, then ``finish``. The rules of the calls are in ``tables.Tables``."""

    def __init__(self, block: Block, chunk_length: int, threshold: float):
        self._block, self._chunk_length, self._threshold = block, chunk_length, threshold
        self._predictions: list[str] = []
        self._results: list[str] = []
        self._chunk_rows: list[str] = []
        self._contigs: list[str] = []
        self._tables = BlockTables()
        self._chunks_to_fill = self._walk()
        self._chunk = next(self._chunks_to_fill, None)

    def add(self, ids: Sequence[str], scores: np.ndarray) -> None:
        """Add the next frames: n ids, in the order of chunks and of F1 … R3, and (n, 2) float32 softmax scores.

        Raises StorageError if a score isn't finite, or a frame is out of order or belongs to no chunk.
        """
        if scores.dtype != np.float32 or scores.shape != (len(ids), 2):
            raise ValueError(f"expected {len(ids)} float32 rows of 2, got {scores.dtype} {scores.shape}")
        finite = np.isfinite(scores).all(axis=1)
        if not finite.all():
            worst = ids[int(np.argmin(finite))]
            raise StorageError(f"{worst}: its score isn't a number. Delete the embeddings and run again.")
        others, virus = scores[:, 0], scores[:, 1]
        argmax = virus > others
        calls = argmax if self._threshold == 0.5 else virus > np.float32(self._threshold)
        columns = (others.tolist(), virus.tolist(), numbers(others), numbers(virus), argmax.tolist(), calls.tolist())
        for identifier, o, v, o_text, v_text, original, call in zip(ids, *columns, strict=True):
            frame = identifier[-2:]
            chunk = self._chunk_of(identifier)
            index = _FRAME_INDEX.get(frame, -1)
            if index <= chunk.last:
                raise StorageError(f"{identifier}: out of order in the embeddings. Delete them and run again.")
            chunk.last = index
            chunk.frames += 1
            if v > chunk.virus:
                chunk.virus, chunk.best_frame = v, frame
            if o > chunk.others:
                chunk.others = o
            low, high = _span(chunk.length, index)
            self._predictions.append(
                f"{identifier}\t{chunk.record}\t{chunk.number}\t{_STRAND[frame[0]]}\t{frame}\t{chunk.start + low + 1}\t"
                f"{chunk.start + high}\t{o_text}\t{v_text}\t{CLASSES[call]}\n"
            )
            self._results.append(f"{identifier}\t{CLASSES[original]}\t{o_text}\t{v_text}\n")
        self._tables.counts.frames += len(ids)
        self._tables.counts.virus_frames += int(calls.sum())

    def finish(self) -> BlockTables:
        """All rows, those that follow the last frame included."""
        while self._chunk is not None:
            self._chunk = next(self._chunks_to_fill, None)
        tables = self._tables
        tables.predictions, tables.results, tables.chunks, tables.contigs = (
            "".join(rows).encode() for rows in (self._predictions, self._results, self._chunk_rows, self._contigs)
        )
        tables.highest.sort()
        return tables

    def _chunk_of(self, identifier: str) -> _Chunk:
        """The chunk of a frame, after closing all chunks before it."""
        wanted = identifier[:-2]
        while self._chunk is not None and self._chunk.id != wanted:
            self._chunk = next(self._chunks_to_fill, None)
        if self._chunk is None:
            raise misplaced(identifier)
        return self._chunk

    def _walk(self) -> Iterator[_Chunk]:
        """Yield each chunk for ``add`` to fill with its frames, then make its row, and that of a contig after its last."""
        block, last = self._block, len(self._block.records) - 1
        for index, (record, length) in enumerate(block.records):
            first = block.first if index == 0 else 0
            if not first and 0 < length <= self._chunk_length:  # most reads: no need to ask, which is slower
                starts, chunks = [0], 1
            else:
                table = chunk_starts(length, self._chunk_length)
                starts, chunks = table[first : block.end if index == last else None].tolist(), len(table)
            scores: list[float] = []
            for number, start in enumerate(starts, first + 1):
                chunk = _Chunk(record, number, start, min(self._chunk_length, length - start))
                yield chunk
                score = self._close(chunk)
                if score is not None:
                    scores.append(score)
            ends = index < last or block.complete
            if first:
                self._tables.opening = Part(record, length, chunks, scores, ends)
            elif not ends:
                self._tables.closing = Part(record, length, chunks, scores, ends)
            else:
                contig = Contig(record, length, chunks, self._threshold)
                contig.add(scores)
                self._contigs.append(contig.row(self._tables.counts))

    def _close(self, chunk: _Chunk) -> float | None:
        place = f"{chunk.record}\t{chunk.id}\t{chunk.start + 1}\t{chunk.start + chunk.length}\t{chunk.frames}"
        counts = self._tables.counts
        counts.chunks += 1
        if not chunk.frames:
            self._chunk_rows.append(f"{place}\t\t\t{NO_OPEN_FRAME}\n")
            return None
        score = chunk_score(chunk.others, chunk.virus)
        viral = score >= self._threshold
        counts.scored_chunks += 1
        counts.viral_chunks += viral
        self._chunk_rows.append(f"{place}\t{score}\t{chunk.best_frame}\t{VIRAL if viral else NON_VIRAL}\n")
        self._tables.highest.append((chunk.id, chunk.virus >= chunk.others))
        return score


@cache
def _span(length: int, frame: int) -> tuple[int, int]:
    return frame_span(0, length, frame)


def numbers(values: np.ndarray) -> list[str]:
    """Each float32 as the shortest text that reads back as the same float32, as NumPy prints it."""
    return list(map(str, values))


def chunk_score(others: float, virus: float) -> float:
    """virus / (virus + others) of a chunk's largest scores, rounded.

    In float64 the rounding can't cross 0.5: for float32 scores, the result is ≥ 0.5 exactly if virus ≥ others.
    """
    return round(virus / (virus + others), SCORE_DECIMALS)
