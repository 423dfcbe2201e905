"""Shards of both encoders → one ``embeddings.h5`` per sample, which refers to their vectors or holds a copy of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.embeddings.store import ROWS_PER_CHUNK, Source, create_merged, open_shard, relative_path
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.errors import StorageError
from virnucpro.provenance import OF_JOBS, OF_VECTORS, RunRecord, read_attributes
from virnucpro.sequences.split import read_manifest

logger = logging.getLogger(__name__)

_OF_ALL_ROWS = ("tokens", "seconds", "gpu_seconds", "job_seconds", "cpu_seconds", "computed")
"""Statistics of a shard of which a sample has its share."""


@dataclass(frozen=True)
class _Piece:
    """A sample's rows of one shard in one encoder's file."""

    path: Path
    source: Source
    key: str  # the embedding key
    dtype: str
    digests: bool
    statistics: dict[str, Any]
    ways: list[dict[str, Any]]  # in which its vectors were computed


def merge(
    shards: Path,
    dna: Sequence[Path],
    protein: Sequence[Path],
    dna_model: Path,
    protein_model: Path,
    output: Path,
    run: RunRecord | None = None,
    *,
    pieces: Sequence[Mapping[str, Any]] | None = None,
    keep: str = "shards",
) -> int:
    """Join the vectors of all shards of a sample.

    Args:
        shards: the shard folder; its manifest gives order and counts.
        dna: a DNA encoder's file per shard.
        protein: a protein encoder's file per shard.
        dna_model, protein_model: the prepared encoders that made them.
        output: ``embeddings.h5``.
        run: kept with the result.
        pieces: the sample's rows, in order, each of a shard ``sha`` the ``frames`` from row ``first`` on; None: all rows
            of all shards.
        keep: ``shards``: the file refers to the vectors in the shards' files, by relative paths, and reads none;
            ``merged``: it holds them in one piece, so that the shards' files can go.

    Returns:
        The number of frames.

    Raises:
        StorageError: a shard is missing, incomplete, from other weights, or has other ids or counts.
    """
    if keep not in ("shards", "merged"):
        raise ValueError(f"keep: {keep!r} is neither 'shards' nor 'merged'")
    manifest = read_manifest(shards)
    totals = {shard["sha"]: shard["frames"] for shard in manifest["shards"]}
    if pieces is None:
        pieces = [{"sha": shard["sha"], "first": 0, "frames": shard["frames"]} for shard in manifest["shards"]]
        if (held := sum(piece["frames"] for piece in pieces)) != manifest["frames"]:
            raise StorageError(f"{shards}: the shards hold {held} frames, the manifest says {manifest['frames']}.")
    specs = {"dna": read_spec(dna_model), "protein": read_spec(protein_model)}
    files = {
        name: {Path(path).stem: Path(path) for path in paths} for name, paths in (("dna", dna), ("protein", protein))
    }
    output.parent.mkdir(parents=True, exist_ok=True)  # paths from it can be followed then
    found = _find(shards, output, pieces, totals, files, specs)
    every = [piece for own in found.values() for piece in own]
    dtype = _only(every, "dtype", "stored as") or "float32"
    keys = {name: key for name, own in found.items() if (key := _only(own, "key", "made under the key"))}
    provenance: dict[str, Any] = {
        "run": (run or RunRecord()).as_dict(),
        "chunk_length": manifest["chunk_length"],
        "dna_encoder": describe(specs["dna"]),
        "protein_encoder": describe(specs["protein"]),
        "checkpoints": {name: spec.source for name, spec in specs.items()},
        "keys": keys,
        "vectors": dtype,
        "computed": {name: _once(way for piece in own for way in piece.ways) for name, own in found.items()},
        "shards": [piece.statistics for pair in zip(*found.values(), strict=True) for piece in pair],
    }
    count = sum(piece.source.rows for piece in found["dna"])
    with create_merged(
        output, count, specs["dna"].width, specs["protein"].width, provenance,
        sources={name: [piece.source for piece in own] for name, own in found.items()} if keep == "shards" else None,
        digests=all(piece.digests for piece in every), vectors=dtype,
    ) as merged:  # fmt: skip
        for name, own in found.items():
            row = 0
            for each in own:
                _append(merged, name, each, row, keep == "merged")
                row += each.source.rows
    logger.info("merged %d frames from %d shards", count, len(found["dna"]))
    return count


def describe(spec: EncoderSpec) -> dict[str, Any]:
    """An encoder's identity, as recorded with results."""
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "weights_sha256": spec.weights_sha256,
        "layers": spec.config["layers"],
        "width": spec.width,
        "pooling": spec.pooling,
    }


