"""All result tables of a sample, put together from the rows of its blocks in one pass; what is kept in memory doesn't grow."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from virnucpro.calls.rows import BlockTables, Contig, Counts, Part
from virnucpro.io import atomic_file
from virnucpro.result_tables import CHUNK_COLUMNS, CONTIG_COLUMNS, PREDICTION_COLUMNS


@dataclass(frozen=True)
class TablePaths:
    """Where the tables of one sample go."""

    predictions: Path
    chunks: Path
    contigs: Path
    results: Path  # prediction_results.txt
    highest: Path  # prediction_results_highestscore.csv


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

    The rows are made by ``rows.BlockRows``.
    """

    def __init__(self, paths: TablePaths, threshold: float):
        self.counts = Counts()
        self._paths, self._threshold = paths, threshold
        self._contig: Contig | None = None  # the one that the last block didn't end
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
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, block: BlockTables) -> None:
        """Write the rows of the next block."""
        self._predictions.write(block.predictions)
        self._results.write(block.results)
        self._chunks.write(block.chunks)
        if block.opening:
            self._add_part(block.opening)
        self._contigs.write(block.contigs)
        if block.closing:
            self._add_part(block.closing)
        self._sorted.extend(block.highest)
        self.counts.add(block.counts)

    def finish(self) -> Counts:
        """Write the sorted table."""
        self._highest.writelines(f"{identifier}\t{is_virus}\n".encode() for identifier, is_virus in self._sorted)
        return self.counts

    def _add_part(self, part: Part) -> None:
        if self._contig is None:
            self._contig = Contig(part.record, part.length, part.chunks, self._threshold)
        self._contig.add(part.scores)
        if part.ends:
            self._contigs.write(self._contig.row(self.counts).encode())
            self._contig = None


class SortedRows:
    """Sorts (text, flag) rows by text in bounded memory (external merge sort: sorted runs in temporary files).

    Texts hold no line break. A context manager; iterate once, after the last ``extend``.
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

    def extend(self, rows: Iterable[tuple[str, bool]]) -> None:
        """Add rows; it is faster if they are sorted already."""
        self._rows.extend(rows)
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


def _table(stack: ExitStack, path: Path, columns: Sequence[str]) -> BinaryIO:
    temporary = stack.enter_context(atomic_file(path))
    file = stack.enter_context(temporary.open("wb"))
    file.write("\t".join(columns).encode() + b"\n")
    return file
