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
from virnucpro.calls.likeness import PROBABILITY_DECIMALS, FrameTotals, Likeness, Totals
from virnucpro.calls.rules import Rules
from virnucpro.classifier.scoring import Scores
from virnucpro.classifier.spec import CLASSES
from virnucpro.errors import StorageError
from virnucpro.result_tables import AMBIGUOUS, FRAME, NO_FRAME, NO_STRETCH, NON_VIRAL, PARTIAL, UNSCORED, VIRAL
from virnucpro.sequences.chunks import chunk_id, chunk_starts
from virnucpro.sequences.frames import FRAME_NAMES, frame_span
from virnucpro.sequences.records import RecordRow

SCORE_DECIMALS = 9
"""Chunk and contig scores are rounded to this before they are compared, so that a call follows from the number printed
beside it. Two float32 scores that differ give chunk scores at least 1.4e-8 from 0.5."""
LOGIT_DECIMALS = 4
Q_VALUE = "\0"
"""Stands in a contig's row for its q-value, which follows from all contigs."""
ALTERNATIVE = "\1"
"""In the row of a viral contig whose q-value may make it ambiguous: the category, this, and the category it has then."""

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
    partial_chunks: int = 0  # of these, scored by a partial frame
    viral_chunks: int = 0
    viral_records: int = 0
    ambiguous_records: int = 0
    unscored_records: int = 0

    def add(self, other: Counts) -> None:
        """Add another part's counts."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


class Scored(NamedTuple):
    """A scored chunk."""

    score: float
    logit: float
    viral: bool


class Part(NamedTuple):
    """What a block has of a contig that others have parts of, too."""

    record: RecordRow
    chunks: int  # of the whole contig
    scored: list[Scored]  # in this block
    ends: bool  # whether the contig's last chunk is among the block's
    totals: Totals | None = None  # of the block's frames of it; known when the block is finished


@dataclass
class BlockTables:
    """A block's rows: of each table as UTF-8, and what can't be written before its neighbours are known."""

    predictions: bytes = b""
    results: bytes = b""
    chunks: bytes = b""
    chunk_scores: bytes = b""
    contigs: bytes = b""  # of those that are in no other block, with ``Q_VALUE``
    logits: list[float] = field(default_factory=list)  # of those contigs that have one, in their order
    highest: list[tuple[str, bool]] = field(default_factory=list)  # sorted: a chunk's id, and the original's call
    opening: Part | None = None  # of a contig that an earlier block began
    closing: Part | None = None  # of a contig that begins here and that a later block ends
    counts: Counts = field(default_factory=Counts)  # without those of ``opening`` and ``closing``


class Contig:
    """The scores of a contig's chunks so far."""

    __slots__ = ("best", "chunks", "evidence", "record", "rules", "scored", "total", "viral")

    def __init__(self, record: RecordRow, chunks: int, rules: Rules):
        self.record, self.chunks, self.rules = record, chunks, rules
        self.scored = self.viral = 0
        self.total = self.best = self.evidence = 0.0

    def add(self, scored: Iterable[Scored]) -> None:
        """Add the next chunks that were scored."""
        for score, logit, viral in scored:
            self.scored += 1
            self.viral += viral
            self.total += score  # one after the other: sum() rounds otherwise from Python 3.12 on
            self.evidence += logit
            self.best = max(self.best, score)

    def row(self, counts: Counts, likeness: Likeness, index: int = 0) -> tuple[str, float | None]:
        """The row of contigs.tsv, which is counted, and the contig's logit, if it has one; ``likeness`` has its at ``index``."""
        counts.records += 1
        record, rules = self.record, self.rules
        place = f"{record.id}\t{record.length}\t{self.chunks}\t{self.scored}\t{self.viral}"
        share = round(self.scored / self.chunks, SCORE_DECIMALS) if self.chunks else 0.0
        end = f"{share}\t{record.low_complexity}\t{record.gc}\t{record.n_share}"
        if why := rules.unscored(record.length, self.scored):
            counts.unscored_records += 1
            return f"{place}\t\t\t\t{UNSCORED}\t\t\t\t{why}\t{end}\t\t\t\n", None
        mean = round(self.total / self.scored, SCORE_DECIMALS)
        logit = None
        if rules.calibration is not None:
            logit = round(float(rules.calibration.contig_logit(self.evidence, self.scored)), LOGIT_DECIMALS)
        distance = likeness.distances[index] if likeness.distances else None
        call, reason = rules.contig_call(mean, logit, self.scored, record.low_complexity, record.n_share, distance)
        category, likely = likeness.category(index, call)
        if call == VIRAL and rules.fdr is not None and not rules.by_threshold:
            category, likely = map(
                ALTERNATIVE.join, zip((category, likely), likeness.category(index, AMBIGUOUS), strict=True)
            )
        counts.viral_records += call == VIRAL
        counts.ambiguous_records += call == AMBIGUOUS
        said = (
            "\t\t" if logit is None else f"{logit}\t{round(rules.probability(logit), PROBABILITY_DECIMALS)}\t{Q_VALUE}"
        )
        share_viral = round(self.viral / self.scored, SCORE_DECIMALS)
        end += f"\t{'' if distance is None else distance}\t{category}\t{likely}\n"
        return f"{place}\t{share_viral}\t{mean}\t{self.best}\t{call}\t{said}\t{reason}\t{end}", logit


