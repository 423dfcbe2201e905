"""All result tables of a sample, put together from the rows of its blocks in one pass; what is kept in memory doesn't grow."""

from __future__ import annotations

import heapq
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from virnucpro.calls.likeness import PROBABILITY_DECIMALS, Likeness, Totals
from virnucpro.calls.rows import ALTERNATIVE, Q_VALUE, BlockTables, Contig, Counts, Part
from virnucpro.calls.rules import UNUSUAL, Rules, is_unusual
from virnucpro.classifier.evidence import Prevalence, estimate_prevalence, q_values
from virnucpro.io import atomic_file
from virnucpro.result_tables import (
    AMBIGUOUS,
    CHUNK_COLUMNS,
    CHUNK_SCORE_COLUMNS,
    CONTIG_COLUMNS,
    PREDICTION_COLUMNS,
    VIRAL,
)

_CALL, _REASON, _DISTANCE, _CATEGORY = map(CONTIG_COLUMNS.index, ("call", "reason", "distance", "category"))


@dataclass(frozen=True)
class TablePaths:
    """Where the tables of one sample go."""

    predictions: Path
    chunks: Path
    contigs: Path
    results: Path  # prediction_results.txt
    highest: Path  # prediction_results_highestscore.csv
    chunk_scores: Path


class Tables:
    """Context manager that writes the six tables; they appear together when the block succeeds.

    Rules of the calls, with t the score threshold (0.5 unless one is given):

    * frame: ``virus`` if score_virus > t. At t = 0.5 that is the original's argmax, an exact tie → ``others``.
    * chunk: score = v / (v + o), where v and o are the largest score_virus and score_others of its frames. Without a
      stop-free frame they are those of its longest stretch without a stop (kind ``partial``), if such are scored; else the
      chunk is ``unscored``.
    * With a given threshold, or a classifier that isn't calibrated: a chunk is ``viral`` if its score ≥ t, at t = 0.5 the
      original's v ≥ o; a contig (or read) if the mean score of its scored chunks is.
    * Otherwise a chunk is ``viral`` if its logit ≥ 0, and a contig ``viral``, ``ambiguous`` or ``non-viral`` by its own logit;
      see ``rules.Rules`` and ``classifier.evidence``.
    * The two files in the original's formats follow the original's rules whatever holds.

    Coordinates: ``start`` and ``end`` are 1-based and inclusive, on the contig's forward strand whatever the
    frame's strand. A frame spans the whole codons of its chunk, none of which is a stop. ``best_frame`` has the
    largest score_virus, the first one if several do.

    The rows are made by ``rows.BlockRows``.
    """

    def __init__(self, paths: TablePaths, rules: Rules):
        self.counts = Counts()
        self.prevalence: Prevalence | None = None  # of the sample, once finished; None without a calibrated contig
        self._paths, self._rules = paths, rules
        self._logits = array("d")  # of the contigs that have one, in order
        self._contig: Contig | None = None  # the one that the last block didn't end
        self._totals: Totals | None = None  # its
        self._stack = ExitStack()

    def __enter__(self) -> Tables:
        with ExitStack() as stack:  # undone if one of the files can't be made
            self._predictions = _table(stack, self._paths.predictions, PREDICTION_COLUMNS)
            self._chunks = _table(stack, self._paths.chunks, CHUNK_COLUMNS)
            self._chunk_scores = _table(stack, self._paths.chunk_scores, CHUNK_SCORE_COLUMNS)
            self._contigs = _table(stack, self._paths.contigs, CONTIG_COLUMNS)
            # Rows that lack their q-values.
            self._drafts = stack.enter_context(tempfile.TemporaryFile(dir=self._paths.contigs.parent))
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
        self._chunk_scores.write(block.chunk_scores)
        if block.opening:
            self._add_part(block.opening)
        self._drafts.write(block.contigs)
        self._logits.extend(block.logits)
        if block.closing:
            self._add_part(block.closing)
        self._sorted.extend(block.highest)
        self.counts.add(block.counts)

    def finish(self) -> Counts:
        """Write what follows from all rows: q-values, and the sorted table."""
        self._write_contigs()
        self._highest.writelines(f"{identifier}\t{is_virus}\n".encode() for identifier, is_virus in self._sorted)
        return self.counts

    def _add_part(self, part: Part) -> None:
        if self._contig is None:
            self._contig, self._totals = Contig(part.record, part.chunks, self._rules), None
        self._contig.add(part.scored)
        assert part.totals
        self._totals = self._totals.plus(part.totals) if self._totals else part.totals
        if part.ends:
            row, logit = self._contig.row(self.counts, Likeness(self._totals, self._rules))
            self._drafts.write(row.encode())
            if logit is not None:
                self._logits.append(logit)
            self._contig = None

    def _write_contigs(self) -> None:
        """The rows of contigs.tsv with their q-values, where prevalence can be told."""
        self._drafts.seek(0)
        if not self._logits:
            shutil.copyfileobj(self._drafts, self._contigs)
            return
        logits = np.frombuffer(self._logits)
        self.prevalence = estimate_prevalence(logits, self._rules.prior)
        values = q_values(logits, self.prevalence.value).tolist() if self.prevalence.enough else [None] * len(logits)
        mark, position = f"\t{Q_VALUE}\t".encode(), iter(values)
        for line in self._drafts:
            self._contigs.write(self._with_q_value(line, next(position)) if mark in line else line)

    def _with_q_value(self, line: bytes, value: float | None) -> bytes:
        text = b"" if value is None else str(round(value, PROBABILITY_DECIMALS)).encode()
        mark = Q_VALUE.encode()
        rules = self._rules
        if rules.fdr is None or rules.by_threshold:
            return line.replace(mark, text)
        cells = line.rstrip(b"\n").split(b"\t")
        if cells[_CALL] != VIRAL.encode():
            return line.replace(mark, text)
        lowered = not rules.fdr or value is None or value > rules.fdr
        if lowered:
            reasons = ["q_value" if text else "no_q_value"]
            reasons += [UNUSUAL] if is_unusual(float(cells[_DISTANCE] or 0)) else []
            cells[_CALL], cells[_REASON] = AMBIGUOUS.encode(), ",".join(reasons).encode()
            self.counts.viral_records -= 1
            self.counts.ambiguous_records += 1
        cells[_CATEGORY:] = [cell.partition(ALTERNATIVE.encode())[2 * lowered] for cell in cells[_CATEGORY:]]
        return b"\t".join(cells).replace(mark, text) + b"\n"


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
