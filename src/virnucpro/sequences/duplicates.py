"""Finding a record id that occurs twice, with memory that doesn't grow with the number of records.

Ids are spilled as 64-bit hashes to a file, which is searched in passes of bounded size; the few hashes
seen twice are confirmed by reading the ids themselves again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

PASS = 1 << 18
"""Hashes compared at a time, about."""

BUFFER = 1 << 15
"""Hashes written or read at a time."""


class DuplicateCheck:
    """Collects ids; ``first`` then tells which of them occurred twice."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ids.hash"
        self._file = open(self._path, "wb")  # noqa: SIM115
        self._buffer = array("q")
        self.count = 0

    def add(self, identifier: str) -> None:
        """Note one id."""
        self._buffer.append(hash(identifier))  # salted, but the same within this process
        self.count += 1
        if len(self._buffer) >= BUFFER:
            self._buffer.tofile(self._file)
            del self._buffer[:]

    def first(self, records: Iterable[tuple[str, str]]) -> tuple[str, str, str] | None:
        """An id that occurred twice, with the two files that it is in; None if there is none.

        Args:
            records: (id, file) of all records, read again only if two hashes are equal.
        """
        self._buffer.tofile(self._file)
        self._file.close()
        passes = max(1, -(-self.count // PASS))
        suspects: set[int] = set()
        for turn in range(passes):
            suspects.update(self._repeated(turn, passes))
            if len(suspects) > PASS:
                break  # more than can be chance
        seen: dict[str, str] = {}
        if suspects:
            for identifier, file in records:
                if hash(identifier) in suspects:
                    if identifier in seen:
                        return identifier, seen[identifier], file
                    if len(seen) < 2 * PASS:
                        seen[identifier] = file
        return None

    def close(self) -> None:
        """Remove the spilled hashes."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _repeated(self, turn: int, passes: int) -> list[int]:
        """Hashes that occur twice among those of one pass."""
        chosen: list[np.ndarray] = []
        with open(self._path, "rb") as file:
            while len(part := np.fromfile(file, dtype=np.int64, count=BUFFER)):
                chosen.append(part if passes == 1 else part[part.view(np.uint64) % np.uint64(passes) == turn])
        hashes = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
        hashes.sort()
        return np.unique(hashes[1:][hashes[1:] == hashes[:-1]]).tolist()
