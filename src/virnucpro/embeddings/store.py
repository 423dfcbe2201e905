"""Layout of the HDF5 files: one per shard and model, and the merged one per sample.

Both carry ``complete`` as their last-written attribute and appear by rename, so a reader can tell a
finished file from anything else.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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

    def __init__(
        self, file: h5py.File, path: Path, ids: Sequence[str], width: int, digests: np.ndarray | None, dtype: str
    ) -> None:
        self._file, self._path, self._missing = file, path, len(ids)
        file.create_dataset("ids", data=np.array(ids, dtype=object), dtype=_STRING)
        file.create_dataset("embeddings", shape=(len(ids), width), dtype=dtype, chunks=_chunks(len(ids), width))
        if digests is not None:
            file.create_dataset("digests", data=digests)
        file.attrs["count"] = len(ids)
        # So that a file that refers to this one notices another in its place.
        file.attrs["id"] = uuid.uuid4().hex

    def write(self, first: int, embeddings: np.ndarray) -> None:
        """Store (m, d) float32 rows from row ``first`` on; StorageError for a value that can't be stored."""
        target = self._file["embeddings"]
        if embeddings.dtype != np.float32 or embeddings.shape[1:] != target.shape[1:]:
            raise ValueError(f"expected float32 rows, got {embeddings.dtype} {embeddings.shape}")
        if len(embeddings):
            with np.errstate(over="ignore"):
                stored = embeddings.astype(target.dtype, copy=False)
            finite = np.isfinite(stored).all(axis=1)
            if not finite.all():
                row = first + int(np.argmin(finite))
                raise StorageError(f"{self._path}: the vector of {self._file['ids'].asstr()[row]} isn't finite as {target.dtype}. "
                                   "Set vectors: float32, or precision: float32.")  # fmt: skip
            with named_in_errors(self._path):
                target[first : first + len(embeddings)] = stored
        self._missing -= len(embeddings)

    def write_rows(self, rows: np.ndarray, embeddings: np.ndarray) -> None:
        """The same for rows (m,) int64 that rise, but needn't be next to one another."""
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            if len(run):
                self.write(int(rows[run[0]]), embeddings[run[0] : run[-1] + 1])

    def finish(self, attributes: dict[str, Any]) -> None:
        """Add what describes the rows; values that HDF5 can't hold are stored as JSON."""
        if self._missing:
            raise ValueError(f"{self._missing} rows were not written, or written twice")
        with named_in_errors(self._path):
            for key, value in attributes.items():
                self._file.attrs[key] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
            self._file.attrs["complete"] = True
            self._file.close()  # what HDF5 still holds is written now


def sequence_digests(sequences: Sequence[bytes]) -> np.ndarray:
    """(n, 16) uint8: BLAKE2b-128 of each sequence's letters, by which equal ones are found."""
    joined = b"".join(hashlib.blake2b(sequence, digest_size=16).digest() for sequence in sequences)
    return np.frombuffer(joined, np.uint8).reshape(len(sequences), 16)


@contextmanager
def create_shard(
    path: str | Path, ids: Sequence[str], width: int, digests: np.ndarray | None = None, dtype: str = "float32"
) -> Iterator[ShardFile]:
    """Create a shard's file, which appears whole or not at all.

    Args:
        path: the file.
        ids: n frame ids, in shard order.
        width: of the vectors.
        digests: (n, 16) uint8, see ``sequence_digests``.
        dtype: that vectors are stored in, ``float32`` or ``float16``.
    """
    # Not all that fails in here is this file's fault: vectors are computed meanwhile.
    with atomic_file(path, only_writes=False) as temporary, h5py.File(temporary, "w", locking=False) as file:
        yield ShardFile(file, Path(path), ids, width, digests, dtype)


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


