"""The format of the result tables: their columns, the words for a call, and reading and writing their rows.

Tab-separated UTF-8 with a header line; nothing is quoted, so a quotation mark in a sequence's id is a letter.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from virnucpro.errors import StorageError
from virnucpro.io import atomic_file

PREDICTION_COLUMNS = (
    *("frame_id", "record", "chunk", "strand", "frame", "start", "end"),
    *("score_others", "score_virus", "label"),
)
CHUNK_COLUMNS = (
    *("record", "chunk_id", "start", "end", "open_frames", "score", "best_frame", "call"),
    *("kind", "part_start", "part_end", "max_score_others", "max_score_virus", "logit", "probability", "reason"),
)
CHUNK_SCORE_COLUMNS = ("Modified_ID", "max_score_0", "max_score_1")
"""What viral-ngs reads of a chunk: class 0 is others, 1 is virus."""
CONTIG_COLUMNS = (
    *("record", "length", "chunks", "scored_chunks", "viral_chunks", "viral_share"),
    *("mean_score", "best_score", "call", "logit", "probability", "q_value", "reason"),
    *("scored_share", "low_complexity", "gc", "n_share", "distance", "category", "category_probability"),
)
REGION_COLUMNS = (
    *("record", "region", "start", "end", "length", "chunks", "scored_chunks"),
    *("mean_posterior", "lowest_posterior", "extent", "call", "model"),
)
CONTROL_COLUMNS = (
    *("kind", "preset", "controls", "called_viral", "ambiguous", "non_viral", "unscored", "share", "low", "high"),
    *("shortest", "median_length", "longest"),
)
VIRAL, AMBIGUOUS, NON_VIRAL = "viral", "ambiguous", "non-viral"
GIVEN = "control_fasta"
"""The kind of the user's own controls."""
UNSCORED = "unscored"
"""The call of a chunk, or of a contig, of which nothing was scored."""
FRAME, PARTIAL = "frame", "partial"
"""What a chunk was scored by: its stop-free frames, or the longest stretch without a stop where it has none."""
NO_FRAME = "no_stop_free_frame"
"""Why a chunk is unscored: it has no stop-free frame, and partial frames aren't scored."""
NO_STRETCH = "no_stretch"
"""Why a chunk is unscored: it has no stretch of 60 bases without a stop either."""

WHOLE, START, END, INNER, ORIGIN = "whole", "start", "end", "inner", "origin"
"""Extent of a region: the whole contig, from its start, to its end, neither, or a part of one over the origin of a circle."""
FITTED, DEFAULT = "fitted", "default"
"""Whose parameters regions were found with: the classifier's, or those for classifiers without."""


def read_rows(path: Path, expected: tuple[str, ...], wanted: Sequence[str] = ()) -> Iterator[Sequence[str]]:
    """Values of each row: those of the ``wanted`` columns (two or more), in that order, or of all columns.

    Raises:
        StorageError: there is no such file, its columns aren't the ``expected`` ones, or a row is short.
    """
    try:
        handle = open(path, encoding="utf-8", newline="\n")
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file. Run the prediction first.") from None
    pick = itemgetter(*(expected.index(column) for column in wanted)) if wanted else tuple
    with handle:
        if tuple(next(handle, "").rstrip("\n").split("\t")) != expected:
            raise StorageError(f"{path}: its columns aren't {', '.join(expected)}. Delete it and run again.")
        for number, line in enumerate(handle, start=2):
            values = line.rstrip("\n").split("\t")
            if len(values) != len(expected):
                raise StorageError(f"{path}, line {number}: has {len(values)} columns. Delete the file and run again.")
            yield pick(values)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a small table; floats are rounded to six digits after the point."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, columns, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        writer.writeheader()
        for row in rows:
            writer.writerow({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
