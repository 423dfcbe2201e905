"""The content of a file in blocks, whether plain, gzip, bgzip or zstd: told by content, not by name."""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from virnucpro.errors import InputError

BLOCK_BYTES = 1 << 20
BLOCKS_AHEAD = 4
"""That a thread reads before they are asked for."""

_GZIP_MAGIC = b"\x1f\x8b"
_BGZF_MAGIC = (b"\x1f\x8b\x08\x04", b"BC\x02\x00")
"""Bytes 0-3 and 12-15: gzip with bgzip's extra field (SAM specification, 4.1)."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"
"""Bytes 1-3 of a zstd frame without content; pzstd writes one first."""
_HEAD_BYTES = 16
"""Enough to tell the compression."""
_INPUT_BYTES = {"gzip": 1 << 13, "zstd": 1 << 9}
"""Compressed bytes read at a time. They bound the memory: of gzip they become at most 8 MB; four bytes of zstd can
become 128 KB."""


def read_blocks(
    path: Path, at: Callable[[int], object] = id, warn: Callable[[str], object] = id, threads: int = 1
) -> Iterator[bytes]:
    """Decompressed content, in blocks of about ``BLOCK_BYTES`` bytes; memory doesn't grow with the file.

    The file is read once, from its beginning, so it may be a pipe.

    Args:
        path: the file.
        at: called before each block with the number of bytes of the (compressed) file read so far; not for a pipe.
        warn: called with a message about a bgzip file without its end mark.
        threads: with more than one, a thread reads some blocks ahead, and so many decompress bgzip. ``at`` and ``warn`` are
            called by a thread then.

    Raises:
        InputError: there is no such file, it can't be read, or its compressed data are truncated or corrupt.
    """
    if threads > 1 and path.is_file():  # a pipe that blocks would keep the thread from ending
        yield from _read_ahead(_read_blocks(path, at, warn, threads))
    else:
        yield from _read_blocks(path, at, warn, threads)


def _read_blocks(
    path: Path, at: Callable[[int], object], warn: Callable[[str], object], threads: int
) -> Iterator[bytes]:
    _check_kind(path)
    kind = "file"
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            kind = _compression(head)
            if kind == "file":
                blocks = _plain(head, file)
            elif threads > 1 and _is_bgzip(head):
                blocks = _bgzip(path, head, file, warn, threads)
            else:
                blocks = _members(path, head, file, kind, warn)
            for block in blocks:
                if file.seekable():
                    at(file.tell())
                yield block
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        if "too much memory" in str(error):
            raise InputError(f"{path}: zstd with a window over 128 MB. Compress it without --long.") from error
        raise InputError(f"{path}: truncated or corrupt {kind} ({error}). Copy or download it again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_kind(path: Path) -> None:
    """Refuse what isn't a file or a pipe."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link to {os.readlink(path)}, which doesn't exist. Correct the link, or give the file itself."
            ) from None
        raise InputError(f"{path}: no such file. Check the path in the sample table or on the command line.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder, not a file. Give the files in it, or a pattern such as '{path}/*.fa'.")
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        kind = "socket" if stat.S_ISSOCK(mode) else "device"
        raise InputError(f"{path}: a {kind}, not a file. Give a file or a pipe.")


def _unreadable(path: Path, error: OSError | ValueError) -> InputError:
    remedy = "Check its permissions." if isinstance(error, PermissionError) else "Check the path and its disk."
    return InputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}. {remedy}")


def _compression(head: bytes) -> str:
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    skippable = head[1:4] == _ZSTD_SKIPPABLE_MAGIC and head[0] >> 4 == 5
    return "zstd" if head.startswith(_ZSTD_MAGIC) or skippable else "file"


