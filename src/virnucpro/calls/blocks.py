"""Blocks of a sample: which rows of the embeddings, and which chunks of the sequences, are scored and written together.

Blocks end where a chunk ends. They follow from the data alone, never from the number of processes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.errors import StorageError
from virnucpro.sequences.records import RecordRow

MAX_CHUNKS = 65_536
"""Most chunks in a block: many have no frame, and a sequence without a chunk counts as one."""


class Block(NamedTuple):
    """Rows of the embeddings and the chunks that they belong to, with all chunks without a frame in between."""

    rows: slice
    records: list[RecordRow]
    first: (
        int  # chunk of the first sequence that the block begins with, 0-based; more than 0 if an earlier one has others
    )
    end: int  # chunk of the last sequence before which the block ends
    complete: bool  # whether that is the end of the last sequence
    partial: slice = slice(0)  # rows of partial frames


def misplaced(frame: str) -> StorageError:
    """The error for a frame that the sequences don't have where the embeddings have it."""
    return StorageError(
        f"{frame}: the embeddings hold this frame, but the sequences have no such chunk at its place. "
        "Delete the sample's embeddings and run again."
    )


def blocks(
    embeddings: MergedEmbeddings,
    partial: MergedEmbeddings,
    records: Iterable[RecordRow],
    chunk_length: int,
    max_chunks: int = MAX_CHUNKS,
) -> Iterator[Block]:
    """All blocks of a sample, in order: of a window's rows each, or of fewer where frames are rare.

    Args:
        embeddings, partial: of the sample's stop-free and partial frames.
        records: every sequence, in input order.
        chunk_length: bases per chunk.
        max_chunks: most chunks in a block.

    Raises:
        StorageError: a frame that a block would begin with is out of order or belongs to no sequence.
    """
    walk, start, row = _Walk(embeddings, records, chunk_length, max_chunks), 0, 0
    for window in embeddings.windows() or [slice(0, 0)]:
        if window.stop > start or not embeddings.count:
            stop, frame = _next_chunk(embeddings, window.stop)
            for block in walk.until(frame, start, stop):
                end = _first_beyond(partial, row, block)
                yield block._replace(partial=slice(row, end))
                row = end
            start = stop
    if row < partial.count:
        raise misplaced(partial.ids(slice(row, row + 1))[0])


def _first_beyond(partial: MergedEmbeddings, start: int, block: Block) -> int:
    """The first row of partial frames, from ``start`` on, whose chunk isn't in the block."""
    if start == partial.count or not block.records:
        return start
    names, last = {record.id for record in block.records}, block.records[-1].id

    def is_beyond(row: int) -> bool:
        record, number = _chunk_of(partial.ids(slice(row, row + 1))[0].rpartition(":")[0])
        return record not in names or (record == last and number >= block.end)

    return start + bisect_left(range(start, partial.count), True, key=is_beyond)


def _next_chunk(embeddings: MergedEmbeddings, row: int) -> tuple[int, str | None]:
    """The first row from ``row`` on that begins a chunk, and its id; the number of rows and None if there is none."""
    while row < embeddings.count:
        stop = min(row + 6, embeddings.count)  # a chunk has six frames at most
        before, *ids = embeddings.read(slice(row - 1, stop))[0]
        for at, frame in enumerate(ids, row):
            if frame[:-2] != before[:-2]:
                return at, frame
        row = stop
    return embeddings.count, None


class _Walk:
    """A walk over the chunks of all sequences."""

    def __init__(
        self, embeddings: MergedEmbeddings, records: Iterable[RecordRow], chunk_length: int, max_chunks: int
    ) -> None:
        self._embeddings, self._records = embeddings, iter(records)
        self._chunk_length, self._max_chunks = chunk_length, max_chunks
        self._current = next(self._records, None)
        self._at = 0  # the next chunk of the current sequence

    def until(self, frame: str | None, start: int, stop: int) -> Iterator[Block]:
        """Blocks from here to the chunk of ``frame`` (None: to the end), which have the rows ``start`` to ``stop``."""
        wanted, number = _chunk_of(frame) if frame is not None else (None, 0)
        taken: list[RecordRow] = []
        first, end, complete, left = self._at, 0, True, self._max_chunks
        while self._current is not None:
            record, length, *_ = self._current
            chunks = -(-length // self._chunk_length)
            if record == wanted and number == self._at:
                break
            if frame is not None and record == wanted and not self._at < number < chunks:
                raise misplaced(frame)
            taken.append(self._current)
            end = min(number if record == wanted else chunks, self._at + left)
            left -= max(end - self._at, 1)
            self._at = end
            if complete := end == chunks:
                self._current, self._at = next(self._records, None), 0
            if left <= 0 and self._current is not None:
                row = self._row(start, stop, taken, end)
                yield Block(slice(start, row), taken, first, end, complete)
                start, taken, first, left = row, [], self._at, self._max_chunks
        if frame is not None and self._current is None:
            raise misplaced(frame)
        if taken or start < stop:
            yield Block(slice(start, stop), taken, first, end if taken else 0, complete or not taken)

    def _row(self, start: int, stop: int, taken: list[RecordRow], end: int) -> int:
        """The first of these rows whose frame isn't of a chunk that was taken."""
        names, last = {record.id for record in taken}, taken[-1].id

        def is_later(row: int) -> bool:
            ((frame,), _) = self._embeddings.read(slice(row, row + 1))
            record, number = _chunk_of(frame)
            return record not in names or (record == last and number >= end)

        return bisect_left(range(start, stop), True, key=is_later) + start


def _chunk_of(frame: str) -> tuple[str, int]:
    """The sequence of a frame and its chunk, 0-based; -1 if the id isn't one of a frame."""
    record, _, number = frame[:-2].rpartition("_chunk_")
    return record, int(number) - 1 if number.isascii() and number.isdigit() and len(number) < 19 else -1
