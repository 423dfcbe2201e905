"""Which contig of a sample, and which part of it, another program means by an id; and what it means nothing by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from virnucpro.errors import InputError
from virnucpro.rendering import how_many

UNKNOWN, OTHER_LENGTH, OUTSIDE = "no_such_contig", "other_length", "outside_of_the_contig"
"""Why an id isn't matched."""
_GENOMAD = re.compile(r"(.+)\|provirus_(\d+)_(\d+)")
_CHECKV = re.compile(r"(.+)_(\d+)")
_EXAMPLES = 3


class Place(NamedTuple):
    """What an id stands for: a contig, or a part of it."""

    record: str
    start: int | None = None  # 1-based, inclusive; None: the whole contig, or a part whose place isn't known
    end: int | None = None
    number: int | None = None  # of CheckV's provirus in what was cut, from 1
    cut: str = ""  # what CheckV cut that provirus out of: an id of its input


@dataclass
class Matched:
    """What became of a table's ids."""

    what: str  # the table's file and program, for messages
    ids: int = 0  # that were matched
    records: set[str] = field(default_factory=set)
    unmatched: Counter[tuple[str, str]] = field(default_factory=Counter)  # rows of (id, why)

    def add(self, identifier: str, found: Place | str) -> None:
        """Count an id that stands for a place, or why it stands for none."""
        if isinstance(found, Place):
            self.ids += 1
            self.records.add(found.record)
        else:
            self.unmatched[identifier, found] += 1

    def check(self, contigs: Contigs) -> None:
        """Raise InputError if there are ids and none of them is the sample's."""
        if self.ids or not self.unmatched:
            return
        theirs = ", ".join(islice((identifier for identifier, _ in self.unmatched), _EXAMPLES))
        ours = ", ".join(islice(contigs.lengths, _EXAMPLES)) or "(none)"
        lengths = any(why != UNKNOWN for _, why in self.unmatched)
        raise InputError(
            f"{self.what}: none of its ids ({len(self.unmatched):,}) is a contig of this sample"
            f"{' of the same length' if lengths else ''}, so it was made from other sequences. It has {theirs}; the sample "
            f"has {ours}. Give the table of this sample's contigs, with their ids as they were."
        )

    def said(self) -> str:
        """One line on it."""
        text = f"{self.what}: {how_many(self.ids, 'id')} matched, of {how_many(len(self.records), 'contig')}"
        return text + (f"; {len(self.unmatched):,} not matched" if self.unmatched else "")


class Contigs:
    """A sample's contigs by id, its regions by theirs, and what other programs call them and their parts."""

    def __init__(self, lengths: Mapping[str, int], regions: Mapping[str, Place] | None = None):
        self.lengths = lengths  # bases
        self._regions = regions or {}

    def whole(self, identifier: str, length: int) -> Place | str:
        """The contig of that id and length, or why there is none: one of another length is another run's."""
        known = self.lengths.get(identifier)
        if known is None:
            return UNKNOWN
        return Place(identifier) if known == length else OTHER_LENGTH

    def place(self, identifier: str, length: int) -> Place | str:
        """What an id stands for: a contig, a region of the sample's, geNomad's ``contig|provirus_start_end`` of either, or CheckV's
        ``ID_number`` of all these.

        ``length`` is that of the sequence that has the id; that of a contig or region must be the same. A contig that is called
        so goes before a part of another. Returns why, if there is no such contig.
        """
        first = self._of_genomad(identifier, length)
        if first != UNKNOWN:
            return first
        if not (found := _CHECKV.fullmatch(identifier)):
            return UNKNOWN
        cut, number = found[1], int(found[2])
        whole = self._of_genomad(cut, None)
        if isinstance(whole, str):
            return whole
        return whole._replace(number=number, cut=cut) if length <= self._bases(whole) else OTHER_LENGTH

    def within(self, place: Place, first: int, last: int) -> Place | str:
        """A part of a place by bases in it, 1-based and inclusive, or why it can't be."""
        if not 1 <= first <= last <= self._bases(place):
            return OUTSIDE
        start = place.start or 1
        return place._replace(start=start + first - 1, end=start + last - 1)

    def _of_genomad(self, identifier: str, length: int | None) -> Place | str:
        if (given := self._given(identifier)) is None:
            if not (found := _GENOMAD.fullmatch(identifier)) or (given := self._given(found[1])) is None:
                return UNKNOWN
            if isinstance(part := self.within(given, int(found[2]), int(found[3])), str):
                return part
            given = part
        return given if length in (self._bases(given), None) else OTHER_LENGTH

    def _given(self, identifier: str) -> Place | None:
        """The sequence that other programs were given under this name."""
        return Place(identifier) if identifier in self.lengths else self._regions.get(identifier)

    def _bases(self, place: Place) -> int:
        if place.start is None or place.end is None:
            return self.lengths[place.record]
        return place.end - place.start + 1


def shares(one: Place, other: Place) -> int:
    """Bases that two parts of a contig share, if that is at least half of the shorter one; else 0."""
    if one.start is None or one.end is None or other.start is None or other.end is None:
        return 0
    common = min(one.end, other.end) - max(one.start, other.start) + 1
    shorter = min(one.end - one.start, other.end - other.start) + 1
    return common if 2 * common >= shorter else 0


def unmatched_rows(tables: list[Matched]) -> Iterator[dict[str, str | int]]:
    """Rows of the list of what wasn't matched, in the order of the tables."""
    for table in tables:
        for (identifier, why), count in table.unmatched.items():
            yield {"table": table.what, "id": identifier, "reason": why, "rows": count}