@dataclass(frozen=True)
class Source:
    """Rows of a shard's file that ``embeddings.h5`` refers to."""

    path: str  # relative to the folder of embeddings.h5
    id: str  # of that very file; empty for one of version 0.1
    count: int  # frames in the file
    first: int  # row
    rows: int


@contextmanager
def create_merged(
    path: str | Path,
    count: int,
    widths: Mapping[str, int],
    provenance: dict[str, Any],
    sources: Mapping[str, Sequence[Source]] | None = None,
    dtype: str = "float32",
) -> Iterator[h5py.File]:
    """Create ``embeddings.h5``; the caller fills ``ids``, ``provenance`` and, without sources, ``dna`` and ``protein``.

    Args:
        path: the file.
        count: frames.
        widths: of the vectors, by role.
        provenance: stored at the end, as JSON.
        sources: by role, the rows of shards' files that the vectors are; else they are copied.
        dtype: of the vectors.
    """
    with atomic_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        # Contiguous: shards end anywhere, and a part of a chunk costs reading and writing all of it.
        file.create_dataset("ids", shape=(count,), dtype=_STRING)
        for role, width in widths.items():
            for name, columns, kind, inner in ((role, width, dtype, "embeddings"), (f"{role}_digests", 16, "uint8", "digests")):
                if sources is None or not count:
                    file.create_dataset(name, shape=(count, columns), dtype=kind)
                elif inner == "embeddings" or all(source.id for source in sources[role]):
                    layout, row = h5py.VirtualLayout((count, columns), kind), 0
                    for source in sources[role]:
                        rows = h5py.VirtualSource(source.path, inner, (source.count, columns), kind)
                        layout[row : row + source.rows] = rows[source.first : source.first + source.rows]
                        row += source.rows
                    # What HDF5 gives, without a word, for a source that is missing.
                    file.create_virtual_dataset(name, layout, fillvalue=np.nan if inner == "embeddings" else 0)
        file.attrs["count"] = count
        yield file
        # Written last, so that the caller can add to it; a dataset, since an attribute ends at 64 kB.
        if sources is not None:
            provenance["sources"] = {role: [asdict(source) for source in own] for role, own in sources.items()}
        file.create_dataset("provenance", data=json.dumps(provenance), dtype=_STRING)
        file.attrs["complete"] = True


class MergedEmbeddings:
    """Streaming reader of ``embeddings.h5``.

    Raises:
        StorageError: it isn't complete, or a shard's file that it refers to is missing or another one than it was; HDF5 itself
            reads such rows as NaN.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with _open_complete(self.path, ("ids", "dna", "protein", "provenance")) as file:
            self.count = int(file.attrs["count"])
            self.dna_width = int(file["dna"].shape[1])
            self.protein_width = int(file["protein"].shape[1])
            self.provenance: dict[str, Any] = json.loads(file["provenance"].asstr()[()])
        for sources in self.provenance.get("sources", {}).values():
            for source in sources:
                self._check(Source(**source))

    def _check(self, source: Source) -> None:
        path, remedy = self.path.parent / source.path, f"Delete {self.path} and run again."
        if not path.is_file():
            raise StorageError(f"{path}: is missing, and {self.path} refers to its vectors. {remedy}")
        with open_shard(path) as file:
            if (file.attrs.get("id", ""), len(file["embeddings"])) != (source.id, source.count):
                raise StorageError(f"{path}: isn't the file that {self.path} refers to. {remedy}")

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

    def digests(self, role: str) -> np.ndarray:
        """(n, 16) uint8 of the sequences in a role's letters; of no rows if the file is of version 0.1."""
        with h5py.File(self.path, "r", locking=False) as file:
            name = f"{role}_digests"
            return file[name][:] if name in file else np.empty((0, 16), np.uint8)

    def vectors(self, role: str, rows: slice) -> np.ndarray:
        """(n, width) float32 of some rows."""
        with h5py.File(self.path, "r", locking=False) as file:
            return file[role][rows].astype(np.float32)


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
