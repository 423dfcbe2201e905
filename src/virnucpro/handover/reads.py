"""Reads per contig, from minimap2's PAF: a line an alignment, in any order; what is kept grows with contigs, not reads."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.handover.ids import Contigs, Matched, Place
from virnucpro.handover.text import lines, whole_number

TITLES = ("reads", "reads_bases_covered", "reads_mean_depth")
_COLUMNS = 12
_NOT_PRIMARY = re.compile(r"(?:^|\t)tp:A:[Si]")


@dataclass
class Coverage:
    """The alignments on a contig."""

    reads: int = 0
    bases: int = 0  # of the contig, in all alignments together
    starts: list[int] = field(default_factory=list)  # of the stretches that are covered; sorted, 0-based, none touch
    ends: list[int] = field(default_factory=list)

    def add(self, start: int, end: int) -> None:
        """Add an alignment of bases ``start`` to ``end``, 0-based and half open as in PAF."""
        self.reads += 1
        self.bases += end - start
        first, last = bisect_left(self.ends, start), bisect_right(self.starts, end)
        if first < last:  # it meets these stretches
            start, end = min(start, self.starts[first]), max(end, self.ends[last - 1])
        self.starts[first:last], self.ends[first:last] = [start], [end]

    def values(self, length: int) -> tuple[str, ...]:
        """Values of ``TITLES`` for a contig of so many bases."""
        covered = sum(self.ends) - sum(self.starts)
        return str(self.reads), str(covered), str(round(self.bases / length, 4) if length else 0.0)


def read_paf(path: Path, contigs: Contigs, min_mapq: int) -> tuple[dict[str, Coverage], Matched]:
    """The coverage of each contig that has primary alignments of at least that mapping quality, and what became of ids.

    An alignment without a tag ``tp`` is taken as primary; the parts of a read that aligns in several are one each.

    Raises InputError: not a PAF file, or none of its targets is a contig of the sample.
    """
    found: dict[str, Coverage] = {}
    matched = Matched(f"{path} (PAF)")
    places: dict[str, Place | str] = {}
    for number, line in enumerate(lines(path), start=1):
        if not line:
            continue
        cells = line.split("\t", _COLUMNS)
        try:
            _, _, _, _, strand, target, length, start, end, _, _, quality, *tags = cells
            first, last, mapq = int(start), int(end), int(quality)
            if strand not in ("+", "-"):
                raise ValueError
        except ValueError:
            raise InputError(
                f"{path}, line {number}: isn't PAF, which has {_COLUMNS} columns or more, the fifth + or -. Make it with "
                "minimap2 -cx sr CONTIGS READS > reads.paf (without -a, which makes SAM)."
            ) from None
        if (place := places.get(target)) is None:
            place = places[target] = contigs.whole(target, whole_number(length, f"{path}, line {number}"))
            if isinstance(place, Place):
                matched.add(target, place)
        if isinstance(place, str):
            matched.add(target, place)
            continue
        if not 0 <= first <= last <= contigs.lengths[target]:
            raise InputError(
                f"{path}, line {number}: bases {start} to {end} aren't in {target}. The file is damaged: make it again."
            )
        if mapq >= min_mapq and not (tags and _NOT_PRIMARY.search(tags[0])):
            found.setdefault(target, Coverage()).add(first, last)
    matched.check(contigs)
    return found, matched
