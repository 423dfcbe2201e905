"""Reads per contig, from minimap2's PAF: a line an alignment, in any order; what is kept grows with contigs, not reads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.handover.ids import Contigs, Matched, Place
from virnucpro.handover.text import lines, whole_number

TITLES = ("reads", "reads_bases_covered", "reads_mean_depth")
_COLUMNS = 12
_NOT_PRIMARY = ("\ttp:A:S", "\ttp:A:i")


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
        where = f"{path}, line {number}"
        if len(cells) < _COLUMNS or cells[4] not in ("+", "-"):
            raise InputError(
                f"{where}: isn't PAF, which has {_COLUMNS} columns or more, the fifth + or -. Make it with "
                "minimap2 -cx sr CONTIGS READS > reads.paf (without -a, which makes SAM)."
            )
        target = cells[5]
        if (place := places.get(target)) is None:
            place = places[target] = contigs.whole(target, whole_number(cells[6], where))
            if isinstance(place, Place):
                matched.add(target, place)
        if isinstance(place, str):
            matched.add(target, place)
            continue
        start, end, quality = (whole_number(cells[index], where) for index in (7, 8, 11))
        if not start <= end <= contigs.lengths[target]:
            raise InputError(f"{where}: bases {start} to {end} aren't in {target}. The file is damaged: make it again.")
        if quality >= min_mapq and not (len(cells) > _COLUMNS and any(tag in "\t" + cells[-1] for tag in _NOT_PRIMARY)):
            found.setdefault(target, Coverage()).add(start, end)
    matched.check(contigs)
    return found, matched
