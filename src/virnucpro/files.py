"""Files that appear whole or not at all, and their digests.

A writer works on a temporary name in the destination's own folder, syncs it and renames it. It holds
an ``flock`` on the temporary meanwhile, so that what a killed process left behind can be told from
what a living one is still writing: the kernel frees the lock with the process. On NFS other machines see the lock of
a file, but not that of a folder.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

from virnucpro.errors import InputError

BLOCK = 1 << 20


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def matching(path: Path) -> list[Path]:
    """The files, sorted, that a path with ``*``, ``?``, ``[...]`` or ``**`` stands for.

    A path that exists, or has none of these, stands for itself. Raises InputError if no file matches.
    """
    if not glob.has_magic(str(path)) or path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.iglob(str(path), recursive=True) if os.path.isfile(name))
    if not found:
        raise InputError(f"{path}: no file matches this pattern. Check the folder and the name's ending.")
    return found


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
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary, descriptor = _locked(path, tempfile.mkstemp)
    try:
        with naming(path) if only_writes else nullcontext():
            yield temporary
        with naming(path):
            os.chmod(temporary, 0o666 & ~_umask())
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces it if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary, descriptor = _locked(path, _make_folder)
    try:
        with naming(path):
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            for entry in temporary.iterdir():
                sync(entry)
            sync(temporary)
            _replace_directory(temporary, path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


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


def _replace_directory(temporary: Path, path: Path) -> None:
    """Put a folder in another's place, whatever a second writer does meanwhile; the last one stays."""
    for turn in count():
        aside = temporary.with_suffix(f".old{turn}.tmp")
        with suppress(FileNotFoundError):
            os.rename(path, aside)
        shutil.rmtree(aside, ignore_errors=True)  # which the other one may be doing, too
        try:
            os.rename(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _locked(path: Path, make: Callable[..., tuple[int, str]]) -> tuple[Path, int]:
    """A new temporary of ``path`` and the descriptor that locks it.

    Until it is locked another writer may take it for abandoned and remove it: then there is a next one.
    """
    while True:
        descriptor, name = make(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(name):
            return Path(name), descriptor
        os.close(descriptor)


def _make_folder(**name: Any) -> tuple[int, str]:
    while True:
        folder = tempfile.mkdtemp(**name)
        with suppress(FileNotFoundError):  # removed in this moment, as above
            return os.open(folder, os.O_RDONLY), folder


def _remove_abandoned(path: Path) -> None:
    """Delete temporaries of ``path`` whose writer no longer lives."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        try:
            descriptor = os.open(left, os.O_RDONLY if left.is_dir() else os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        except OSError:
            pass  # held by a living writer, or already gone
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
