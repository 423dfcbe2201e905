"""Shards of both encoders → one ``embeddings.h5`` per sample, which refers to their vectors or holds a copy of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.embeddings.store import ROWS_PER_CHUNK, Source, create_merged, open_shard, place_of, relative_path
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.errors import StorageError
from virnucpro.provenance import OF_JOBS, OF_VECTORS, RunRecord, read_attributes, resources_used
from virnucpro.sequences.shards import FRAMES, KINDS, PARTIAL, counted
from virnucpro.sequences.split import read_sample

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
    sample: str,
    dna: Sequence[Path],
    protein: Sequence[Path],
    dna_model: Path,
    protein_model: Path,
    output: Path,
    keep: str = "shards",
    run: RunRecord | None = None,
) -> int:
    """Join the vectors of all frames of a sample.

    Args:
        shards: the shard folder; its manifest gives order and counts.
        sample: the sample; it may have a part of a shard only.
        dna: a DNA encoder's file per shard.
        protein: a protein encoder's file per shard.
        dna_model, protein_model: the prepared encoders that made them.
        output: ``embeddings.h5``.
        keep: ``shards``: the file refers to the vectors in the shards' files, by relative paths, and reads none;
            ``merged``: it holds them in one piece, so that the shards' files can go.
        run: kept with the result.

    Returns:
        The number of frames.

    Raises:
        InputError: the sample was refused when it was split.
        StorageError: a shard is missing, incomplete, from other weights, or has other ids or counts.
    """
    if keep not in ("shards", "merged"):
        raise ValueError(f"keep: {keep!r} is neither 'shards' nor 'merged'")
    began = time.perf_counter()
    manifest = read_sample(shards, sample)
    specs = {"dna": read_spec(dna_model), "protein": read_spec(protein_model)}
    files = {
        name: {Path(path).stem: Path(path) for path in paths} for name, paths in (("dna", dna), ("protein", protein))
    }
    output.parent.mkdir(parents=True, exist_ok=True)  # paths from it can be followed then
    # Partial frames are scored where their vectors are given, and where there are none.
    partial = not manifest["pieces"][PARTIAL] or any(
        piece["sha"] in files["dna"] for piece in manifest["pieces"][PARTIAL]
    )
    kinds = KINDS if partial else (FRAMES,)
    of_kind = {kind: _find(output, manifest["pieces"][kind], files, specs) for kind in kinds}
    found = {name: [piece for own in of_kind.values() for piece in own[name]] for name in specs}
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
        "jobs": {"split": _share(manifest["job"] or {}, manifest[FRAMES], manifest["unit_frames"])},
        "shards": [piece.statistics for pair in zip(*found.values(), strict=True) for piece in pair],
    }
    rows = {kind: sum(piece.source.rows for piece in own["dna"]) for kind, own in of_kind.items()}
    sources = {
        kind: {name: [piece.source for piece in pieces] for name, pieces in own.items()}
        for kind, own in of_kind.items()
    }
    with create_merged(
        output, rows[FRAMES], specs["dna"].width, specs["protein"].width, provenance, partial=rows.get(PARTIAL),
        sources=sources if keep == "shards" else None, digests=all(piece.digests for piece in every), vectors=dtype,
    ) as merged:  # fmt: skip
        for kind, own in of_kind.items():
            row, place = 0, place_of(merged, kind)
            for pieces in zip(*own.values(), strict=True):
                _append(place, dict(zip(own, pieces, strict=True)), row, keep == "merged")
                row += pieces[0].source.rows
        provenance["jobs"]["merge"] = resources_used(began)
    said = " and ".join(counted(kind, rows[kind]) for kind in rows)
    logger.info("merged %s from %d shards", said, len(found["dna"]))
    return rows[FRAMES]


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
    output: Path,
    pieces: Sequence[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Path]],
    specs: Mapping[str, EncoderSpec],
) -> dict[str, list[_Piece]]:
    """The pieces by role, in order; ``files`` are the shards' files by role."""
    found: dict[str, list[_Piece]] = {name: [] for name in specs}
    for piece in pieces:
        rows = slice(piece["first"], piece["first"] + piece["frames"])
        for name, spec in specs.items():
            if (path := files[name].get(piece["sha"])) is None:
                raise StorageError(f"{output}: shard {piece['sha']} has no {name} embeddings. Run the workflow again.")
            found[name].append(_inspect(name, path, spec, rows, piece["of"], output.parent))
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
        statistics = _share(statistics, own, count) | {"shard_frames": count}
    ways = json.loads(attributes["copied_ways"]) if "copied_ways" in attributes else []
    if attributes.get("computed", count):
        ways = [{each: attributes[each] for each in OF_VECTORS if each in attributes}, *ways]
    source = Source(relative_path(path, folder), rows.start, own, count, attributes.get("id"))
    statistics = {"shard": path.stem, "encoder": name, "key": key, "frames": own, **statistics}
    return _Piece(path, source, key, dtype, digests, statistics, ways)


def _share(used: Mapping[str, Any], frames: int, of: int) -> dict[str, Any]:
    """What a job used for some of its frames: its sums in proportion, everything else as it is."""
    part = {each: used[each] * frames / max(1, of) for each in _OF_ALL_ROWS if each in used}
    return {**used, **{each: round(value) if isinstance(used[each], int) else value for each, value in part.items()}}


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


def _append(merged: h5py.Group, pieces: Mapping[str, _Piece], row: int, copy: bool) -> None:
    """Fill rows ``row`` … with what the file holds itself, of a shard's pieces by role, which must have the same ids."""
    rows = pieces["dna"].source.rows
    with ExitStack() as stack:
        files = {name: stack.enter_context(open_shard(piece.path)) for name, piece in pieces.items()}
        for start in range(0, rows, ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, rows)
            there = slice(row + start, row + stop)
            here = {name: slice(each.source.first + start, each.source.first + stop) for name, each in pieces.items()}
            ids = {name: file["ids"][here[name]] for name, file in files.items()}
            if not np.array_equal(ids["dna"], ids["protein"]):
                raise StorageError(
                    f"{pieces['protein'].path}: its frame ids differ from those of the DNA embeddings. Delete both and "
                    "run again."
                )
            merged["ids"][there] = ids["dna"]
            for name, file in files.items() if copy else ():
                vectors = file["embeddings"][here[name]]
                if not np.isfinite(vectors).all():
                    raise StorageError(
                        f"{pieces[name].path}: holds values that are not finite. Delete it and run again."
                    )
                merged[name][there] = vectors
                if f"{name}_digests" in merged:
                    merged[f"{name}_digests"][there] = file["digests"][here[name]]
