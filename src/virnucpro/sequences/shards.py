"""Deciding where a shard ends, and writing shards under names that are digests of their content.

A chunk ends a shard if its hash is the largest of all chunks whose ends lie within a third of ``limit`` frames on
either side, whatever came before: so an edit moves only the boundaries near it. (If one counted from the previous
boundary, an insertion could shift all that follow. Simulated in ``benchmarks/sequences.py --locality``.)
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from virnucpro.io import BLOCK_BYTES, sha256_file
from virnucpro.rendering import how_many

FRAMES, PARTIAL = "frames", "partial"
"""What shards hold: stop-free frames, or of each chunk without one its longest stretch (see ``stretches``)."""
KINDS = (FRAMES, PARTIAL)
MAX_QUEUED_WRITES = 4
"""Blocks of text that wait for the disk, per file."""

Counts = tuple[int, ...]
"""Frames, bases, residues and bytes in the two files, of a shard."""


def counted(kind: str, count: int) -> str:
    """So many frames of a kind, in words."""
    return how_many(count, "frame" if kind == FRAMES else "partial frame")


class ChunkTexts(NamedTuple):
    """Frames of consecutive chunks (those that have any) as they are written, n chunks."""

    dna: bytes  # FASTA text, two lines a frame
    protein: bytes  # likewise, of the same frames
    counts: np.ndarray  # (n, 5) int64: frames, bases, residues, bytes in ``dna``, bytes in ``protein``
    hashes: np.ndarray  # (n,) uint64, of each chunk's two texts; see ``text_hash``


def text_hash(dna: bytes, protein: bytes) -> bytes:
    """Eight bytes (the first is the highest) that stand for a chunk's texts where the end of a shard is decided."""
    return hashlib.blake2b(dna + protein, digest_size=8).digest()


