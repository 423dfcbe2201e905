"""Shards of both encoders → one ``embeddings.h5`` per sample, everything checked on the way."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.embeddings.store import Source, create_merged, open_shard
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.errors import StorageError
from virnucpro.provenance import OF_JOBS, OF_VECTORS, RunRecord, read_attributes, resources_used
from virnucpro.sequences.split import read_sample

logger = logging.getLogger(__name__)

ROWS_PER_BLOCK = 1 << 14
"""Rows copied at a time."""
_SUMS = ("computed_frames", "tokens", "seconds", "gpu_seconds", "job_seconds", "cpu_seconds")
"""What a job used in all, of which each of the samples that share it had a part."""


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
        keep: "shards" to refer to the shards' files, which have to stay; "merged" to copy the vectors.
        run: kept with the result.

    Returns:
        The number of frames.

    Raises:
        InputError: the sample was refused when it was split.
        StorageError: a shard is missing, incomplete, from other weights, or has other ids or counts.
    """
    began = time.perf_counter()
    manifest = read_sample(shards, sample)
    specs = {"dna": read_spec(dna_model), "protein": read_spec(protein_model)}
    files = {
        role: {Path(path).stem: Path(path) for path in paths} for role, paths in (("dna", dna), ("protein", protein))
    }
    provenance: dict[str, Any] = {
        "run": (run or RunRecord()).as_dict(),
        "chunk_length": manifest["chunk_length"],
        "dna_encoder": describe(specs["dna"]),
        "protein_encoder": describe(specs["protein"]),
        "checkpoints": {role: spec.source for role, spec in specs.items()},
        "computed": {role: [] for role in specs},  # how, each way once
        "jobs": {"split": _part(manifest["job"], manifest["frames"], manifest["unit_frames"])},
        "shards": [],
    }
    sources: dict[str, list[Source]] = {role: [] for role in specs}
    dtypes = set()
    for piece in manifest["pieces"]:
        for role, spec in specs.items():
            if piece["sha"] not in files[role]:
                raise StorageError(f"{output}: shard {piece['sha']} has no {role} embeddings. Run the workflow again.")
            path = files[role][piece["sha"]]
            with open_shard(path) as file:
                _check(file, path, piece["of"], spec)
                attributes = read_attributes(file)
                dtypes.add(str(file["embeddings"].dtype))
            place = os.path.relpath(path, output.parent)
            sources[role].append(Source(place, attributes.get("id", ""), piece["of"], piece["first"], piece["frames"]))
            about = {"shard": path.stem, "encoder": role, "key": path.parent.name, "frames": piece["frames"]}
            statistics = {key: attributes[key] for key in OF_JOBS if key in attributes}
            provenance["shards"].append(about | _part(statistics, piece["frames"], piece["of"]))
            ways = [*attributes.get("computed_before", [])]
            if attributes.get("computed_frames", 1):
                ways.append({key: attributes[key] for key in OF_VECTORS if key in attributes})
            provenance["computed"][role] += [way for way in ways if way not in provenance["computed"][role]]
    widths = {role: spec.width for role, spec in specs.items()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    referred = sources if keep == "shards" else None
    with create_merged(output, manifest["frames"], widths, provenance, referred, dtype) as merged:
        row = 0
        for dna_source, protein_source in zip(sources["dna"], sources["protein"], strict=True):
            _append(merged, output.parent, dna_source, protein_source, row, copy=referred is None)
            row += dna_source.rows
        provenance["jobs"]["merge"] = resources_used(began)
    logger.info("merged %d frames from %d shards", manifest["frames"], len(manifest["pieces"]))
    return manifest["frames"]


def _part(used: dict[str, Any] | None, frames: int, of: int) -> dict[str, Any]:
    """What a job used for some of its frames: its sums in proportion, everything else as it is."""
    share = frames / of if of else 1.0
    return {key: value * share if key in _SUMS else value for key, value in (used or {}).items()}


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


def _check(file: h5py.File, path: Path, count: int, spec: EncoderSpec) -> None:
    """Refuse a shard's file that isn't of these weights, or has another number of frames."""
    if file.attrs["weights_sha256"] != spec.weights_sha256:
        raise StorageError(f"{path}: was made with other weights than {spec.name} has. Delete it and run again.")
    if (shape := file["embeddings"].shape) != (count, spec.width):
        raise StorageError(f"{path}: holds {shape}, expected {(count, spec.width)}. Delete it and run again.")


def _append(merged: h5py.File, folder: Path, dna: Source, protein: Source, row: int, copy: bool) -> None:
    """Write the ids of rows of a shard to rows ``row`` …, and with ``copy`` the vectors and digests."""
    with open_shard(folder / dna.path) as dna_file, open_shard(folder / protein.path) as protein_file:
        for start in range(0, dna.rows, ROWS_PER_BLOCK):
            size = min(ROWS_PER_BLOCK, dna.rows - start)
            here, there = (slice(at + start, at + start + size) for at in (dna.first, row))
            ids = dna_file["ids"][here]
            if not np.array_equal(ids, protein_file["ids"][here]):
                raise StorageError(
                    f"{folder / protein.path}: its frame ids differ from those of the DNA embeddings. Delete both and run again."
                )
            merged["ids"][there] = ids
            for role, file in (("dna", dna_file), ("protein", protein_file)) if copy else ():
                merged[role][there] = file["embeddings"][here]
                if "digests" in file:
                    merged[f"{role}_digests"][there] = file["digests"][here]
