"""Files that appear whole or not at all, and their digests.

A writer works on a temporary name in the destination's own folder, syncs it and renames it. Beside it lies a file that
the writer holds an ``flock`` on, so that what a killed process left behind can be told from what a living one is still
writing: the kernel frees the lock with the process. (Not on the temporary itself: safetensors, for one, puts a new file
there.)
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

BLOCK = 1 << 20


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(BLOCK):
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

    A block that does more than write it (not ``only_writes``) has its writing in ``naming`` itself.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        temporary.touch(0o600)
        with naming(path) if only_writes else nullcontext():
            yield temporary
        with naming(path):
            os.chmod(temporary, 0o666 & ~_umask())
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces it if the block succeeds."""
    path = Path(path)
    with _temporary(path) as temporary, naming(path):
        temporary.mkdir(0o700)
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for entry in temporary.iterdir():
            sync(entry)
        sync(temporary)
        _replace_directory(temporary, path)
        sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a full disk or a lost mount be an OSError that names the file, which what ``write`` raises doesn't.

    Libraries in Rust, such as safetensors, have error types of their own and only quote the system's number.
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
    """A name beside ``path`` that is this block's: what it makes there is gone afterwards, unless it renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".lock", dir=path.parent)
        with suppress(OSError):  # a file system without locks, where nobody can have the lock that allows to remove it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(name):
            break
        os.close(descriptor)  # before it was locked, another writer took it for abandoned
    lock = Path(name)
    try:
        yield lock.with_suffix(".tmp")
    finally:
        _discard(lock)
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Delete temporaries of ``path`` whose writer no longer lives."""
    for lock in path.parent.glob(f".{glob.escape(path.name)}.????????.lock"):
        with suppress(OSError):  # held by a living writer, or already gone
            descriptor = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(lock)
            finally:
                os.close(descriptor)


def _discard(lock: Path) -> None:
    """Remove what a lock stands for, and then the lock."""
    for suffix in (".tmp", ".old"):
        left = lock.with_suffix(suffix)
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)


def _replace_directory(temporary: Path, path: Path) -> None:
    """Put a folder in another's place, whatever a second writer does meanwhile; the last one stays."""
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
