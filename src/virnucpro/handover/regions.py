"""A sample's own regions, as other programs' parts of contigs."""

from __future__ import annotations

from pathlib import Path

from virnucpro.handover.ids import Place
from virnucpro.handover.programs import Entry
from virnucpro.outputs import REGIONS
from virnucpro.result_tables import REGION_COLUMNS, WHOLE, read_rows

_COLUMNS = {
    "region": "region",
    "start": "region_start",
    "end": "region_end",
    "extent": "region_extent",
    "mean_posterior": "region_mean_posterior",
    "lowest_posterior": "region_lowest_posterior",
}
"""Columns of regions.tsv, and what they are called in the joined table."""
TITLES_OF_REGIONS = tuple(_COLUMNS.values())


def read_regions(sample: Path) -> list[Entry] | None:
    """The regions in a sample's folder; None if they weren't looked for. Raises StorageError for another table.

    A region that is a whole contig is said of all of the contig, and is no part of it.
    """
    if not (path := sample / REGIONS["regions"]).is_file():
        return None
    entries = []
    for record, *values in read_rows(path, REGION_COLUMNS, ("record", *_COLUMNS)):
        start, end, extent = (values[TITLES_OF_REGIONS.index(f"region_{name}")] for name in ("start", "end", "extent"))
        entries.append(Entry(Place(record, int(start), int(end)), extent != WHOLE, tuple(values)))
    return entries