def _plain(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    for start in range(0, len(head), BLOCK_BYTES):
        yield head[start : start + BLOCK_BYTES]
    while block := file.read(BLOCK_BYTES):
        yield block


def _read_ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same blocks, read by a thread that is a few ahead."""
    with ThreadPoolExecutor(1, "read") as thread:
        ahead = deque(thread.submit(next, blocks, None) for _ in range(BLOCKS_AHEAD))
        try:
            while (block := ahead.popleft().result()) is not None:
                ahead.append(thread.submit(next, blocks, None))
                yield block
        finally:
            thread.shutdown(cancel_futures=True)


def _is_bgzip(head: bytes) -> bool:
    return (head[:4], head[12:16]) == _BGZF_MAGIC


def _bgzip(path: Path, head: bytes, file: BinaryIO, warn: Callable[[str], object], threads: int) -> Iterator[bytes]:
    """Content of a bgzip file, whose members say how long they are, so that threads can decompress them side by side.

    From the first batch on with a member that isn't as bgzip writes it, or is damaged, ``_members`` reads.
    """
    data, written, begun = head, 0, False
    waiting: deque[tuple[bytes, Future[tuple[bytes, int] | None]]] = deque()
    with ThreadPoolExecutor(threads, "bgzip") as pool:
        try:
            ended = False
            while waiting or not ended:
                while not ended and len(waiting) < 2 * threads:
                    more = file.read(BLOCK_BYTES >> 2)
                    data += more
                    size = _whole_members(data)
                    ended = not more or not size
                    if size:
                        waiting.append((data[:size], pool.submit(_decompress_members, data[:size])))
                        data = data[size:]
                if waiting:
                    done = waiting[0][1].result()
                    if done is None:
                        break
                    waiting.popleft()
                    begun, written = True, done[1]
                    yield done[0]
        finally:
            pool.shutdown(cancel_futures=True)
    left = _WithBytesBefore(b"".join([*(batch for batch, _ in waiting), data]), file)
    yield from _members(path, head, left, "gzip", warn, begun, written)


class _WithBytesBefore:
    """A file to read, after some bytes that were taken from it."""

    def __init__(self, before: bytes, file: BinaryIO) -> None:
        self._before, self._file = io.BytesIO(before), file
        self.start = file.tell() - len(before)

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end."""
        return self._before.read(size) or self._file.read(size)


def _member_sizes(data: bytes) -> Iterator[int]:
    """Of the whole bgzip members that ``data`` begins with, in bytes."""
    at = 0
    while _is_bgzip(data[at : at + _HEAD_BYTES]):
        size = int.from_bytes(data[at + 16 : at + 18], "little") + 1
        if size < _HEAD_BYTES + 2 or at + size > len(data):
            break
        yield size
        at += size


def _whole_members(data: bytes) -> int:
    return sum(_member_sizes(data))


def _decompress_members(data: bytes) -> tuple[bytes, int] | None:
    """The content of whole members, and how many bytes of it are the last one's; None if one is damaged."""
    content, at = [], 0
    try:
        for size in _member_sizes(data):
            member = zlib.decompressobj(31)
            content.append(member.decompress(data[at : at + size]))
            if not member.eof or member.unused_data:
                return None
            at += size
    except zlib.error:
        return None
    return b"".join(content), len(content[-1])


def _members(
    path: Path,
    head: bytes,
    file: BinaryIO | _WithBytesBefore,
    kind: str,
    warn: Callable[[str], object],
    begun: bool = False,
    written: int = 0,
) -> Iterator[bytes]:
    """Content of gzip members or zstd frames, one after the other, of a file of which ``head`` was read.

    If some were ``begun`` before, ``file`` is at the next one; ``written`` is the last one's content in bytes.

    The libraries' own file readers won't do: zstandard's takes a truncated frame for a whole one, and gzip's doesn't
    notice a bgzip file that was cut between two members.
    """
    member: Any = None
    ready: list[bytes] = []
    size = 0  # bytes in ``ready``
    # Bytes of the file not yet decompressed, and the offset where they end.
    data, end = head, len(head)
    if isinstance(file, _WithBytesBefore):
        data = file.read(_INPUT_BYTES[kind])
        end = file.start + len(data)
    while data:
        while data:
            if member is None:
                if begun and kind == "gzip":
                    data = data.lstrip(b"\0")  # padding, as on tapes
                    if not data:
                        break
                more = file.read(max(0, 4 - len(data)))
                data, end = data + more, end + len(more)
                if _compression(data) != kind:
                    raise InputError(
                        f"{path}: its {kind} ends at byte {end - len(data)}, and what follows isn't {kind}: {data[:20]!r}. "
                        "Remove it, or compress all parts of the file."
                    )
                member = zlib.decompressobj(31) if kind == "gzip" else zstandard.ZstdDecompressor().decompressobj()
                begun, written = True, 0
            ready.append(member.decompress(data))
            size += len(ready[-1])
            written += len(ready[-1])
            data = member.unused_data if member.eof else b""
            member = None if member.eof else member
        if size >= BLOCK_BYTES:
            yield b"".join(ready)
            ready, size = [], 0
        data = file.read(_INPUT_BYTES[kind])
        end += len(data)
    if member is not None:
        raise EOFError(f"it ends within a {'member' if kind == 'gzip' else 'frame'}")
    if _is_bgzip(head) and written:  # the end mark is an empty member
        warn(
            f"{path}: bgzip without its end mark. Some programs leave it out; but a file that was cut between two blocks "
            "looks the same: compare its size with the original's."
        )
    if size:
        yield b"".join(ready)
