"""Vectors with the calls beside them, as AnnData (``.h5ad``), which scanpy and others read.

The format is HDF5 with attributes that name each part's encoding (anndata's "on-disk format", versions below); it is
written with h5py in blocks, since the package itself wants all of it in memory, and pandas, SciPy and zarr installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.errors import StorageError
from virnucpro.handover.join import check_finished
from virnucpro.io import atomic_file
from virnucpro.outputs import EMBEDDINGS, TABLES
from virnucpro.provenance import OF_TABLES, read_json
from virnucpro.result_tables import CONTIG_COLUMNS, PREDICTION_COLUMNS, read_rows
from virnucpro.sequences.shards import PARTIAL

FRAME, CONTIG = "frame", "contig"
LEVELS = (FRAME, CONTIG)
_ROWS = 64
"""Rows of a block in the file: with 3,328 columns less than the megabyte that HDF5 keeps of a dataset while it is written."""
_TEXT, _WORD, _WHOLE, _NUMBER = "text", "word", "i8", "f8"
_OF_CONTIG = ("call", "category", "probability")
_KINDS = {
    **dict.fromkeys(("record",), _TEXT),
    **dict.fromkeys(("strand", "frame", "label", "call", "category"), _WORD),
    **dict.fromkeys(("chunk", "start", "end", "length", "frames", "partial_frames"), _WHOLE),
    **dict.fromkeys(("score_others", "score_virus", "score", "probability"), _NUMBER),
}
_OF_FRAME = ("record", "chunk", "strand", "frame", "start", "end", "score_virus", "label")
COLUMNS = {
    FRAME: ("record", "chunk", "strand", "frame", "start", "end", "score", "label", *_OF_CONTIG),
    CONTIG: ("length", "frames", "partial_frames", "score", *_OF_CONTIG),
}
"""Columns of ``obs``. A frame's score is its ``score_virus``; a contig's ``mean_score``; the call is the contig's."""


def export(sample: Path, output: Path, level: str = FRAME) -> tuple[int, int]:
    """Write a sample's vectors, DNA before protein, as AnnData; memory doesn't grow with the sample.

    ``X`` is (n, dna + protein) float32: a row per stop-free frame, or per contig the mean over all of its frames, partial
    ones included if they were scored (contigs without any are left out).

    Returns:
        Rows written, and contigs left out at the level of contigs.

    Raises:
        StorageError: the sample isn't finished, has no vectors, or its tables are of others.
    """
    check_finished(sample)
    path = sample / EMBEDDINGS
    if not path.is_file():
        raise StorageError(
            f"{path}: no such file. With keep: none a run leaves no vectors; run again with --keep shards or merged."
        )
    merged = MergedEmbeddings(path)
    blocks = _frames(sample, merged)
    if level == CONTIG:
        blocks = _contigs(sample, blocks, MergedEmbeddings(path, PARTIAL))
    made = {key: value for key, value in read_json(sample / TABLES["summary"]).items() if key in OF_TABLES}
    with atomic_file(output) as temporary, h5py.File(temporary, "w", locking=False) as file:
        _mark(file, "anndata", "0.1.0")
        for name in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            _mark(file.create_group(name), "dict", "0.1.0")
        text = file["uns"].create_dataset("virnucpro", data=json.dumps(made), dtype=h5py.string_dtype())
        _mark(text, "string", "0.2.0")
        vectors = _growing(file, "X", np.dtype("f4"), merged.width)
        _mark(vectors, "array", "0.2.0")
        names = [
            f"{role}_{i}"
            for role, n in (("dna", merged.dna_width), ("protein", merged.protein_width))
            for i in range(n)
        ]
        roles = {"encoder": [name.partition("_")[0] for name in names]}
        _Frame(file, "var", {"encoder": _WORD}).add(names, roles).finish()
        observed, rows = _Frame(file, "obs", {name: _KINDS[name] for name in COLUMNS[level]}), 0
        for block in blocks:
            vectors.resize(rows + len(block.ids), axis=0)
            vectors[rows:] = block.vectors
            observed.add(block.ids, block.columns)
            rows += len(block.ids)
        observed.finish()
    left_out = 0
    if level == CONTIG:
        left_out = sum(1 for _ in read_rows(sample / TABLES["contigs"], CONTIG_COLUMNS)) - rows
    return rows, left_out


