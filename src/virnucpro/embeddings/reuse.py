"""Which rows of a shard need computing: not sequences that occur before, nor those whose vectors an earlier run kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.embeddings.store import MergedEmbeddings, ShardFile
from virnucpro.errors import StorageError

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1 << 13


@dataclass(frozen=True)
class Plan:
    """What to do for each row of a shard."""

    compute: np.ndarray  # (m,) int64: rows to compute, rising; the first of those that have a sequence
    repeats: dict[int, list[int]]  # place in ``compute`` → later rows with the same sequence
    copy: list[tuple[MergedEmbeddings, np.ndarray, np.ndarray]]  # file, its rows, rows of the shard: runs of both

    @property
    def copied(self) -> int:
        """Rows whose vectors are copied from earlier files."""
        return sum(len(rows) for _, _, rows in self.copy)

    def computed_before(self, role: str) -> list[dict[str, Any]]:
        """How the vectors that are copied were computed, as their files say; each way once."""
        ways: list[dict[str, Any]] = []
        for file in dict.fromkeys(file for file, _, _ in self.copy):
            ways += [way for way in file.provenance["computed"][role] if way not in ways]
        return ways


def plan_rows(digests: np.ndarray, known: Sequence[Path], role: str, key: str) -> Plan:
    """Which rows to compute, and where to find the others.

    Args:
        digests: (n, 16) uint8 of the shard's sequences; see ``store.sequence_digests``.
        known: ``embeddings.h5`` files of earlier runs. Those that aren't there, have other vectors than these, or can't be read
            give nothing.
        role: of the encoder.
        key: the embedding key; a file with vectors of another key gives nothing.
    """
    names = [row.tobytes() for row in digests]
    wanted = set(names)
    where: dict[bytes, tuple[int, int]] = {}
    files: list[MergedEmbeddings] = []
    for path in known:
        if not path.is_file():
            continue
        try:
            file = MergedEmbeddings(path)
            own = file.digests(role)
        except StorageError as error:
            logger.warning("its vectors can't be used again: %s", error)
            continue
        if any(shard["key"] != key for shard in file.provenance["shards"] if shard["encoder"] == role):
            continue
        for row, name in enumerate(own):
            if (digest := name.tobytes()) in wanted:
                where.setdefault(digest, (len(files), row))
        files.append(file)
    compute: list[int] = []
    first: dict[bytes, int] = {}
    repeats: dict[int, list[int]] = {}
    found: list[tuple[int, int, int]] = []  # file, its row, the shard's row
    for row, digest in enumerate(names):
        if digest in where:
            found.append((*where[digest], row))
        elif digest in first:
            repeats.setdefault(first[digest], []).append(row)
        else:
            first[digest] = len(compute)
            compute.append(row)
    copy = []
    table = np.array(found, np.int64).reshape(-1, 3)
    for run in np.split(table, np.flatnonzero((np.diff(table, axis=0) != (0, 1, 1)).any(axis=1)) + 1):
        if len(run):
            copy.append((files[run[0, 0]], run[:, 1], run[:, 2]))
    return Plan(np.array(compute, np.int64), repeats, copy)


def copy_known(plan: Plan, role: str, file: ShardFile) -> None:
    """Write the vectors that earlier files hold."""
    for known, theirs, ours in plan.copy:
        for start in range(0, len(ours), _ROWS_AT_ONCE):
            rows = slice(int(theirs[start]), int(theirs[min(start + _ROWS_AT_ONCE, len(ours)) - 1]) + 1)
            file.write(int(ours[start]), known.vectors(role, rows))


def write_computed(plan: Plan, file: ShardFile, first: int, vectors: np.ndarray) -> None:
    """Write vectors of sequences ``first`` … of those that are computed, also to later rows with the same sequence."""
    file.write_rows(plan.compute[first : first + len(vectors)], vectors)
    for place in range(first, first + len(vectors)) if plan.repeats else ():
        for row in plan.repeats.get(place, ()):
            file.write(row, vectors[place - first : place - first + 1])
