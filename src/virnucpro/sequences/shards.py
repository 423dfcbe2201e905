"""Deciding where a shard ends, and writing shards under names that are digests of their content.

A chunk ends a shard if its hash is the largest of all chunks whose ends lie within a third of ``limit`` frames on
either side, whatever came before: so an edit moves only the boundaries near it. (If one counted from the previous
boundary, an insertion could shift all that follow. Simulated in ``benchmarks/sequences.py --locality``.)
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from operator import add
from pathlib import Path
from typing import Any, BinaryIO

from virnucpro.io import BLOCK_BYTES, sha256_file

_COUNTS_LAYOUT = struct.Struct("5Q")
"""Frames, bases, residues and bytes in the two files, of a chunk or of a shard. Chunks whose shard isn't known yet are kept
in this form, since they can be a third of a shard."""

Counts = tuple[int, ...]


class Boundaries:
    """Groups a stream of chunks into shards of at most ``limit`` frames (or of one chunk)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reach = max(1, limit // 3)  # frames on either side
        self._seen = self._decided = 0  # frames in all chunks, and in those whose shard is known
        self._undecided: deque[bytes] = deque()
        self._peaks: deque[tuple[int, bytes, bool]] = (
            deque()
        )  # (end, hash, whether it's the largest to its left), hashes falling
        self._ends: deque[int] = deque()  # boundaries found, in frames, after ``_decided``
        self._shard: Counts = (0,) * 5

    def push(self, digest: bytes, counts: Counts) -> list[Counts]:
        """Take the next chunk's hash and counts; returns the counts of the shards that are complete now."""
        self._seen += counts[0]
        self._undecided.append(_COUNTS_LAYOUT.pack(*counts))
        while self._peaks and self._seen - self._peaks[0][0] >= self._reach:
            end, _, is_largest = self._peaks.popleft()
            if is_largest:
                self._ends.append(end)
        while self._peaks and self._peaks[-1][1] < digest:
            self._peaks.pop()
        self._peaks.append((self._seen, digest, not self._peaks))
        return self._decide(self._seen - self._reach)

    def finish(self) -> list[Counts]:
        """The remaining shards, at the end of the stream."""
        shards = self._decide(self._seen)
        return [*shards, self._take()] if self._shard[0] else shards

    def _decide(self, horizon: int) -> list[Counts]:
        """Complete shards among the chunks that end by the horizon, before which all boundaries are known."""
        shards = []
        while self._undecided:
            counts = _COUNTS_LAYOUT.unpack(self._undecided[0])
            if self._decided + counts[0] > horizon:
                break
            self._undecided.popleft()
            self._decided += counts[0]
            if self._shard[0] and self._shard[0] + counts[0] > self._limit:
                shards.append(self._take())
            self._shard = tuple(map(add, self._shard, counts))
            if self._ends and self._ends[0] == self._decided:
                self._ends.popleft()
                shards.append(self._take())
        return shards

    def _take(self) -> Counts:
        shard, self._shard = self._shard, (0,) * 5
        return shard


class ShardWriter:
    """Writes ``<sha>.fna`` and ``<sha>.faa`` into a folder.

    Frames are written at once; where their shard ends is known only some chunks later.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.shards: list[dict[str, Any]] = []  # entries of the manifest
        self._boundaries = Boundaries(limit)
        self._pending = [_Pending(folder / f"pending.{suffix}") for suffix in ("fna", "faa")]

    def add(self, dna: bytes, protein: bytes, counts: tuple[int, int, int]) -> None:
        """Append the frames of one chunk: FASTA text for the two files, and the numbers of frames, bases and residues."""
        self._pending[0].file.write(dna)
        self._pending[1].file.write(protein)
        digest = hashlib.blake2b(dna + protein, digest_size=8).digest()
        for shard in self._boundaries.push(digest, (*counts, len(dna), len(protein))):
            self._write(shard)

    def finish(self) -> None:
        """Close the last shard."""
        for shard in self._boundaries.finish():
            self._write(shard)
        for pending in self._pending:
            pending.close()

    def _write(self, shard: Counts) -> None:
        digests = [pending.cut(size) for pending, size in zip(self._pending, shard[3:], strict=True)]
        sha = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
        for pending in self._pending:
            os.rename(pending.front, pending.front.with_name(f"{sha}{pending.path.suffix}"))
        counts = dict(zip(("frames", "bases", "residues"), shard[:3], strict=True))
        self.shards.append({"sha": sha, **counts, "fna_sha256": digests[0], "faa_sha256": digests[1]})


class _Pending:
    """A file that grows at its end, and whose beginning is cut off, shard by shard."""

    def __init__(self, path: Path) -> None:
        self.path, self.front = path, path.with_stem("front")
        self.file: BinaryIO = open(path, "w+b", buffering=BLOCK_BYTES)

    def cut(self, size: int) -> str:
        """Move the first ``size`` bytes into the file ``front``; returns their SHA-256."""
        os.rename(self.path, self.front)
        with self.file as file:
            file.seek(size)
            self.file = open(self.path, "w+b", buffering=BLOCK_BYTES)
            while block := file.read(BLOCK_BYTES):
                self.file.write(block)
            file.truncate(size)
        return sha256_file(self.front)

    def close(self) -> None:
        """Remove the file, of which nothing may be left."""
        with self.file as file:
            left = file.seek(0, os.SEEK_END)
        self.path.unlink()
        if left:
            raise AssertionError(f"{self.path}: {left} bytes belong to no shard")
