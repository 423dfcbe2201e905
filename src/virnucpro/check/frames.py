"""The frames that are compared: some of the user's own, or those whose vectors were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from Bio.SeqIO.FastaIO import SimpleFastaParser

from virnucpro.errors import InputError
from virnucpro.sequences.shards import FRAMES, PARTIAL
from virnucpro.sequences.split import read_manifest, read_shard, shard_folder, shards_of_kind

SHARDS = 10
"""The user's frames come from at most so many shards."""

KINDS = {"dna": "nucleotide", "protein": "protein"}


@dataclass(frozen=True)
class Frames:
    """Frames and their sequences for each encoder."""

    ids: list[str]
    sequences: dict[str, list[bytes]]  # "dna", "protein"
    partial: int = 0  # how many of them, at the end, are partial frames


def sample_frames(folders: Sequence[Path], count: int, kinds: Sequence[str] = (FRAMES,)) -> Frames:
    """About ``count`` frames (all if there are fewer), evenly spaced over some of the shards of these folders.

    ``kinds`` are those of frames that are scored, ``frames`` and ``partial``. Raises InputError if there is none.
    """
    manifests = {folder: read_manifest(folder) for folder in folders}
    shards = [
        (shard_folder(folder, kind) / shard["sha"], kind)
        for kind in kinds
        for folder, manifest in manifests.items()
        for shard in shards_of_kind(manifest, kind)
        if shard["frames"]
    ]
    if not shards:
        wanted = "stop-free or partial frame" if PARTIAL in kinds else "stop-free frame"
        raise InputError(f"The samples hold no {wanted} to compare. Give sequences that have some.")
    chosen = [shards[at] for at in _spaced(len(shards), SHARDS)]
    found, partial = Frames([], {kind: [] for kind in KINDS}), 0
    for path, kind in chosen:
        ids, dna = read_shard(path.with_suffix(".fna"))
        protein = read_shard(path.with_suffix(".faa"))[1]
        for at in _spaced(len(ids), -(-count // len(chosen))):
            found.ids.append(ids[at])
            found.sequences["dna"].append(dna[at])
            found.sequences["protein"].append(protein[at])
            partial += kind == PARTIAL
    return replace(found, partial=partial)


def read_published(path: Path, widths: Sequence[int]) -> tuple[Frames, dict[str, np.ndarray]]:
    """Frames and vectors, (n, d) float32 per encoder, that someone else computed: the original's merged file.

    Args:
        path: ``.npz`` with ``ids`` (n,) and ``embeddings`` (n, DNA + protein columns); the frames' sequences are in
            its folder, as ``*identified_nucleotide.fa`` and ``*identified_protein.fa`` (or ``.faa``, ``.fasta``).
        widths: columns of the DNA and the protein encoder.

    Raises:
        InputError: what isn't there, can't be read or doesn't fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, vectors = file["ids"].tolist(), file["embeddings"].astype(np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: can't be read as published vectors ({error}). See docs/check.md for the format."
        ) from error
    if vectors.shape != (len(ids), sum(widths)):
        raise InputError(
            f"{path}: holds vectors of shape {vectors.shape} for {len(ids)} frames, but these encoders give "
            f"{' + '.join(map(str, widths))} columns. Choose the encoders that it was made with."
        )
    sequences = {}
    for kind, name in KINDS.items():
        files = sorted(path.parent.glob(f"*identified_{name}.fa*"))
        if len(files) != 1:
            raise InputError(f"{path}: its folder must hold one *identified_{name}.fa, not {len(files)}.")
        with open(files[0], encoding="utf-8") as handle:
            records = {title.split(None, 1)[0]: text.encode() for title, text in SimpleFastaParser(handle)}
        if missing := [name for name in ids if name not in records]:
            raise InputError(f"{files[0]}: has no sequence for {missing[0]}, which {path} has vectors of.")
        sequences[kind] = [records[name] for name in ids]
    return Frames(ids, sequences), dict(zip(KINDS, np.split(vectors, [widths[0]], axis=1), strict=True))


def _spaced(total: int, count: int) -> list[int]:
    """Up to ``count`` of 0 … total − 1, evenly spaced."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