@dataclass
class _Block:
    """Some rows: names, columns of ``obs`` as text, and (n, d) float32 vectors."""

    ids: Sequence[str]
    columns: dict[str, Sequence[str]]
    vectors: np.ndarray


def _frames(sample: Path, merged: MergedEmbeddings) -> Iterator[_Block]:
    """The frames, block by block, with their contigs' calls."""
    predictions = read_rows(sample / TABLES["predictions"], PREDICTION_COLUMNS, ("frame_id", *_OF_FRAME))
    contigs = _Contigs(sample)
    for window in merged.windows(_ROWS * 32):
        ids, vectors = merged.read(window)
        rows = list(islice(predictions, len(ids)))
        if [row[0] for row in rows] != ids:
            raise _disagree(sample)
        columns: dict[str, Sequence[str]] = dict(zip(_OF_FRAME, list(zip(*rows, strict=True))[1:], strict=True))
        columns["score"] = columns.pop("score_virus")
        said = [contigs.of(record) for record in columns["record"]]
        yield _Block(ids, columns | {name: [row[name] for row in said] for name in _OF_CONTIG}, vectors)
    if next(predictions, None) is not None:
        raise _disagree(sample)


def _contigs(sample: Path, frames: Iterator[_Block], partial: MergedEmbeddings) -> Iterator[_Block]:
    """The means of the vectors of each contig's frames, partial ones included, block by block."""
    streams = [_Sums((block.columns["record"], block.vectors) for block in frames), _Sums(_partial(partial))]
    rows: list[dict[str, str]] = []
    means: list[np.ndarray] = []
    for row in read_rows(sample / TABLES["contigs"], CONTIG_COLUMNS):
        contig = dict(zip(CONTIG_COLUMNS, row, strict=True))
        counts, totals = zip(*(stream.of(contig["record"]) for stream in streams), strict=True)
        if not sum(counts):
            continue
        rows.append(
            contig | {"frames": str(counts[0]), "partial_frames": str(counts[1]), "score": contig["mean_score"]}
        )
        means.append(np.asarray(sum(totals) / sum(counts), np.float32))
        if len(means) == _ROWS:
            yield _of_contigs(rows, means)
            rows, means = [], []
    if means:
        yield _of_contigs(rows, means)
    if any(stream.left for stream in streams):
        raise _disagree(sample)


def _of_contigs(rows: list[dict[str, str]], means: list[np.ndarray]) -> _Block:
    columns: dict[str, Sequence[str]] = {name: [row[name] for row in rows] for name in COLUMNS[CONTIG]}
    return _Block([row["record"] for row in rows], columns, np.stack(means))


def _partial(merged: MergedEmbeddings) -> Iterator[tuple[list[str], np.ndarray]]:
    """Contigs and vectors of partial frames, block by block."""
    for window in merged.windows(_ROWS * 32):
        ids, vectors = merged.read(window)
        yield [identifier.rpartition("_chunk_")[0] for identifier in ids], vectors


class _Sums:
    """Sums of vectors per contig, asked in the contigs' order."""

    def __init__(self, blocks: Iterator[tuple[Sequence[str], np.ndarray]]):
        self._sums = self._added(blocks)
        self._next = next(self._sums, None)

    @property
    def left(self) -> bool:
        """Whether there are some that weren't asked for."""
        return self._next is not None

    def of(self, record: str) -> tuple[int, np.ndarray | float]:
        """A contig's number of frames and (d,) float64 sum of their vectors; zeros if it has none."""
        if self._next is None or self._next[0] != record:
            return 0, 0.0
        _, count, total = self._next
        self._next = next(self._sums, None)
        return count, total

    @staticmethod
    def _added(blocks: Iterator[tuple[Sequence[str], np.ndarray]]) -> Iterator[tuple[str, int, np.ndarray]]:
        """A contig may go on in the next block."""
        record, count, total = "", 0, np.zeros(0)
        for records, vectors in blocks:
            edges = [0, *(i for i in range(1, len(records)) if records[i] != records[i - 1]), len(records)]
            for first, last in pairwise(edges):
                if records[first] != record or not count:
                    if count:
                        yield record, count, total
                    record, count, total = records[first], 0, np.zeros(vectors.shape[1])
                count += last - first
                total = total + vectors[first:last].sum(axis=0, dtype=np.float64)
        if count:
            yield record, count, total


