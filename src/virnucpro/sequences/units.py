"""Which samples are split together, so that embedding jobs follow the frames, not the samples.

A large sample is a unit of its own, named as the sample. Small ones share a unit, ``pooled/<its first sample>``, of about
as many frames as a shard may have. What is in a unit follows from the samples' names and the files' sizes, whatever their order in
the sheet; where it ends, from the names, so that a sample that is added or removed changes the units near it only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from virnucpro.sequences.shards import Boundaries

POOLED = "pooled"
"""Folder of the units that have several samples."""
_COMPRESSED = (".gz", ".bgz", ".zst", ".zstd")
_COMPRESSION_RATIO = 4  # of DNA, about


def units_of(
    samples: Mapping[str, Sequence[str | Path]], chunk_length: int, shard_frames: int, unmade: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Unit → its samples, sorted by name; each sample is in one unit.

    Args:
        samples: name → files.
        chunk_length: bases per chunk.
        shard_frames: most frames in a shard. A sample that may have half of them is alone.
        unmade: samples with files that are yet to be made, so of unknown size; each is alone.
    """
    alone: list[str] = []
    pools: list[list[str]] = []
    pooled: list[tuple[str, int]] = []
    for sample in sorted(samples):
        frames = None if sample in unmade else _estimated_frames(samples[sample], chunk_length)
        if frames is None or 2 * frames >= shard_frames:
            alone.append(sample)
        else:
            pooled.append((sample, max(1, frames)))
    boundaries, names = Boundaries(shard_frames), iter(pooled)
    hashes = np.array([_hash(sample) for sample, _ in pooled], dtype=np.uint64)
    counts = np.array([(frames, 1, 0, 0, 0) for _, frames in pooled], dtype=np.int64).reshape(-1, 5)
    for _, members, *_ in (*boundaries.push(hashes, counts), *boundaries.finish()):
        pools.append([next(names)[0] for _ in range(members)])
    units: dict[str, tuple[str, ...]] = {sample: (sample,) for sample in alone}
    for pool in pools:
        units[pool[0] if len(pool) == 1 else f"{POOLED}/{pool[0]}"] = tuple(pool)
    return units


def _estimated_frames(fastas: Sequence[str | Path], chunk_length: int) -> int | None:
    """Frames that files may have, more rather than fewer: one per chunk; None if one of them isn't there."""
    letters = 0
    for path in map(str, fastas):
        with suppress(OSError):
            size = os.stat(path).st_size
            letters += size * _COMPRESSION_RATIO if path.lower().endswith(_COMPRESSED) else size
            continue
        return None
    return letters // chunk_length


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
