"""The content of a file in blocks, whether plain, gzip, bgzip or zstd: told by content, not by name."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from virnucpro.errors import InputError

BLOCK_BYTES = 1 << 20

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


def read_blocks(path: Path, at: Callable[[int], object] = id, warn: Callable[[str], object] = id) -> Iterator[bytes]:
    """Decompressed content, in blocks of about ``BLOCK_BYTES`` bytes; memory doesn't grow with the file.

    The file is read once, from its beginning, so it may be a pipe.

    Args:
        path: the file.
        at: called before each block with the number of bytes of the (compressed) file read so far; not for a pipe.
        warn: called with a message about a bgzip file without its end mark.

    Raises:
        InputError: there is no such file, it can't be read, or its compressed data are truncated or corrupt.
    """
    _check_kind(path)
    kind = "file"
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            kind = _compression(head)
            blocks = _plain(head, file) if kind == "file" else _members(path, head, file, kind, warn)
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


def _members(path: Path, head: bytes, file: BinaryIO, kind: str, warn: Callable[[str], object]) -> Iterator[bytes]:
    """Content of gzip members or zstd frames, one after the other.

    The libraries' own file readers won't do: zstandard's takes a truncated frame for a whole one, and gzip's doesn't
    notice a bgzip file that was cut between two members.
    """
    member: Any = None
    begun = size = written = 0  # number of members; bytes in ``ready``; content of the last member in bytes
    ready: list[bytes] = []
    data, end = head, len(head)  # bytes of the file not yet decompressed, and the offset where they end
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
                begun, written = begun + 1, 0
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
    if (head[:4], head[12:16]) == _BGZF_MAGIC and written:  # the end mark is an empty member
        warn(
            f"{path}: bgzip without its end mark. Some programs leave it out; but a file that was cut between two blocks "
            "looks the same: compare its size with the original's."
        )
    if size:
        yield b"".join(ready)
