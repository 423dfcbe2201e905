"""Shards of both encoders → one ``embeddings.h5`` per sample, everything checked on the way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.embeddings.store import ROWS_PER_CHUNK, create_merged, open_shard
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.errors import StorageError
from virnucpro.provenance import OF_JOBS, OF_VECTORS, RunRecord, read_attributes
from virnucpro.sequences.split import read_manifest

logger = logging.getLogger(__name__)


def merge(
    shards: Path,
    dna: Sequence[Path],
    protein: Sequence[Path],
    dna_model: Path,
    protein_model: Path,
    output: Path,
    run: RunRecord | None = None,
) -> int:
    """Join the vectors of all shards of a sample.

    Args:
        shards: the shard folder; its manifest gives order and counts.
        dna: a DNA encoder's file per shard.
        protein: a protein encoder's file per shard.
        dna_model, protein_model: the prepared encoders that made them.
        output: ``embeddings.h5``.
        run: kept with the result.

    Returns:
        The number of frames.

    Raises:
        StorageError: a shard is missing, incomplete, from other weights, or has other ids or counts.
    """
    manifest = read_manifest(shards)
    specs = {"dna": read_spec(dna_model), "protein": read_spec(protein_model)}
    files = {
        name: {Path(path).stem: Path(path) for path in paths} for name, paths in (("dna", dna), ("protein", protein))
    }
    provenance: dict[str, Any] = {
        "run": (run or RunRecord()).as_dict(),
        "chunk_length": manifest["chunk_length"],
        "dna_encoder": describe(specs["dna"]),
        "protein_encoder": describe(specs["protein"]),
        "checkpoints": {name: spec.source for name, spec in specs.items()},
        "computed": {name: [] for name in specs},  # how, each way once
        "shards": [],
    }
    row = 0
    with create_merged(output, manifest["frames"], specs["dna"].width, specs["protein"].width, provenance) as merged:
        for shard in manifest["shards"]:
            sha, count = shard["sha"], shard["frames"]
            for name, spec in specs.items():
                if sha not in files[name]:
                    raise StorageError(f"{output}: shard {sha} has no {name} embeddings. Run the workflow again.")
                statistics, how = _append(merged, name, files[name][sha], spec, row, count)
                provenance["shards"].append(statistics)
                if how not in provenance["computed"][name]:
                    provenance["computed"][name].append(how)
            row += count
        if row != manifest["frames"]:
            raise StorageError(f"{shards}: the shards hold {row} frames, the manifest says {manifest['frames']}.")
    logger.info("merged %d frames from %d shards", row, len(manifest["shards"]))
    return row


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


def _append(
    merged: h5py.File, name: str, path: Path, spec: EncoderSpec, row: int, count: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copy one shard's vectors to rows ``row`` …; the DNA file gives the ids, the protein file must agree.

    Returns the shard's statistics, and how it was computed.
    """
    with open_shard(path) as file:
        attributes = read_attributes(file)
        if attributes["weights_sha256"] != spec.weights_sha256:
            raise StorageError(f"{path}: was made with other weights than {spec.name} has. Delete it and run again.")
        shape = file["embeddings"].shape
        if shape != (count, spec.width):
            raise StorageError(f"{path}: holds {shape}, expected {(count, spec.width)}. Delete it and run again.")
        for start in range(0, count, ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, count)
            here, there = slice(start, stop), slice(row + start, row + stop)
            ids, vectors = file["ids"][here], file["embeddings"][here]
            if not np.isfinite(vectors).all():
                raise StorageError(f"{path}: holds values that are not finite. Delete it and run again.")
            if name == "dna":
                merged["ids"][there] = ids
            elif not np.array_equal(merged["ids"][there], ids):
                raise StorageError(
                    f"{path}: its frame ids differ from those of the DNA embeddings. Delete both and run again."
                )
            merged[name][there] = vectors
    statistics = {key: attributes[key] for key in OF_JOBS if key in attributes}
    how = {key: attributes[key] for key in OF_VECTORS if key in attributes}
    return {"shard": path.stem, "encoder": name, "key": path.parent.name, "frames": count, **statistics}, how
