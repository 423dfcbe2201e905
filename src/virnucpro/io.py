"""Files that appear whole or not at all, and their digests.

A writer holds a lock on its output, writes to a temporary name of its own in the same folder, syncs that and renames it. So
any other temporary file of that output was left by a killed writer.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from virnucpro.locks import locked

BLOCK_BYTES = 1 << 20

_TEMPORARY_SUFFIXES = (".tmp", ".old")
"""Of a writer's new content, and of a folder that it replaces."""
_NO_LOCK_ERRORS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Error numbers of a file system without locks."""


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: str | Path, only_writes: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` if the block succeeds.

    If the block does more than write the file (not ``only_writes``), it writes within ``named_in_errors`` itself.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        temporary.touch(0o600)
        with named_in_errors(path) if only_writes else nullcontext():
            yield temporary
        with named_in_errors(path):
            os.chmod(temporary, 0o666 & ~_umask())
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces it if the block succeeds."""
    path = Path(path)
    with _temporary(path) as temporary, named_in_errors(path):
        temporary.mkdir(0o700)
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for entry in temporary.iterdir():
            sync(entry)
        sync(temporary)
        _replace_directory(temporary, path)
        sync(path.parent)


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Make errors of the block name the file: the OSError that ``write`` raises, for a full disk say, doesn't.

    Libraries in Rust, such as safetensors, raise errors of their own that only quote the system's error number.
    """
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` for the block; what is there afterwards is removed, unless it was renamed.

    Waits for another writer of ``path``, and removes what killed ones left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _write_lock(path) as alone:
        if alone:
            for suffix in _TEMPORARY_SUFFIXES:
                for left in path.parent.glob(f".{glob.escape(path.name)}.????????{suffix}"):
                    _remove(left)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            yield temporary
        finally:
            for suffix in _TEMPORARY_SUFFIXES:
                _remove(temporary.with_suffix(suffix))


@contextmanager
def _write_lock(path: Path) -> Iterator[bool]:
    """Hold the lock on an output; yields False where the file system has no locks, so that there may be other writers."""
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, f"writing {path}"))
        except OSError as error:
            if error.errno not in _NO_LOCK_ERRORS:
                raise
            lock.unlink(missing_ok=True)
            yield False
            return
        stack.callback(lock.unlink, missing_ok=True)  # while it's held: a waiting writer makes a new one
        yield True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace_directory(temporary: Path, path: Path) -> None:
    """Put a folder in another's place, even if a second writer does the same meanwhile; the last one stays."""
    aside = temporary.with_suffix(".old")
    while True:
        with suppress(FileNotFoundError):
            os.rename(path, aside)
            shutil.rmtree(aside)
        try:
            os.rename(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