class _Partial(NamedTuple):
    """The partial frame of a chunk: its place among the block's, first and last base in the chunk, scores."""

    row: int
    frame: str
    first: int
    last: int
    others: float
    virus: float


class _Chunk:
    """The current chunk: its coordinates, and the best scores of its frames so far."""

    __slots__ = ("best_frame", "frames", "id", "last", "length", "number", "others", "record", "start", "virus")

    def __init__(self, record: str, number: int, start: int, length: int):
        self.id, self.record, self.number = chunk_id(record, number - 1), record, number
        self.start, self.length = start, length
        self.frames, self.last, self.others, self.virus, self.best_frame = 0, -1, -1.0, -1.0, ""


class BlockRows:
    """Makes a block's rows: ``add`` its scores, then ``finish``. The rules of the calls are in ``tables.Tables``."""

    def __init__(self, block: Block, rules: Rules, scores_partial: bool):
        self._block, self._rules = block, rules
        self._why_unscored = NO_STRETCH if scores_partial else NO_FRAME
        self._partial: dict[str, _Partial] = {}  # by chunk
        self._predictions: list[str] = []
        self._results: list[str] = []
        self._chunk_rows: list[str] = []
        self._chunk_scores: list[str] = []
        self._contigs: list[Contig | None] = []  # None: in another block, too
        self._totals = FrameTotals(rules)
        self._tables = BlockTables()
        self._chunks_to_fill = self._walk()
        self._chunk = next(self._chunks_to_fill, None)

    def add(self, ids: Sequence[str], found: Scores) -> None:
        """Add the next frames: n ids, in the order of chunks and of F1 … R3, and their scores.

        Raises StorageError if a score isn't finite, or a frame is out of order or belongs to no chunk.
        """
        _check(ids, found)
        self._totals.add(found)
        others, virus = found.scores[:, 0], found.scores[:, 1]
        argmax, threshold = virus > others, self._rules.score_threshold
        calls = argmax if threshold == 0.5 else virus > np.float32(threshold)
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

    def add_partial(self, ids: Sequence[str], found: Scores) -> None:
        """Add partial frames of the block, before all others: n ids and their scores."""
        _check(ids, found)
        first_row = self._totals.add_partial(found)
        rows = enumerate(zip(ids, found.scores.tolist(), strict=True), first_row)
        for row, (identifier, (others, virus)) in rows:
            frame, _, span = identifier.rpartition(":")
            first, _, last = span.partition("-")
            self._partial[frame[:-2]] = _Partial(row, frame[-2:], int(first), int(last), others, virus)

    def finish(self) -> BlockTables:
        """All rows, those that follow the last frame included.

        Raises StorageError for a partial frame of a chunk that isn't the block's, or that has stop-free frames.
        """
        while self._chunk is not None:
            self._chunk = next(self._chunks_to_fill, None)
        for chunk, partial in self._partial.items():
            raise misplaced(f"{chunk}{partial.frame}")
        tables = self._tables
        tables.predictions, tables.results, tables.chunks, tables.chunk_scores, tables.contigs = (
            "".join(rows).encode()
            for rows in (*(self._predictions, self._results, self._chunk_rows, self._chunk_scores), self._contig_rows())
        )
        tables.highest.sort()
        return tables

    def _contig_rows(self) -> Iterator[str]:
        """The rows of contigs that are in this block alone; the others' parts get their totals."""
        tables, totals = self._tables, self._totals.totals()
        likeness = Likeness(totals, self._rules)
        for index, contig in enumerate(self._contigs):
            if contig is None:
                continue
            row, logit = contig.row(tables.counts, likeness, index)
            if logit is not None:
                tables.logits.append(logit)
            yield row
        if tables.opening:
            tables.opening = tables.opening._replace(totals=totals.of(0))
        if tables.closing:
            tables.closing = tables.closing._replace(totals=totals.of(len(self._contigs) - 1))

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
        rules = self._rules
        for index, record in enumerate(block.records):
            length, first = record.length, block.first if index == 0 else 0
            if not first and 0 < length <= rules.chunk_length:  # most reads: no need to ask, which is slower
                starts, chunks = [0], 1
            else:
                table = chunk_starts(length, rules.chunk_length)
                starts, chunks = table[first : block.end if index == last else None].tolist(), len(table)
            scored: list[Scored] = []
            for number, start in enumerate(starts, first + 1):
                chunk = _Chunk(record.id, number, start, min(rules.chunk_length, length - start))
                yield chunk
                if (found := self._close(chunk)) is not None:
                    scored.append(found)
            ends = index < last or block.complete
            self._totals.end_contig()
            contig = None
            if first:
                self._tables.opening = Part(record, chunks, scored, ends)
            elif not ends:
                self._tables.closing = Part(record, chunks, scored, ends)
            else:
                contig = Contig(record, chunks, rules)
                contig.add(scored)
            self._contigs.append(contig)

    def _close(self, chunk: _Chunk) -> Scored | None:
        """Add a chunk's row, now that it has all its frames."""
        place = f"{chunk.record}\t{chunk.id}\t{chunk.start + 1}\t{chunk.start + chunk.length}\t{chunk.frames}"
        counts, rules = self._tables.counts, self._rules
        counts.chunks += 1
        if chunk.frames:
            kind, part, share = FRAME, "\t", None
            self._totals.end_chunk(chunk.frames)
            frame, others, virus = chunk.best_frame, chunk.others, chunk.virus
            self._tables.highest.append((chunk.id, virus >= others))
            self._chunk_scores.append(f"{chunk.id}\t{np.float32(others)!s}\t{np.float32(virus)!s}\n")
        elif partial := self._partial.pop(chunk.id, None):
            kind, part = PARTIAL, f"{chunk.start + partial.first}\t{chunk.start + partial.last}"
            share = (partial.last - partial.first + 1) / chunk.length
            frame, others, virus = partial.frame, partial.others, partial.virus
            counts.partial_chunks += 1
            self._totals.end_partial(partial.row)
        else:
            self._chunk_rows.append(f"{place}\t\t\t{UNSCORED}\t\t\t\t\t\t\t\t{self._why_unscored}\n")
            return None
        score, logit = chunk_score(others, virus), round(rules.chunk_logit(others, virus, share), LOGIT_DECIMALS)
        viral = rules.chunk_is_viral(score, logit)
        counts.scored_chunks += 1
        counts.viral_chunks += viral
        probability = round(rules.probability(logit), PROBABILITY_DECIMALS) if rules.calibration else ""
        self._chunk_rows.append(
            f"{place}\t{score}\t{frame}\t{VIRAL if viral else NON_VIRAL}\t{kind}\t{part}\t{np.float32(others)!s}\t"
            f"{np.float32(virus)!s}\t{logit}\t{probability}\t\n"
        )
        return Scored(score, logit, viral)


def _check(ids: Sequence[str], found: Scores) -> None:
    """Refuse scores of another form, or that aren't finite."""
    scores = found.scores
    if scores.dtype != np.float32 or scores.shape != (len(ids), 2):
        raise ValueError(f"expected {len(ids)} float32 rows of 2, got {scores.dtype} {scores.shape}")
    finite = np.isfinite(scores).all(axis=1)
    if found.categories is not None:
        finite &= np.isfinite(found.categories).all(axis=1)
    if found.distances is not None:
        finite &= np.isfinite(found.distances)
    if not finite.all():
        worst = ids[int(np.argmin(finite))]
        raise StorageError(f"{worst}: its score isn't a number. Delete the embeddings and run again.")


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