class Boundaries:
    """Groups a stream of chunks into shards of at most ``limit`` frames (or of one chunk)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reach = max(1, limit // 3)  # frames on either side
        self._seen = self._decided = 0  # frames in all chunks, and in those whose shard is known
        self._undecided: deque[np.ndarray] = deque()  # counts of the others
        # (end, hash, whether it's the largest to its left) of chunks that may yet end a shard, hashes falling
        self._peaks: list[tuple[int, np.uint64, bool]] = []
        self._ends: deque[int] = deque()  # boundaries found, in frames, after ``_decided``
        self._shard = np.zeros(5, dtype=np.int64)

    def push(self, hashes: np.ndarray, counts: np.ndarray) -> list[Counts]:
        """Take the next chunks; returns the counts of the shards that are complete now.

        Args:
            hashes: (n,) uint64.
            counts: (n, 5) int64, as in ``ChunkTexts``; each chunk has a frame.
        """
        ends = self._seen + np.cumsum(counts[:, 0])
        begin = 0
        while begin < len(ends):
            stop = int(np.searchsorted(ends, ends[begin] + self._reach))
            self._find_ends(hashes[begin:stop], ends[begin:stop])
            begin = stop
        if len(ends):
            self._seen = int(ends[-1])
            self._undecided.append(counts)
        return self._decide(self._seen - self._reach)

    def finish(self) -> list[Counts]:
        """The remaining shards, at the end of the stream."""
        shards = self._decide(self._seen)
        return [*shards, self._take()] if self._shard[0] else shards

    def _find_ends(self, hashes: np.ndarray, ends: np.ndarray) -> None:
        """Find boundaries with some more chunks, whose own ends all lie within reach of each other."""
        rising = np.maximum.accumulate(hashes)
        first = int(np.argmax(hashes))
        largest, kept = True, []
        for end, value, is_largest in self._peaks:
            beyond = int(np.searchsorted(ends, end + self._reach))  # the first chunk out of its reach
            larger = int(np.searchsorted(rising, value, "right"))  # the first chunk with a larger hash
            largest &= beyond <= first or value < hashes[first]
            if min(beyond, larger) == len(ends):
                kept.append((end, value, is_largest))
            elif beyond <= larger and is_largest:
                self._ends.append(end)
        falling = np.maximum.accumulate(hashes[::-1])[::-1]
        for index in np.flatnonzero(hashes == falling).tolist():  # none after it is larger
            kept.append((int(ends[index]), hashes[index], largest and index == first))
        self._peaks = kept

    def _decide(self, horizon: int) -> list[Counts]:
        """Complete shards among the chunks that end by the horizon, before which all boundaries are known."""
        shards = []
        while self._undecided:
            counts = self._undecided[0]
            ends = self._decided + np.cumsum(counts[:, 0])
            begin, known = 0, int(np.searchsorted(ends, horizon, "right"))
            while begin < known:
                most = self._decided + self._limit - self._shard[0]
                stop = max(begin, int(np.searchsorted(ends[:known], most, "right")))
                if stop == begin:  # the next chunk is too much
                    if self._shard[0]:
                        shards.append(self._take())
                        continue
                    stop = begin + 1
                closed = bool(self._ends) and self._ends[0] <= ends[stop - 1]
                if closed:
                    stop = int(np.searchsorted(ends, self._ends.popleft(), "right"))
                self._shard += counts[begin:stop].sum(axis=0)
                self._decided = int(ends[stop - 1])
                begin = stop
                if closed:
                    shards.append(self._take())
            if known < len(ends):
                self._undecided[0] = counts[known:]
                break
            self._undecided.popleft()
        return shards

    def _take(self) -> Counts:
        shard = tuple(self._shard.tolist())
        self._shard = np.zeros(5, dtype=np.int64)
        return shard


class ShardWriter:
    """A context manager that writes ``<sha>.fna`` and ``<sha>.faa`` into a folder.

    Frames are written at once; where their shard ends is known only some chunks later. Two threads write and compute
    digests, one for each kind of file.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.shards: list[dict[str, Any]] = []  # entries of the manifest; complete after ``finish``
        self._boundaries = Boundaries(limit)
        self._files = [_PendingFile(folder / f"pending.{suffix}") for suffix in ("fna", "faa")]
        self._closed: deque[tuple[Counts, list[Future[tuple[Path, str]]]]] = deque()  # shards not yet named

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(self, texts: ChunkTexts) -> None:
        """Append frames."""
        for file, text in zip(self._files, texts[:2], strict=True):
            file.write(text)
        self._close(self._boundaries.push(texts.hashes, texts.counts))

    def finish(self) -> None:
        """Close the last shard."""
        self._close(self._boundaries.finish())
        while self._closed:
            self._name(*self._closed.popleft())
        for file in self._files:
            file.finish()

    def _close(self, shards: list[Counts]) -> None:
        for shard in shards:
            self._closed.append((shard, [file.cut(size) for file, size in zip(self._files, shard[3:], strict=True)]))
        while self._closed and all(future.done() for future in self._closed[0][1]):
            self._name(*self._closed.popleft())

    def _name(self, shard: Counts, cut: list[Future[tuple[Path, str]]]) -> None:
        fronts, digests = zip(*(future.result() for future in cut), strict=True)
        sha = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
        for front in fronts:
            os.rename(front, front.with_name(f"{sha}{front.suffix}"))
        counts = dict(zip(("frames", "bases", "residues"), shard[:3], strict=True))
        self.shards.append({"sha": sha, **counts, "fna_sha256": digests[0], "faa_sha256": digests[1]})


class _PendingFile:
    """A file that grows at its end, and whose beginning is cut off, shard by shard; a thread does so, in the order asked."""

    def __init__(self, path: Path) -> None:
        self._path, self._cuts = path, 0
        self._file: BinaryIO = open(path, "w+b", buffering=BLOCK_BYTES)
        self._thread = ThreadPoolExecutor(1, "write")
        self._queued: deque[Future[Any]] = deque()

    def write(self, text: bytes) -> None:
        self._submit(lambda: self._file.write(text))

    def cut(self, size: int) -> Future[tuple[Path, str]]:
        """Move the first ``size`` bytes into a file of their own; gives its path and SHA-256."""
        self._cuts += 1
        return self._submit(self._cut, size, self._path.with_stem(f"cut-{self._cuts}"))

    def finish(self) -> None:
        """Remove the file, of which nothing may be left."""
        while self._queued:
            self._queued.popleft().result()
        left = self._file.seek(0, os.SEEK_END)
        self._path.unlink()
        if left:
            raise AssertionError(f"{self._path}: {left} bytes belong to no shard")

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)
        self._file.close()

    def _submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        while self._queued and (len(self._queued) >= MAX_QUEUED_WRITES or self._queued[0].done()):
            self._queued.popleft().result()
        self._queued.append(self._thread.submit(call, *arguments))
        return self._queued[-1]

    def _cut(self, size: int, front: Path) -> tuple[Path, str]:
        os.rename(self._path, front)
        with self._file as file:
            file.seek(size)
            self._file = open(self._path, "w+b", buffering=BLOCK_BYTES)
            while block := file.read(BLOCK_BYTES):
                self._file.write(block)
            file.truncate(size)
        return front, sha256_file(front)
