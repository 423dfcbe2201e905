"""Files that appear whole or not at all, and their digests.

A writer holds a lock on its output, works on a temporary name of its own in the same folder, syncs it and renames it. So
whatever other temporaries there are of that output were left by killed writers.
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
    """A name beside ``path`` that is this block's: what it makes there is gone afterwards, unless it renames it.

    Another writer of ``path`` is waited for; what killed ones left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _writing(path) as alone:
        if alone:
            for suffix in _SUFFIXES:
                for left in path.parent.glob(f".{glob.escape(path.name)}.????????{suffix}"):
                    _remove(left)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            yield temporary
        finally:
            for suffix in _SUFFIXES:
                _remove(temporary.with_suffix(suffix))


_SUFFIXES = (".tmp", ".old")
"""Of a writer's new content, and of a folder that it replaces."""


@contextmanager
def _writing(path: Path) -> Iterator[bool]:
    """Hold the lock on an output; whether there are locks on its file system, and so no other writer."""
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, f"writing {path}"))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            lock.unlink(missing_ok=True)
            yield False
            return
        stack.callback(lock.unlink, missing_ok=True)  # still held: who waits for it makes another
        yield True


_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
