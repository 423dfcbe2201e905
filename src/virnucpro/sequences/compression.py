"""The content of a file in blocks, whether plain, gzip, bgzip or zstd: told by content, not by name."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from virnucpro.errors import InputError

BLOCK = 1 << 20

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BGZF = b"\x1f\x8b\x08\x04", b"BC\x02\x00"  # bytes 0-3 and 12-15: gzip with bgzip's extra field
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # SAM specification, 4.1.2
_ZSTD_INPUT = 1 << 9  # bytes decompressed at a time: four can become 128 KB
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}


def read_blocks(path: Path, at: Callable[[int], object] = id) -> Iterator[bytes]:
    """Decompressed content, in blocks of about ``BLOCK`` bytes; memory doesn't grow with the file.

    Before each block ``at`` is told how many bytes of the file itself have been read.

    Raises:
        InputError: the file can't be read, is compressed with something else, or is truncated or corrupt.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a file. Give the files in it, or a pattern such as '{path}/*.fa'.")
    kind = "file"
    content: Callable[[BinaryIO], Iterator[bytes]] = _read
    try:
        with open(path, "rb") as file:
            start = file.read(16)
            file.seek(0)
            for magic, name in _OTHERS.items():
                if start.startswith(magic):
                    raise InputError(f"{path}: compressed with {name}. Decompress it, or use gzip or zstd instead.")
            if start.startswith(_GZIP):
                kind = "gzip"
                if (start[:4], start[12:]) == _BGZF:
                    _check_end(path, file)
                content = _read_gzip
            elif start.startswith(_ZSTD):
                kind, content = "zstd", _read_zstd
            for block in content(file):
                at(file.tell())
                yield block
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Check the path in the sample table or on the command line.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        if "too much memory" in str(error):
            raise InputError(f"{path}: zstd with a window over 128 MB. Compress it without --long.") from error
        raise InputError(f"{path}: truncated or corrupt {kind} ({error}). Copy or download it again.") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}. Check its permissions.") from error


def _read(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _read_gzip(file: BinaryIO) -> Iterator[bytes]:
    return _read(gzip.GzipFile(fileobj=file))


def _check_end(path: Path, file: BinaryIO) -> None:
    """A bgzip file cut between two of its blocks is valid gzip: only its end mark tells."""
    file.seek(-len(_BGZF_END), io.SEEK_END)
    if file.read() != _BGZF_END:
        raise InputError(f"{path}: truncated bgzip: its end mark is missing. Copy or download it again.")
    file.seek(0)


def _read_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Frame after frame; zstandard's own reader takes a truncated frame for a whole one."""
    frame, ready, size = None, [], 0
    while data := file.read(_ZSTD_INPUT):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            ready.append(frame.decompress(data))
            size += len(ready[-1])
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
        if size >= BLOCK:
            yield b"".join(ready)
            ready, size = [], 0
    if frame is not None:
        raise EOFError("it ends within a frame")
    if size:
        yield b"".join(ready)
