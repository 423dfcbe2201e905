"""Layout of the HDF5 files: one per shard and model, and the merged one per sample.

Both carry ``complete`` as their last-written attribute and appear by rename, so a reader can tell a
finished file from anything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.errors import StorageError
from virnucpro.io import atomic_file, named_in_errors

ROWS_PER_CHUNK = 1024
"""Rows in one HDF5 chunk; about 2 GB/s at this size, and small enough to stream."""

_STRING = h5py.string_dtype("utf-8")


class ShardFile:
    """A shard's file in the making; rows may come in any order."""

    def __init__(self, file: h5py.File, path: Path, ids: Sequence[str], width: int) -> None:
        self._file, self._path, self._missing = file, path, len(ids)
        file.create_dataset("ids", data=np.array(ids, dtype=object), dtype=_STRING)
        file.create_dataset("embeddings", shape=(len(ids), width), dtype="f4", chunks=_chunks(len(ids), width))
        file.attrs["count"] = len(ids)

    def write(self, first: int, embeddings: np.ndarray) -> None:
        """Store (m, d) float32 rows from row ``first`` on."""
        if embeddings.dtype != np.float32 or embeddings.shape[1:] != self._file["embeddings"].shape[1:]:
            raise ValueError(f"expected float32 rows, got {embeddings.dtype} {embeddings.shape}")
        if len(embeddings):
            with named_in_errors(self._path):
                self._file["embeddings"][first : first + len(embeddings)] = embeddings
        self._missing -= len(embeddings)

    def finish(self, attributes: dict[str, Any]) -> None:
        """Add what describes the rows; values that HDF5 can't hold are stored as JSON."""
        if self._missing:
            raise ValueError(f"{self._missing} rows were not written, or written twice")
        with named_in_errors(self._path):
            for key, value in attributes.items():
                self._file.attrs[key] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
            self._file.attrs["complete"] = True
            self._file.close()  # what HDF5 still holds is written now


@contextmanager
def create_shard(path: str | Path, ids: Sequence[str], width: int) -> Iterator[ShardFile]:
    """Create a shard's file for n frame ids, in shard order, and vectors of ``width``; appears whole or not at all."""
    # Not all that fails in here is this file's fault: vectors are computed meanwhile.
    with atomic_file(path, only_writes=False) as temporary, h5py.File(temporary, "w", locking=False) as file:
        yield ShardFile(file, Path(path), ids, width)


def write_shard(path: str | Path, ids: Sequence[str], embeddings: np.ndarray, attributes: dict[str, Any]) -> None:
    """Write one shard's n ids, (n, d) float32 vectors and attributes at once."""
    with create_shard(path, ids, embeddings.shape[1]) as shard:
        shard.write(0, embeddings)
        shard.finish(attributes)


@contextmanager
def open_shard(path: str | Path) -> Iterator[h5py.File]:
    """Open a shard's file for reading, refusing one that was not finished."""
    with _open_complete(path, ("ids", "embeddings")) as file:
        if not len(file["ids"]) == len(file["embeddings"]) == file.attrs["count"]:
            raise StorageError(f"{path}: holds fewer rows than it says. Delete it and run again.")
        yield file


@contextmanager
def create_merged(
    path: str | Path, count: int, dna_width: int, protein_width: int, provenance: dict[str, Any]
) -> Iterator[h5py.File]:
    """Create ``embeddings.h5`` for ``count`` frames; the caller fills ``ids``, ``dna``, ``protein`` and ``provenance``."""
    with atomic_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        # Contiguous: shards end anywhere, and a part of a chunk costs reading and writing all of it.
        file.create_dataset("ids", shape=(count,), dtype=_STRING)
        for name, width in (("dna", dna_width), ("protein", protein_width)):
            file.create_dataset(name, shape=(count, width), dtype="f4")
        file.attrs["count"] = count
        yield file
        # Written last, so that the caller can add to it; a dataset, since an attribute ends at 64 kB.
        file.create_dataset("provenance", data=json.dumps(provenance), dtype=_STRING)
        file.attrs["complete"] = True


class MergedEmbeddings:
    """Streaming reader of ``embeddings.h5``."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with _open_complete(self.path, ("ids", "dna", "protein", "provenance")) as file:
            self.count = int(file.attrs["count"])
            self.dna_width = int(file["dna"].shape[1])
            self.protein_width = int(file["protein"].shape[1])
            self.provenance: dict[str, Any] = json.loads(file["provenance"].asstr()[()])

    @property
    def width(self) -> int:
        """Columns of the joined features: DNA, then protein."""
        return self.dna_width + self.protein_width

    def windows(self, rows: int = 8 * ROWS_PER_CHUNK) -> list[slice]:
        """Rows of the file, in order, so many at a time."""
        return [slice(start, min(start + rows, self.count)) for start in range(0, self.count, rows)]

    def read(self, window: slice) -> tuple[list[str], np.ndarray]:
        """Ids and features (n, dna + protein) float32 of a window. Threads may read side by side."""
        features = np.empty((window.stop - window.start, self.width), np.float32)
        with h5py.File(self.path, "r", locking=False) as file:
            file["dna"].read_direct(features, window, np.s_[:, : self.dna_width])
            file["protein"].read_direct(features, window, np.s_[:, self.dna_width :])
            return file["ids"].asstr()[window].tolist(), features


@contextmanager
def _open_complete(path: str | Path, datasets: tuple[str, ...]) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file.") from None
    except OSError as error:
        raise StorageError(f"{path}: not a readable HDF5 file ({error}). Delete it and run again.") from error
    with file:
        if not file.attrs.get("complete", False) or any(name not in file for name in datasets):
            raise StorageError(f"{path}: was not written to its end. Delete it and run again.")
        yield file


def _chunks(count: int, width: int | None = None) -> tuple[int, ...] | None:
    if count == 0:
        return None
    rows = min(count, ROWS_PER_CHUNK)
    return (rows,) if width is None else (rows, width)
