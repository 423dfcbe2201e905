"""A gzip file compressed by several threads: one stream of independent blocks, as pigz -i makes them, for any reader."""

from __future__ import annotations

import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

BLOCK_BYTES = 1 << 19
"""Bytes in a block, before compression; a block doesn't know the text of the others, which costs a few bytes in 10,000."""
GZIP_LEVEL = 4  # thirty times as fast as the highest, for files a twelfth larger; bases hardly repeat

_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate; no name, no time, of no particular system
_END = b"\x03\0"  # an empty last block of deflate


class GzipWriter:
    """Context manager: what is written in its block becomes a gzip file. Equal content gives equal bytes.

    Args:
        file: takes the compressed bytes; it stays open.
        threads: that compress; at most two blocks for each are kept in memory.
    """

    def __init__(self, file: BinaryIO, threads: int = 1) -> None:
        self._file, self._threads = file, threads
        self._pool = ThreadPoolExecutor(threads)
        self._ahead = deque[Future[bytes]]()
        self._text, self._size, self._check = bytearray(), 0, 0

    def __enter__(self) -> GzipWriter:
        self._file.write(_HEADER)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with self._pool:
            if kind is None:
                self._compress(len(self._text))
                self._drain(0)
                self._file.write(_END + self._check.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little"))
            else:
                self._pool.shutdown(cancel_futures=True)

    def write(self, text: bytes) -> None:
        """Append to the text that the file holds."""
        self._text += text
        while len(self._text) >= BLOCK_BYTES:
            self._compress(BLOCK_BYTES)

    def _compress(self, size: int) -> None:
        if size:
            block = bytes(memoryview(self._text)[:size])
            del self._text[:size]
            self._check, self._size = zlib.crc32(block, self._check), self._size + size
            self._ahead.append(self._pool.submit(_deflated, block))
            self._drain(2 * self._threads)

    def _drain(self, most: int) -> None:
        """Write the first blocks until no more than ``most`` are in the making."""
        while len(self._ahead) > most:
            self._file.write(self._ahead.popleft().result())


def _deflated(block: bytes) -> bytes:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
