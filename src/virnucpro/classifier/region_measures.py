"""How good regions are where the truth is known: bases found, precision, false regions per megabase, boundary error.

Everything is in bases of a contig, so regions of any origin can be measured: of chunks put together, or of real sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from virnucpro.classifier.region_model import POSTERIOR, RegionModel

LEVELS = (0.5, 0.9)
"""Mean posteriors of a region's chunks from which on regions are counted: the region is at 0.9 if Σ posterior / n ≥ 0.9."""


@dataclass(frozen=True)
class Region:
    """From base ``start`` to ``end``, 0-based, end excluded; ``mean`` is the mean posterior of its chunks."""

    start: int
    end: int
    mean: float


@dataclass(frozen=True)
class Truth:
    """A contig of ``length`` bases; ``start`` to ``end`` of it is viral (both 0: nothing is), 0-based, end excluded."""

    length: int
    start: int
    end: int

    @property
    def viral(self) -> int:
        """Viral bases."""
        return self.end - self.start


def find_regions(
    model: RegionModel, start: np.ndarray, end: np.ndarray, logit: np.ndarray, partial: np.ndarray
) -> list[Region]:
    """Regions of one contig's k scored chunks, in order, from the first chunk's start to the last one's end; ``start`` and ``end`` (k,) 0-based, the latter excluded."""
    posterior = np.array(model.posteriors(start.tolist(), logit.tolist(), partial.tolist()))
    edges = np.flatnonzero(np.diff(np.concatenate(([0], posterior >= POSTERIOR, [0]))))
    return [
        Region(int(start[a]), int(end[b - 1]), float(posterior[a:b].mean()))
        for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def measure_regions(truths: Sequence[Truth], found: Sequence[Sequence[Region]], level: float) -> dict[str, Any]:
    """Figures of the regions whose mean posterior is at least ``level``; None where there is nothing to count.

    ``bases_found``: share of the viral bases that are in a region. ``precision``: share of the regions' bases that are viral.
    ``false_regions``: those of which less than half is viral; ``false_per_mb``: of them, a megabase of other sequence.
    ``implants_found``: viral parts that a region has a base of; ``boundary_kb``: the median over both boundaries of these,
    except where they are the contig's ends, of the distance to the first start, or last end, of regions that share a base.
    ``boundaries``: how many that are.
    """
    viral = others = in_regions = right = false = touched = parts = regions = 0
    errors: list[int] = []
    for truth, every in zip(truths, found, strict=True):
        viral += truth.viral
        others += truth.length - truth.viral
        parts += truth.viral > 0
        shared = []
        for region in every:
            if region.mean < level:
                continue
            common = max(0, min(region.end, truth.end) - max(region.start, truth.start))
            regions += 1
            in_regions += region.end - region.start
            right += common
            false += 2 * common < region.end - region.start
            if common:
                shared.append(region)
        if shared:
            touched += 1
            if truth.start > 0:
                errors.append(abs(min(region.start for region in shared) - truth.start))
            if truth.end < truth.length:
                errors.append(abs(max(region.end for region in shared) - truth.end))
    return {
        "contigs": len(truths),
        "implants": parts,
        "viral_bases": viral,
        "other_bases": others,
        "regions": regions,
        "bases_found": right / viral if viral else None,
        "precision": right / in_regions if in_regions else None,
        "false_regions": false,
        "false_per_mb": false / others * 1e6 if others else None,
        "implants_found": touched,
        "boundaries": len(errors),
        "boundary_kb": float(np.median(errors)) / 1000 if errors else None,
    }