class _Contigs:
    """contigs.tsv, asked in its order."""

    def __init__(self, sample: Path):
        self._sample = sample
        self._rows = read_rows(sample / TABLES["contigs"], CONTIG_COLUMNS)
        self._last: dict[str, str] = {}

    def of(self, record: str) -> Mapping[str, str]:
        """The row of a contig: the one asked for last, or a later one."""
        while self._last.get("record") != record:
            if (row := next(self._rows, None)) is None:
                raise _disagree(self._sample)
            self._last = dict(zip(CONTIG_COLUMNS, row, strict=True))
        return self._last


class _Frame:
    """A data frame in the file (``obs`` or ``var``), written in blocks of rows."""

    def __init__(self, file: h5py.File, name: str, kinds: Mapping[str, str]):
        self._group, self._kinds, self._rows = file.create_group(name), kinds, 0
        self._words: dict[str, dict[str, int]] = {name: {} for name, kind in kinds.items() if kind == _WORD}
        _mark(self._group, "dataframe", "0.2.0")
        self._group.attrs["_index"] = "_index"
        self._group.attrs.create("column-order", list(kinds), dtype=h5py.string_dtype())
        self._data = {"_index": _texts(self._group, "_index")}
        for column, kind in kinds.items():
            if kind == _TEXT:
                self._data[column] = _texts(self._group, column)
            elif kind == _WORD:
                place = self._group.create_group(column)
                _mark(place, "categorical", "0.2.0")
                place.attrs["ordered"] = False
                self._data[column] = _growing(place, "codes", np.dtype("i1"))
                _mark(self._data[column], "array", "0.2.0")
            else:
                self._data[column] = _growing(self._group, column, kind)
                _mark(self._data[column], "array", "0.2.0")

    def add(self, ids: Sequence[str], columns: Mapping[str, Sequence[str]]) -> _Frame:
        """Add rows, from text; an empty cell is no value (NaN, or the category -1)."""
        last = self._rows + len(ids)
        for name, data in self._data.items():
            cells: Sequence[Any] = ids if name == "_index" else columns[name]
            if name in self._words:
                words = self._words[name]
                cells = [words.setdefault(cell, len(words)) if cell else -1 for cell in cells]
            elif self._kinds.get(name) == _NUMBER:
                cells = [float(cell or "nan") for cell in cells]
            elif self._kinds.get(name) == _WHOLE:
                cells = [int(cell) for cell in cells]
            data.resize(last, axis=0)
            data[self._rows :] = np.array(cells, data.dtype)
        self._rows = last
        return self

    def finish(self) -> None:
        """Write the categories."""
        for name, words in self._words.items():
            _texts(self._group[name], "categories", list(words))


def _texts(group: h5py.Group, name: str, texts: Sequence[str] = ()) -> h5py.Dataset:
    data = _growing(group, name, h5py.string_dtype())
    _mark(data, "string-array", "0.2.0")
    if texts:
        data.resize(len(texts), axis=0)
        data[:] = np.array(texts, object)
    return data


def _growing(group: h5py.Group, name: str, dtype: Any, width: int | None = None) -> h5py.Dataset:
    """An empty dataset of (n,) values, or of (n, width) ones, to be resized."""
    if width is None:
        return group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(_ROWS * 32,))
    return group.create_dataset(name, (0, width), dtype, maxshape=(None, width), chunks=(_ROWS, width))


def _mark(place: h5py.HLObject, kind: str, version: str) -> None:
    place.attrs["encoding-type"], place.attrs["encoding-version"] = kind, version


def _disagree(sample: Path) -> StorageError:
    return StorageError(
        f"{sample}: {EMBEDDINGS} and the tables aren't of the same frames, or not in the same order. Delete "
        f"{sample / TABLES['contigs']} and run again."
    )
