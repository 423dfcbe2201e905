"""Locks on files, by ``filelock``: held by one process at a time, and free again however that process ends.

A lock file says who holds it, as JSON. It outlives its holder; only whoever gets the lock knows that nobody holds it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


def try_lock(path: Path, purpose: str) -> FileLock | None:
    """Take a lock if nobody holds it; to be released by the caller.

    Args:
        path: of the lock file, which all users may open. It is made if it isn't there; its folder must be.
        purpose: what it is held for; those who wait see it.

    Raises:
        OSError: the file can't be opened, or its file system has no locks.
    """
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    write_holder(path, purpose)
    return lock


@contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Hold a lock, waiting for it as long as it takes and saying for whom; see ``try_lock``."""
    lock = try_lock(path, purpose)
    if lock is None:
        logger.info("waiting for %s", describe_holder(path))
        lock = _lock(path)
        lock.acquire()
        write_holder(path, purpose)
    try:
        yield
    finally:
        lock.release()


def write_holder(path: Path, purpose: str, **more: Any) -> None:
    """Say in a lock file that this process holds it, and what else the next holder may want to know."""
    text = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "purpose": purpose, **more})
    with suppress(OSError), open(path, "r+") as file:  # only for those who wait: a full disk must not matter
        file.truncate()
        file.write(text)


def read_holder(path: Path) -> dict[str, Any]:
    """What the holder of a lock, or the last one, says in it; empty if it says nothing."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def describe_holder(path: Path) -> str:
    """Who holds a lock, and what for, in words."""
    if not (holder := read_holder(path)):
        return "a process that just started"
    return "process {process} on {host} for {purpose}".format_map(
        {"process": "?", "host": "?", "purpose": "?"} | holder
    )


def _lock(path: Path) -> FileLock:
    # No soft locks (files that are there or not) where the file system has no others: a killed process leaves them.
    return FileLock(path, mode=0o666, thread_local=False, fallback_to_soft=False)
