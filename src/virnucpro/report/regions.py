"""What a sample's page shows of viral regions, from regions.tsv, in bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from virnucpro.rendering import how_many
from virnucpro.report.tables import Row
from virnucpro.result_tables import DEFAULT, END, INNER, ORIGIN, REGION_COLUMNS, START, WHOLE, read_rows

DRAWN_CONTIGS = 20
"""Contigs that are drawn since a part of them is viral."""
MAX_REGIONS = 300
"""Regions of a contig that are drawn, the longest ones."""
_TICKS = 5
"""At most so many marks on a scale."""
_RECORD, _LENGTH, _EXTENT = map(REGION_COLUMNS.index, ("record", "length", "extent"))


def largest_parts(path: Path) -> list[str]:
    """The contigs of which most bases lie in regions that aren't the whole contig, most first."""

    def bases() -> Iterator[tuple[int, str]]:
        for record, rows in groupby(read_rows(path, REGION_COLUMNS), itemgetter(_RECORD)):
            if parts := sum(int(row[_LENGTH]) for row in rows if row[_EXTENT] != WHOLE):
                yield parts, record

    return [record for _, record in heapq.nlargest(DRAWN_CONTIGS, bases(), key=itemgetter(0))]


def regions_of(path: Path, records: Collection[str]) -> dict[str, list[Row]]:
    """The rows of these contigs, by contig, in the order of the table."""
    found: dict[str, list[Row]] = {}
    for record, rows in groupby(read_rows(path, REGION_COLUMNS), itemgetter(_RECORD)):
        if record in records:
            longest = heapq.nlargest(MAX_REGIONS, enumerate(rows), key=lambda each: int(each[1][_LENGTH]))
            found[record] = [dict(zip(REGION_COLUMNS, row, strict=True)) for _, row in sorted(longest)]
    return found


def sentences(counts: Mapping[str, Any]) -> str:
    """How many there are, of what extent, and how they were found; from ``regions`` in summary.json."""
    if not counts["regions"]:
        text = "No part of a contig is probably viral by all its chunks together."
    else:
        words = {
            WHOLE: "whole contig" + "s" * (counts["extents"].get(WHOLE) != 1),
            INNER: "within a contig",
            START: "from a contig's start on",
            END: "up to a contig's end",
            ORIGIN: "parts of one that goes on over the origin of a circular contig",
        }
        kinds = [
            f"{counts['extents'][extent]:,} {word}" for extent, word in words.items() if extent in counts["extents"]
        ]
        text = (
            f"{how_many(counts['regions'], 'viral region')} in {how_many(counts['records'], 'contig')}, {counts['bases']:,} bases: "
            f"{', '.join(kinds)}. {'It doesn' if counts['regions'] == 1 else 'They don'}'t depend on the contig's call."
        )
    if counts["model"] == DEFAULT:
        text += " The classifier's file has no parameters for them, so the default ones were taken, which weren't fitted to it."
    return text


def scale(length: int) -> list[tuple[float, str]]:
    """Marks along a contig of so many bases: their place in per cent of it, and what they say; both ends are marked."""
    step = next(
        step for power in range(12) for step in (10**power, 2 * 10**power, 5 * 10**power) if length <= _TICKS * step
    )
    unit, word = (1_000_000, "Mb") if step >= 1_000_000 else (1000, "kb") if step >= 100 else (1, "bases")
    inner = [at for at in range(step, length, step) if length - at >= 0.7 * step]
    marks = [(100 * at / length, f"{at / unit:g}") for at in inner]
    return [(0.0, "1"), *marks, (100.0, f"{length / unit:.4g} {word}")]
