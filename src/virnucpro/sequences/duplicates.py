"""Finding a record id that occurs twice, with memory that doesn't grow with the number of records.

Ids are spilled as 64-bit hashes to a file, which is searched in passes of bounded size; the few hashes
seen twice are confirmed by reading the ids themselves again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

PASS = 1 << 18  # hashes compared at a time, about
BUFFER = 1 << 15  # hashes written or read at a time


class DuplicateCheck:
    """Collects ids; ``first`` then tells which of them occurred twice."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(buffering=8 * BUFFER, dir=folder)
        self._count = 0

    def add(self, identifier: str) -> None:
        """Note one id."""
        self._file.write(hash(identifier).to_bytes(8, sys.byteorder, signed=True))  # the same within this process
        self._count += 1

    def first(self, records: Iterable[tuple[str, str]]) -> tuple[str, str, str] | None:
        """An id that occurred twice, with the two files that it is in; None if there is none.

        ``records``, (id, file) of all of them, are read again only if two hashes are equal.
        """
        passes = -(-self._count // PASS)
        suspects: set[int] = set()
        for turn in range(passes):
            hashes = np.concatenate([part[part.view(np.uint64) % np.uint64(passes) == turn] for part in self._parts()])
            hashes.sort()
            suspects.update(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]).tolist())
            if len(suspects) > PASS:
                break  # more than can be chance
        seen: dict[str, str] = {}
        for identifier, file in records if suspects else ():
            if hash(identifier) in suspects:
                if identifier in seen:
                    return identifier, seen[identifier], file
                if len(seen) < 2 * PASS:
                    seen[identifier] = file
        return None

    def close(self) -> None:
        """Remove the spilled hashes."""
        self._file.close()

    def _parts(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        while part := self._file.read(8 * BUFFER):
            yield np.frombuffer(part, dtype=np.int64)