def _find(
    shards: Path,
    output: Path,
    pieces: Sequence[Mapping[str, Any]],
    totals: Mapping[str, int],
    files: Mapping[str, Mapping[str, Path]],
    specs: Mapping[str, EncoderSpec],
) -> dict[str, list[_Piece]]:
    """The pieces by role, in order; ``totals`` are the shards' numbers of rows, ``files`` their files by role."""
    found: dict[str, list[_Piece]] = {name: [] for name in specs}
    for piece in pieces:
        sha, rows = piece["sha"], slice(piece["first"], piece["first"] + piece["frames"])
        if not piece["frames"]:
            continue
        if sha not in totals or rows.stop > totals[sha]:
            raise StorageError(f"{shards}: its manifest lacks rows of shard {sha}. Delete it and run again.")
        for name, spec in specs.items():
            if sha not in files[name]:
                raise StorageError(f"{output}: shard {sha} has no {name} embeddings. Run the workflow again.")
            found[name].append(_inspect(name, files[name][sha], spec, rows, totals[sha], output.parent))
    return found


def _inspect(name: str, path: Path, spec: EncoderSpec, rows: slice, count: int, folder: Path) -> _Piece:
    """What a shard's file of ``count`` rows says of these rows; refuses one that doesn't belong here."""
    with open_shard(path) as file:
        attributes = read_attributes(file)
        if attributes["weights_sha256"] != spec.weights_sha256:
            raise StorageError(f"{path}: was made with other weights than {spec.name} has. Delete it and run again.")
        shape = file["embeddings"].shape
        if shape != (count, spec.width):
            raise StorageError(f"{path}: holds {shape}, expected {(count, spec.width)}. Delete it and run again.")
        dtype, digests = file["embeddings"].dtype.name, "digests" in file
    own = rows.stop - rows.start
    key = attributes.get("key", path.parent.name)
    statistics = {each: attributes[each] for each in OF_JOBS if each in attributes}
    if own < count:
        for each in _OF_ALL_ROWS:
            if each in statistics:
                share = statistics[each] * own / count
                statistics[each] = round(share) if isinstance(statistics[each], int) else share
        statistics["shard_frames"] = count
    ways = json.loads(attributes["copied_ways"]) if "copied_ways" in attributes else []
    if attributes.get("computed", count):
        ways = [{each: attributes[each] for each in OF_VECTORS if each in attributes}, *ways]
    source = Source(relative_path(path, folder), rows.start, own, count, attributes.get("id"))
    statistics = {"shard": path.stem, "encoder": name, "key": key, "frames": own, **statistics}
    return _Piece(path, source, key, dtype, digests, statistics, ways)


def _only(pieces: Sequence[_Piece], attribute: str, what: str) -> str | None:
    """The value that all have, None without any."""
    values: dict[str, Path] = {}
    for piece in pieces:
        values.setdefault(getattr(piece, attribute), piece.path)
    if len(values) > 1:
        (one, path), (other, elsewhere) = list(values.items())[:2]
        raise StorageError(f"{elsewhere}: {what} {other}, but {path}: {one}. Delete both and run again.")
    return next(iter(values), None)


def _once(ways: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for way in ways:
        if way not in found:
            found.append(way)
    return found


def _append(merged: h5py.File, name: str, piece: _Piece, row: int, copy: bool) -> None:
    """Fill rows ``row`` … with what the file holds itself; the DNA file gives the ids, the protein file must agree."""
    path, source = piece.path, piece.source
    with open_shard(path) as file:
        for start in range(0, source.rows, ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, source.rows)
            here, there = slice(source.first + start, source.first + stop), slice(row + start, row + stop)
            ids = file["ids"][here]
            if name == "dna":
                merged["ids"][there] = ids
            elif not np.array_equal(merged["ids"][there], ids):
                raise StorageError(
                    f"{path}: its frame ids differ from those of the DNA embeddings. Delete both and run again."
                )
            if not copy:
                continue
            vectors = file["embeddings"][here]
            if not np.isfinite(vectors).all():
                raise StorageError(f"{path}: holds values that are not finite. Delete it and run again.")
            merged[name][there] = vectors
            if f"{name}_digests" in merged:
                merged[f"{name}_digests"][there] = file["digests"][here]
