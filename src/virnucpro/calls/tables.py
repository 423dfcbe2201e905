"""The calls of chunks and contigs, and all result tables of a sample, written in one pass.

Chunks follow from the lengths of the sequences and scores come in the same order, so the two streams are merged; only
the current chunk and sequence are kept in memory, whatever the size of the tables.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np

from virnucpro.classifier.spec import CLASSES
from virnucpro.errors import StorageError
from virnucpro.io import atomic_file
from virnucpro.result_tables import (
    CHUNK_COLUMNS,
    CONTIG_COLUMNS,
    NO_OPEN_FRAME,
    NON_VIRAL,
    PREDICTION_COLUMNS,
    UNSCORED,
    VIRAL,
)
from virnucpro.sequences.chunks import chunk_id, chunk_starts
from virnucpro.sequences.frames import FRAME_NAMES, frame_span

SCORE_DECIMALS = 9
"""Chunk and contig scores are rounded to this before they are compared, so that a call follows from the number printed
beside it. Two float32 scores that differ give chunk scores at least 1.4e-8 from 0.5."""

_FRAME_INDEX = {name: index for index, name in enumerate(FRAME_NAMES)}
_STRAND = {"F": "+", "R": "-"}


@dataclass(frozen=True)
class TablePaths:
    """Where the tables of one sample go."""

    predictions: Path
    chunks: Path
    contigs: Path
    results: Path  # prediction_results.txt
    highest: Path  # prediction_results_highestscore.csv


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


class _Chunk:
    """The current chunk: its coordinates, and the best scores of its frames so far."""

    __slots__ = ("best_frame", "frames", "id", "last", "length", "number", "others", "record", "start", "virus")

    def __init__(self, record: str, number: int, start: int, length: int):
        self.id, self.record, self.number = chunk_id(record, number - 1), record, number
        self.start, self.length = start, length
        self.frames, self.last, self.others, self.virus, self.best_frame = 0, -1, -1.0, -1.0, ""


class Tables:
    """Context manager that writes the five tables; they appear together when the block succeeds.

    Rules of the calls, at a threshold t:

    * frame: ``virus`` if score_virus > t. At t = 0.5 that is the original's argmax, an exact tie → ``others``.
    * chunk: score = v / (v + o), where v and o are the largest score_virus and score_others of its frames;
      ``viral`` if the score ≥ t. At t = 0.5 that is the original's v ≥ o. Without a stop-free frame the chunk
      has no score and is ``no_open_frame``.
    * contig (or read): mean score of its scored chunks ≥ t → ``viral``; without a scored chunk ``unscored``.
    * The two files in the original's formats follow the original's rules whatever t is.

    Coordinates: ``start`` and ``end`` are 1-based and inclusive, on the contig's forward strand whatever the
    frame's strand. A frame spans the whole codons of its chunk, none of which is a stop. ``best_frame`` has the
    largest score_virus, the first one if several do.

    ``records`` are (id, length) of every sequence, in input order.
    """

    def __init__(self, paths: TablePaths, records: Iterable[tuple[str, int]], chunk_length: int, threshold: float):
        self.counts = Counts()
        self._paths, self._records = paths, records
        self._chunk_length, self._threshold = chunk_length, threshold
        self._stack = ExitStack()

    def __enter__(self) -> Tables:
        with ExitStack() as stack:  # undone if one of the files can't be made
            self._predictions = _table(stack, self._paths.predictions, PREDICTION_COLUMNS)
            self._chunks = _table(stack, self._paths.chunks, CHUNK_COLUMNS)
            self._contigs = _table(stack, self._paths.contigs, CONTIG_COLUMNS)
            self._results = _table(stack, self._paths.results, ["Sequence_ID", "Prediction", "score1", "score2"])
            self._highest = _table(stack, self._paths.highest, ["Modified_ID", "Is_Virus"])
            self._sorted = stack.enter_context(SortedRows(self._paths.highest.parent))
            self._stack = stack.pop_all()
        self._chunks_to_fill = self._walk()
        self._chunk = next(self._chunks_to_fill, None)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, ids: Sequence[str], scores: np.ndarray) -> None:
        """Write the next frames: n ids, in the order of chunks and of F1 … R3, and (n, 2) float32 softmax scores.

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
        rows, results = [], []
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
            start, end = frame_span(chunk.start, chunk.length, index)
            rows.append(
                f"{identifier}\t{chunk.record}\t{chunk.number}\t{_STRAND[frame[0]]}\t{frame}\t{start + 1}\t{end}\t"
                f"{o_text}\t{v_text}\t{CLASSES[call]}\n"
            )
            results.append(f"{identifier}\t{CLASSES[original]}\t{o_text}\t{v_text}\n")
        self._predictions.write("".join(rows))
        self._results.write("".join(results))
        self.counts.frames += len(ids)
        self.counts.virus_frames += int(calls.sum())

    def finish(self) -> Counts:
        """Write what follows the last frame, and the sorted table."""
        while self._chunk is not None:
            self._chunk = next(self._chunks_to_fill, None)
        self._highest.writelines(f"{identifier}\t{is_virus}\n" for identifier, is_virus in self._sorted)
        return self.counts

    def _chunk_of(self, identifier: str) -> _Chunk:
        """The chunk of a frame, after closing all chunks before it."""
        wanted = identifier[:-2]
        while self._chunk is not None and self._chunk.id != wanted:
            self._chunk = next(self._chunks_to_fill, None)
        if self._chunk is None:
            raise StorageError(
                f"{identifier}: the embeddings hold this frame, but the sequences have no such chunk at its place. "
                "Delete the sample's embeddings and run again."
            )
        return self._chunk

    def _walk(self) -> Iterator[_Chunk]:
        """Yield each chunk for ``add`` to fill with its frames, then write its row, and that of a contig after its last."""
        for record, length in self._records:
            scored = viral = 0
            total = best = 0.0
            # Most reads are one chunk: then no need to ask, which is slower.
            starts = [0] if 0 < length <= self._chunk_length else chunk_starts(length, self._chunk_length).tolist()
            for number, start in enumerate(starts, 1):
                chunk = _Chunk(record, number, start, min(self._chunk_length, length - start))
                yield chunk
                score = self._close(chunk)
                if score is not None:
                    scored += 1
                    viral += score >= self._threshold
                    total += score
                    best = max(best, score)
            self.counts.records += 1
            if not scored:
                self.counts.unscored_records += 1
                self._contigs.write(f"{record}\t{length}\t{len(starts)}\t0\t0\t\t\t\t{UNSCORED}\n")
                continue
            mean = round(total / scored, SCORE_DECIMALS)
            is_viral = mean >= self._threshold
            self.counts.viral_records += is_viral
            self._contigs.write(
                f"{record}\t{length}\t{len(starts)}\t{scored}\t{viral}\t{round(viral / scored, SCORE_DECIMALS)}\t{mean}\t"
                f"{best}\t{VIRAL if is_viral else NON_VIRAL}\n"
            )

    def _close(self, chunk: _Chunk) -> float | None:
        place = f"{chunk.record}\t{chunk.id}\t{chunk.start + 1}\t{chunk.start + chunk.length}\t{chunk.frames}"
        self.counts.chunks += 1
        if not chunk.frames:
            self._chunks.write(f"{place}\t\t\t{NO_OPEN_FRAME}\n")
            return None
        score = chunk_score(chunk.others, chunk.virus)
        viral = score >= self._threshold
        self.counts.scored_chunks += 1
        self.counts.viral_chunks += viral
        self._chunks.write(f"{place}\t{score}\t{chunk.best_frame}\t{VIRAL if viral else NON_VIRAL}\n")
        self._sorted.add(chunk.id, chunk.virus >= chunk.others)
        return score


