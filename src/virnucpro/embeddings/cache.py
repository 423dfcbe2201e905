"""A folder of finished shard embeddings, shared by runs, samples and users.

Entries are content-named, appear by rename and never change. Who computes one holds a lock on it, so
that a second run waits and takes the result.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from virnucpro.embeddings.store import open_shard
from virnucpro.errors import ConfigError, StorageError
from virnucpro.io import atomic_file
from virnucpro.locks import locked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheEntry:
    """One shard's place in the cache."""

    path: Path

    @classmethod
    def of(cls, cache_dir: str | Path, architecture: str, key: str, shard: str) -> CacheEntry:
        """The entry for a shard's vectors of one encoder."""
        return cls(Path(cache_dir) / "embeddings" / architecture / key / f"{shard}.h5")

    def fetch(self, output: Path) -> bool:
        """Place the entry at ``output`` if it is there and sound; a damaged one is removed."""
        if not self.path.exists():
            return False
        try:
            with open_shard(self.path):
                pass
            with atomic_file(output) as copy:  # no link: Snakemake dates its outputs, and that would date other runs'
                shutil.copyfile(self.path, copy)
        except StorageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno:  # can't be read now, but may be sound
                logger.warning("can't use a cache entry: %s", error)
            else:
                logger.warning("removed a damaged cache entry: %s", error)
                self.path.unlink(missing_ok=True)
            return False
        except OSError as error:
            logger.warning("can't use a cache entry: %s", error)
            return False
        with suppress(OSError):  # another user's
            self._lock.touch()  # the time of last use; the entry's own is also that of the output it was kept from
        return True

    def keep(self, output: Path) -> None:
        """Put a finished file into the cache, or say why not: the run goes on without."""
        try:
            _link(output, self.path)
        except OSError as error:
            logger.warning("can't keep %s in the cache: %s", output.name, error)

    @property
    def _lock(self) -> Path:
        return self.path.with_suffix(".lock")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the sole right to compute this entry, waiting for who holds it now.

        Where the cache can't be written, there is nothing to hold.
        """
        with ExitStack() as stack:
            try:
                _make_shared(self.path.parent)
                stack.enter_context(locked(self._lock, f"computing {self.path.name}"))
            except OSError as error:
                logger.warning("going on without the cache: %s", error)
            yield


@dataclass(frozen=True)
class CacheGroup:
    """What the cache holds for one encoder."""

    architecture: str
    key: str
    shards: int
    bytes: int
    last_used: float


def list_cache(cache_dir: str | Path) -> list[CacheGroup]:
    """Contents per encoder, largest first."""
    groups = []
    for folder in sorted((Path(cache_dir) / "embeddings").glob("*/*")):
        files = list(folder.glob("*.h5"))
        if files:
            size = sum(file.stat().st_size for file in files)
            groups.append(CacheGroup(folder.parent.name, folder.name, len(files), size, max(map(_last_use, files))))
    return sorted(groups, key=lambda group: -group.bytes)


def prune_cache(cache_dir: str | Path, unused_days: float) -> tuple[int, int]:
    """Remove entries not used for so many days; returns (entries, bytes) removed.

    Raises ConfigError for a sample's folder, which keeps its vectors in the same way.
    """
    if any((Path(cache_dir) / name).exists() for name in ("shards", "embeddings.h5", "summary.json")):
        raise ConfigError(
            f"{cache_dir}: is a sample's folder of results, not a cache. Give the folder named as cache_dir."
        )
    limit = time.time() - unused_days * 86400
    count = freed = 0
    for file in (Path(cache_dir) / "embeddings").glob("*/*/*.h5"):
        if re.fullmatch(r"[0-9a-f]{32}", file.stem) and _last_use(file) < limit:
            count, freed = count + 1, freed + file.stat().st_size
            file.unlink(missing_ok=True)
    return count, freed


def _last_use(entry: Path) -> float:
    lock = entry.with_suffix(".lock")
    return max((file.stat().st_mtime for file in (entry, lock) if file.exists()), default=0.0)


def _make_shared(folder: Path) -> None:
    """Make a cache folder that other users can add to, as far as the one above allows."""
    if not folder.is_dir():
        _make_shared(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)


def _link(source: Path, destination: Path) -> None:
    """Hard-link, or copy across file systems; ``destination`` appears whole either way."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.parent / f".{destination.name}.{secrets.token_hex(6)}.tmp"
    try:
        os.link(source, temporary)
        os.replace(temporary, destination)
        temporary.unlink(missing_ok=True)  # rename does nothing where both are links to one file
    except OSError:
        temporary.unlink(missing_ok=True)
        with atomic_file(destination) as copy:
            shutil.copyfile(source, copy)
