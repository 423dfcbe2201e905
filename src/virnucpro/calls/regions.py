"""The viral parts of a contig: runs of chunks that are probably viral by the region model, given all of the contig's chunks.

They don't depend on the contig's call: a prophage is a region of a contig that isn't viral.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import NamedTuple

from virnucpro.calls.likeness import PROBABILITY_DECIMALS
from virnucpro.classifier.region_model import POSTERIOR, RegionModel
from virnucpro.result_tables import END, INNER, ORIGIN, START, WHOLE

SHORTEST_REPEAT, LONGEST_REPEAT = 30, 300
"""Bases that both ends of a contig must share to be those of a circle: assemblers leave a k-mer, phages have terminal repeats."""
DIFFERENT_PAIRS = 8
"""So many different pairs of neighbouring letters such a repeat must have; a tandem repeat of short words, as poly-A, has fewer."""

_CIRCULAR = re.compile(
    r"(?<!non[-_ ])(?<!not[-_ ])(?<![a-z])circular(?![a-z])(?!\s*[=:_-]\s*(?:false|no|n|f|0)(?![a-z0-9]))",
    re.IGNORECASE,
)


class Chunks(NamedTuple):
    """The n chunks of a contig, in order."""

    starts: list[int]  # 1-based
    ends: list[int]  # inclusive
    logits: list[float | None]  # None: without a score
    partial: list[bool]  # whether scored by a partial frame


class Region(NamedTuple):
    """A viral part of a contig."""

    start: int  # 1-based
    end: int  # inclusive
    chunks: int
    scored: int  # of these
    mean: float  # posterior of its chunks, as all posteriors rounded to six digits
    lowest: float
    extent: str  # one of the words in ``result_tables``


def find_regions(model: RegionModel, chunks: Chunks, length: int, circular: bool = False) -> list[Region]:
    """The regions of a contig of ``length`` bases, by where they begin.

    In a circular contig the last chunk has the first one for a neighbour. A region that goes on over the origin is two, with
    the extent ``origin``.
    """
    starts, n = chunks.starts, len(chunks.starts)
    if circular:  # three times around: what comes before and after the middle one is the contig again
        turns = [start + turn * length for turn in range(3) for start in starts]
        found = model.posteriors(turns, chunks.logits * 3, chunks.partial * 3)[n : 2 * n]
    else:
        found = model.posteriors(starts, chunks.logits, chunks.partial)
    regions: list[Region] = []
    over_origin = circular and n > 0 and found[0] >= POSTERIOR and found[-1] >= POSTERIOR
    at = 0
    for viral, run in groupby(found, POSTERIOR.__le__):
        posteriors = list(run)
        first, at = at, at + len(posteriors)
        if viral:
            regions.append(
                Region(
                    starts[first],
                    chunks.ends[at - 1],
                    len(posteriors),
                    len(posteriors) - chunks.logits[first:at].count(None),
                    round(sum(posteriors) / len(posteriors), PROBABILITY_DECIMALS),
                    round(min(posteriors), PROBABILITY_DECIMALS),
                    _extent(first == 0, at == n, circular, over_origin),
                )
            )
    return regions


def _extent(first: bool, last: bool, circular: bool, over_origin: bool) -> str:
    """Of a region that has the contig's first or last chunk."""
    if first and last:
        return WHOLE
    if not first and not last:
        return INNER
    if circular:  # there is no end that a region could be cut at
        return ORIGIN if over_origin else INNER
    return START if first else END


def is_circular(header: str, sequence: bytes) -> bool:
    """Whether a contig is a circle: its header has the word ``circular`` (and not ``circular=false``), or its ends repeat.

    The ends are a direct repeat of ``SHORTEST_REPEAT`` to ``LONGEST_REPEAT`` bases, case apart; one of few different pairs of letters
    doesn't count.
    """
    return _CIRCULAR.search(header) is not None or _ends_repeat(sequence)


def _ends_repeat(sequence: bytes) -> bool:
    most = min(LONGEST_REPEAT, len(sequence) // 2)
    if most < SHORTEST_REPEAT:
        return False
    first, last = sequence[:most].upper(), sequence[-most:].upper()
    at = last.find(first[:SHORTEST_REPEAT])
    while at >= 0:
        repeat = last[at:]
        if first.startswith(repeat):
            return len(_pairs(repeat)) >= DIFFERENT_PAIRS
        at = last.find(first[:SHORTEST_REPEAT], at + 1)
    return False


def _pairs(letters: bytes) -> set[bytes]:
    """The different pairs of neighbouring letters that are bases."""
    pairs = {letters[at : at + 2] for at in range(len(letters) - 1)}
    return {pair for pair in pairs if not pair.strip(b"ACGTU")}


def region_id(record: str, number: int) -> str:
    """The name of a contig's region; numbers count from 1, by where regions begin."""
    return f"{record}_region_{number}"
