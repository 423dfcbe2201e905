"""Layout of the HDF5 files: one per shard and model, and the merged one per sample, which may refer to rows of those.

All carry ``complete`` as their last-written attribute and appear by rename, so a reader can tell a finished file from
anything else. A sample's file has the vectors of stop-free frames at its top, and those of partial frames, if they are
scored, in the group ``partial``, in datasets of the same names. HDF5 reads rows of a file that is missing as NaN, and looks
for it in the current folder, too; so vectors that are referred to are read from the shards' files themselves, each of
which is checked, and again whenever it changed.
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.errors import ConfigError, StorageError
from virnucpro.io import atomic_file, named_in_errors
from virnucpro.sequences.shards import FRAMES, PARTIAL

ROWS_PER_CHUNK = 1024
"""Rows that are read or written at a time; about 2 GB/s at this size, and small enough to stream."""
DIGEST_BYTES = 16

_SOURCES = {FRAMES: "sources", PARTIAL: "partial_sources"}  # keys of the provenance
_STRING = h5py.string_dtype("utf-8")
_REMEDY = "Delete it and run again."


class ShardFile:
    """A shard's file in the making; rows may come in any order."""

    def __init__(
        self, file: h5py.File, path: Path, ids: Sequence[str], width: int, digests: np.ndarray | None, vectors: str
    ) -> None:
        self._file, self._path, self._ids, self._missing = file, path, ids, len(ids)
        self._dtype = np.dtype(vectors)
        file.create_dataset("ids", data=np.array(ids, dtype=object), dtype=_STRING)
        # Contiguous: chunks would be filled up, and a sample's rows may begin and end anywhere.
        file.create_dataset("embeddings", shape=(len(ids), width), dtype=self._dtype)
        if digests is not None:
            file.create_dataset("digests", data=digests, dtype="u1", shape=(len(ids), DIGEST_BYTES))
        file.attrs["count"] = len(ids)
        file.attrs["id"] = uuid.uuid4().hex

    def write(self, first: int, embeddings: np.ndarray) -> None:
        """Store (m, d) rows, float32 or of the file's own dtype, from row ``first`` on.

        Raises StorageError for values that aren't finite, ConfigError for those that float16 can't hold.
        """
        if embeddings.dtype not in (np.float32, self._dtype) or embeddings.shape[1:] != (self.width,):
            raise ValueError(f"expected float32 rows, got {embeddings.dtype} {embeddings.shape}")
        with np.errstate(over="ignore"):
            stored = embeddings.astype(self._dtype, copy=False)
        if not np.isfinite(stored).all():
            self._refuse(first, embeddings, stored)
        if len(stored):
            with named_in_errors(self._path):
                self._file["embeddings"][first : first + len(stored)] = stored
        self._missing -= len(stored)

    def write_rows(self, rows: np.ndarray, embeddings: np.ndarray) -> None:
        """Store (m, d) vectors as (m,) rows, which rise."""
        for part in runs(rows):
            self.write(int(rows[part.start]), embeddings[part])

    @property
    def width(self) -> int:
        """Columns of the vectors."""
        return int(self._file["embeddings"].shape[1])

    def finish(self, attributes: dict[str, Any]) -> None:
        """Add what describes the rows; values that HDF5 can't hold are stored as JSON."""
        if self._missing:
            raise ValueError(f"{self._missing} rows were not written, or written twice")
        with named_in_errors(self._path):
            for key, value in attributes.items():
                self._file.attrs[key] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
            self._file.attrs["complete"] = True
            self._file.close()  # what HDF5 still holds is written now

    def _refuse(self, first: int, embeddings: np.ndarray, stored: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        names = ", ".join(str(self._ids[first + row]) for row in bad[:10]) + ", ..." * (len(bad) > 10)
        if not np.isfinite(embeddings).all():
            raise StorageError(f"{self._path}: refused values that are not finite, of {names}. Run again.")
        raise ConfigError(
            f"vectors: float16 can't hold values of up to {np.abs(embeddings).max():,.0f} (65,504 is its largest), of "
            f"{names}. Use vectors: float32."
        )


@contextmanager
def create_shard(
    path: str | Path, ids: Sequence[str], width: int, digests: np.ndarray | None = None, vectors: str = "float32"
) -> Iterator[ShardFile]:
    """Create a shard's file for n frame ids, in shard order, and vectors of ``width``; appears whole or not at all.

    ``digests`` (n, 16) uint8 are those of the sequences, ``vectors`` is the stored dtype.
    """
    # Not all that fails in here is this file's fault: vectors are computed meanwhile.
    with atomic_file(path, only_writes=False) as temporary, h5py.File(temporary, "w", locking=False) as file:
        yield ShardFile(file, Path(path), ids, width, digests, vectors)


def write_shard(
    path: str | Path,
    ids: Sequence[str],
    embeddings: np.ndarray,
    attributes: dict[str, Any],
    digests: np.ndarray | None = None,
    vectors: str = "float32",
) -> None:
    """Write one shard's n ids, (n, d) float32 vectors and attributes at once."""
    with create_shard(path, ids, embeddings.shape[1], digests, vectors) as shard:
        shard.write(0, embeddings)
        shard.finish(attributes)


@contextmanager
def open_shard(path: str | Path, remedy: str = _REMEDY) -> Iterator[h5py.File]:
    """Open a shard's file for reading, refusing one that was not finished; ``remedy`` ends the message."""
    with _open_complete(path, ("ids", "embeddings"), remedy) as file:
        if any(len(file[name]) != file.attrs["count"] for name in ("ids", "embeddings", "digests") if name in file):
            raise StorageError(f"{path}: holds fewer rows than it says. {remedy}")
        yield file


def runs(rows: np.ndarray) -> list[slice]:
    """Places of (m,) rising rows that follow one another without a gap, in order."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]


@dataclass(frozen=True)
class Source:
    """Rows of a shard's file that a merged file refers to."""

    path: str  # of the shard's file, from the merged file's folder
    first: int  # row in the shard's file
    rows: int
    count: int  # rows that the shard's file has in all
    id: str | None  # its attribute; None: version 0.1 wrote none


def relative_path(file: Path, folder: Path) -> str:
    """Path of ``file`` from ``folder``; through links as they are named, if that leads there, else as they resolve."""
    named = os.path.relpath(file, folder)
    if os.path.exists(folder / named) and os.path.samefile(folder / named, file):
        return named
    return os.path.relpath(file.resolve(), folder.resolve())


@contextmanager
def create_merged(
    path: str | Path,
    count: int,
    dna_width: int,
    protein_width: int,
    provenance: dict[str, Any],
    *,
    partial: int | None = None,
    sources: Mapping[str, Mapping[str, Sequence[Source]]] | None = None,
    digests: bool = False,
    vectors: str = "float32",
) -> Iterator[h5py.File]:
    """Create ``embeddings.h5`` for ``count`` frames; the caller fills what it holds itself, and ``provenance``.

    Args:
        path: the file.
        count: rows.
        dna_width, protein_width: columns.
        provenance: may be added to until the block ends.
        partial: rows of partial frames; None: they aren't scored.
        sources: the shards' rows by kind and role, in order; then only ``ids`` are to be filled. None: ``dna`` and
            ``protein``, too.
        digests: whether it has ``dna_digests`` and ``protein_digests`` (to be filled where ``sources`` is None).
        vectors: dtype of the vectors.
    """
    with atomic_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        for kind, rows in ((FRAMES, count), (PARTIAL, partial)):
            if rows is None:
                continue
            place = place_of(file, kind, create=True)
            # Contiguous: shards end anywhere, and a part of a chunk costs reading and writing all of it.
            place.create_dataset("ids", shape=(rows,), dtype=_STRING)
            for role, width in (("dna", dna_width), ("protein", protein_width)):
                own = None if sources is None else sources[kind][role]
                _add(place, role, "embeddings", (rows, width), np.dtype(vectors), own)
                if digests:
                    _add(place, f"{role}_digests", "digests", (rows, DIGEST_BYTES), np.dtype("u1"), own)
        file.attrs["count"] = count
        yield file
        for kind, by_role in (sources or {}).items():
            referred = {role: [asdict(each) for each in found] for role, found in by_role.items()}
            provenance = provenance | {_SOURCES[kind]: referred}
        # Written last, so that the caller can add to it; a dataset, since an attribute ends at 64 kB.
        file.create_dataset("provenance", data=json.dumps(provenance), dtype=_STRING)
        file.attrs["complete"] = True


def place_of(file: h5py.File, kind: str, create: bool = False) -> h5py.Group:
    """Where a sample's file has the rows of a kind."""
    if kind == FRAMES:
        return file
    return file.create_group(kind) if create else file[kind]


def _add(
    file: h5py.Group, name: str, there: str, shape: tuple[int, int], dtype: np.dtype, sources: Sequence[Source] | None
) -> None:
    """Add a dataset: to be filled, or of rows of the shards' datasets ``there``."""
    if not sources:
        file.create_dataset(name, shape=shape, dtype=dtype)
        return
    layout, row = h5py.VirtualLayout(shape, dtype), 0
    for each in sources:
        whole = h5py.VirtualSource(each.path, there, shape=(each.count, shape[1]), dtype=dtype)
        layout[row : row + each.rows] = whole[each.first : each.first + each.rows]
        row += each.rows
    file.create_virtual_dataset(name, layout, fillvalue=np.nan if dtype.kind == "f" else 0)


class MergedEmbeddings:
    """Streaming reader of one ``kind`` of rows of ``embeddings.h5``, wherever its vectors lie.

    Raises StorageError for a file that isn't whole, and for shards that it refers to and that are missing, not whole, or
    made anew since: here, and again in whatever reads them.
    """

    def __init__(self, path: str | Path, kind: str = FRAMES):
        self.path, self.kind = Path(path), kind
        with _open_complete(self.path, ("ids", "dna", "protein", "provenance")) as file:
            self.scores_partial = PARTIAL in file
            self.dna_width = int(file["dna"].shape[1])
            self.protein_width = int(file["protein"].shape[1])
            self.provenance: dict[str, Any] = json.loads(file["provenance"].asstr()[()])
            place = place_of(file, kind) if kind in (FRAMES, *file) else {}
            self.count = len(place["ids"]) if place else 0
            found = self.provenance.get(_SOURCES[kind], {})
            self.sources = {role: [Source(**each) for each in found[role]] for role in found}
            for role in ("dna", "protein") if place else ():
                rows = sum(each.rows for each in self.sources.get(role, ()))
                if place[role].is_virtual and rows != self.count:
                    raise StorageError(f"{self.path}: refers to {rows} rows of {self.count}. {_REMEDY}")
        self._starts = {
            role: [0, *itertools.accumulate(each.rows for each in own)] for role, own in self.sources.items()
        }
        self._folders = list(dict.fromkeys([self.path.parent, self.path.resolve().parent]))  # where a link leads, too
        self._checked: dict[tuple[str, Source], tuple[int, ...]] = {}  # inode, size and time of what was in order
        for role, own in self.sources.items():
            for each in own:
                with self._open_source(role, each):
                    pass

    @property
    def width(self) -> int:
        """Columns of the joined features: DNA, then protein."""
        return self.dna_width + self.protein_width

    def windows(self, rows: int = 8 * ROWS_PER_CHUNK) -> list[slice]:
        """Rows of the file, in order, so many at a time."""
        return [slice(start, min(start + rows, self.count)) for start in range(0, self.count, rows)]

    def read(self, window: slice) -> tuple[list[str], np.ndarray]:
        """Ids and features (n, dna + protein) float32 of a window. Threads may read side by side."""
        return self.ids(window), self.features(window)

    def ids(self, window: slice) -> list[str]:
        """Ids of a window."""
        if not self.count:
            return []
        with h5py.File(self.path, "r", locking=False) as file:
            return place_of(file, self.kind)["ids"].asstr()[window].tolist()  # type: ignore[no-any-return]

    def features(self, window: slice) -> np.ndarray:
        """Features (n, dna + protein) float32 of a window. Threads may read side by side."""
        window = self._clip(window)
        features = np.empty((window.stop - window.start, self.width), np.float32)
        for role, columns in (("dna", np.s_[: self.dna_width]), ("protein", np.s_[self.dna_width :])):
            at = 0
            for vectors, _, rows in self.parts(role, window):
                here = slice(at, at := at + rows.stop - rows.start)
                if vectors.dtype == np.float32:
                    vectors.read_direct(features, rows, (here, columns))
                else:  # NumPy converts three times as fast as HDF5
                    features[here, columns] = vectors[rows]
        return features

    def parts(
        self, role: str, window: slice | None = None
    ) -> Iterator[tuple[h5py.Dataset, h5py.Dataset | None, slice]]:
        """Where the vectors of some rows lie: dataset of vectors, of digests if there is one, and rows in both.

        In order; each dataset can be read until the next one is asked for.
        """
        window = self._clip(window or slice(None))
        if not self.sources.get(role):
            with h5py.File(self.path, "r", locking=False) as file:
                place = place_of(file, self.kind) if self.count else {}
                if place:
                    yield place[role], place.get(f"{role}_digests"), window
            return
        starts, own = self._starts[role], self.sources[role]
        for place in range(bisect_right(starts, window.start) - 1, len(own)):
            if starts[place] >= window.stop:
                return
            shift = own[place].first - starts[place]
            rows = slice(max(window.start, starts[place]) + shift, min(window.stop, starts[place + 1]) + shift)
            with self._open_source(role, own[place]) as file:
                yield file["embeddings"], file.get("digests"), rows

    def _clip(self, window: slice) -> slice:
        """The rows of it that there are, as for a list."""
        start, stop, _ = window.indices(self.count)
        return slice(start, max(start, stop))

    @contextmanager
    def _open_source(self, role: str, source: Source) -> Iterator[h5py.File]:
        for folder in self._folders:
            path = folder / source.path
            with suppress(OSError):
                status = path.stat()
                break
        else:
            raise StorageError(
                f"{os.path.normpath(self.path.parent / source.path)}: no such file, but {self.path} refers to vectors in "
                f"it. Put it back, or delete {self.path} and run again."
            )
        now = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if self._checked.get((role, source)) == now:  # checking takes as long as reading some hundred rows
            with h5py.File(path, "r", locking=False) as file:
                yield file
            return
        with open_shard(path, f"Delete it and {self.path}, which refers to it, and run again.") as file:
            width = self.dna_width if role == "dna" else self.protein_width
            same = file["embeddings"].shape == (source.count, width)
            if not same or (source.id is not None and file.attrs.get("id") != source.id):
                raise StorageError(
                    f"{path}: isn't the file that {self.path} refers to, but was made anew since. Delete {self.path} and "
                    "run again."
                )
            self._checked[role, source] = now
            yield file


@contextmanager
def _open_complete(path: str | Path, datasets: tuple[str, ...], remedy: str = _REMEDY) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file.") from None
    except OSError as error:
        raise StorageError(f"{path}: not a readable HDF5 file ({error}). {remedy}") from error
    with file:
        if not file.attrs.get("complete", False) or any(name not in file for name in datasets):
            raise StorageError(f"{path}: was not written to its end. {remedy}")
        yield file