class SortedRows:
    """Sorts (text, flag) rows by text in bounded memory (external merge sort: sorted runs in temporary files).

    Texts hold no line break. A context manager; iterate once, after the last ``add``.
    """

    def __init__(self, folder: Path, limit: int = 500_000):
        self._folder, self._limit = folder, limit
        self._rows: list[tuple[str, bool]] = []
        self._runs: list[IO[str]] = []

    def __enter__(self) -> SortedRows:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.close()

    def add(self, text: str, flag: bool) -> None:
        """Add a row."""
        self._rows.append((text, flag))
        if len(self._rows) >= self._limit:
            run = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=self._folder)
            self._runs.append(run)
            run.writelines(f"{int(flag)}{text}\n" for text, flag in sorted(self._rows))
            self._rows.clear()

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        for run in self._runs:
            run.seek(0)
        runs = [((line[1:-1], line[0] == "1") for line in run) for run in self._runs]
        return heapq.merge(*runs, sorted(self._rows))


def numbers(values: np.ndarray) -> list[str]:
    """Each float32 as the shortest text that reads back as the same float32, as NumPy prints it."""
    return list(map(str, values))


def chunk_score(others: float, virus: float) -> float:
    """virus / (virus + others) of a chunk's largest scores, rounded.

    In float64 the rounding can't cross 0.5: for float32 scores, the result is ≥ 0.5 exactly if virus ≥ others.
    """
    return round(virus / (virus + others), SCORE_DECIMALS)


def _table(stack: ExitStack, path: Path, columns: Sequence[str]) -> TextIO:
    temporary = stack.enter_context(atomic_file(path))
    file = stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))
    file.write("\t".join(columns) + "\n")
    return file
