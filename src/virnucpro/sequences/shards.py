"""Writing shards: where they close, and the names that follow from their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20

_SUFFIXES = (".fna", ".faa")

QUALIFYING = 2.0
"""A chunk's hash qualifies with probability QUALIFYING / shard_frames, once in half a shard.

By simulation (``benchmarks/sequences.py --locality``) with the forced close at the best chunk seen, this
density leaves the fewest shards to compute again after an edit, for shards of 7 to 1,000 frames.
"""


@dataclass
class _Content:
    """What one shard holds up to some chunk."""

    digests: tuple[Any, Any] = field(default_factory=lambda: (hashlib.sha256(), hashlib.sha256()))
    """Running SHA-256 of the two files."""
    sizes: tuple[int, ...] = (0, 0)
    """Bytes in them."""
    counts: tuple[int, ...] = (0, 0, 0)
    """Frames, bases and residues."""

    def snapshot(self) -> _Content:
        return replace(self, digests=(self.digests[0].copy(), self.digests[1].copy()))


class ShardWriter:
    """Writes ``<sha>.fna`` and ``<sha>.faa`` into a folder.

    From half of ``limit`` frames on, a shard closes after the first chunk whose hash qualifies. If none
    does before the limit, it closes after the chunk with the lowest hash since then: that is content too,
    whereas closing at the limit itself would pass an edit's shift on to the next shard.

    Attributes:
        shards: the manifest's entries of the shards closed so far.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.shards: list[dict[str, Any]] = []
        self._folder, self._limit = folder, limit
        self._threshold = QUALIFYING / limit * 2.0**64
        self._files = [self._open(suffix) for suffix in _SUFFIXES]
        self._content = _Content()
        self._best: tuple[int, _Content] | None = None
        self._last = 0  # hash of the last chunk

    def add(self, texts: tuple[bytes, bytes], counts: tuple[int, int, int]) -> None:
        """Append a chunk: its frames as they stand in the two files; frames, bases and residues."""
        held = self._content.counts[0]
        if held and held + counts[0] > self._limit:
            self._close(self._best[1] if self._best else self._content)
            self._judge()  # what is left over may already be half a shard
        self._append(texts, counts)
        if 2 * self._content.counts[0] >= self._limit:
            self._last = int.from_bytes(hashlib.blake2b(b"".join(texts), digest_size=8).digest(), "big")
            self._judge()

    def finish(self) -> None:
        """Close the last shard."""
        if self._content.counts[0]:
            self._close(self._content)
        for file in self._files:
            file.close()
            Path(file.name).unlink()

    def _open(self, suffix: str) -> BinaryIO:
        return open(self._folder / f"part{len(self.shards)}{suffix}", "wb+")

    def _judge(self) -> None:
        """Close the shard after its last chunk, or note that as a place to do so later."""
        if 2 * self._content.counts[0] < self._limit:
            return
        if self._last < self._threshold:
            self._close(self._content)
        elif self._best is None or self._last < self._best[0]:
            self._best = self._last, self._content.snapshot()

    def _append(self, texts: tuple[bytes, bytes], counts: tuple[int, ...]) -> None:
        content = self._content
        for file, digest, text in zip(self._files, content.digests, texts, strict=True):
            file.write(text)
            digest.update(text)
        content.sizes = tuple(size + len(text) for size, text in zip(content.sizes, texts, strict=True))
        content.counts = tuple(map(sum, zip(content.counts, counts, strict=True)))

    def _close(self, content: _Content) -> None:
        """Close the shard after ``content``; what was written since then begins the next one."""
        digests = [digest.digest() for digest in content.digests]
        entry: dict[str, Any] = {"sha": hashlib.sha256(b"".join(digests)).hexdigest()[:32]}
        entry |= zip(("frames", "bases", "residues"), content.counts, strict=True)
        entry |= {f"{suffix[1:]}_sha256": digest.hex() for suffix, digest in zip(_SUFFIXES, digests, strict=True)}
        self.shards.append(entry)

        rest = tuple(whole - part for whole, part in zip(self._content.counts, content.counts, strict=True))
        done, self._files = self._files, [self._open(suffix) for suffix in _SUFFIXES]
        sizes, self._content, self._best = content.sizes, _Content(counts=rest), None
        for index, file in enumerate(done):
            file.seek(sizes[index])
            while block := file.read(BLOCK):
                self._files[index].write(block)
                self._content.digests[index].update(block)
            file.truncate(sizes[index])
            file.close()
            Path(file.name).rename(self._folder / f"{entry['sha']}{_SUFFIXES[index]}")
        self._content.sizes = tuple(file.tell() for file in self._files)
