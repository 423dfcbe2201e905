"""Where a result comes from: what any output of the workflow says of its making."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from virnucpro.embeddings.store import read_attributes
from virnucpro.errors import StorageError
from virnucpro.models.model_file import read_entry
from virnucpro.record import origins, read_json

RECORDS = ("summary.json", "evaluation.json", "training.json", "check.json", "manifest.json")
"""What stands for the files beside it that have no room for a record: tables, FASTA, plots and pages."""

_BULKY = (
    "alphabet",
    "tokenizer",
    "metrics",
    "reliability",
    "history",
    "rows",
    "gates",
    "not_available",
)  # content of a file rather than its origin


def read_provenance(path: str | Path) -> dict[str, Any]:
    """What a file records of its making; for a table, sequences or a report what the record beside it says.

    For the report over all samples, or a run's folder, it is what its samples' records say, each way once.

    Raises:
        StorageError: no such file, or neither it nor its folder says anything.
    """
    path = Path(path)
    if not path.exists():
        raise StorageError(f"{path}: no such file.")
    if (model := path / "model.safetensors").is_file():
        path = model
    if path.suffix == ".h5":
        found = _of_hdf5(path)
    elif path.suffix == ".safetensors":
        found = read_entry(path) or {}
    else:
        found = _of_folder(path)
    if not found:
        raise StorageError(f"{path}: holds no record of its making. Name an output of this workflow.")
    return {key: value for key, value in found.items() if key not in _BULKY}


def _of_hdf5(path: Path) -> dict[str, Any]:
    """The merged file's record, or a shard's attributes."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            if "provenance" in file:
                return json.loads(file["provenance"].asstr()[()])
            return read_attributes(file)
    except OSError as error:
        raise StorageError(f"{path}: not a readable HDF5 file ({error}). Delete it and run again.") from error


def _of_folder(path: Path) -> dict[str, Any]:
    folder = path if path.is_dir() else path.parent
    for record in (path, *(folder / name for name in RECORDS)):
        if record.suffix == ".json" and record.is_file():
            return read_json(record)
    if path.is_dir() or path.name == "report.html":  # of the run: each of its samples has a record
        if ways := origins(sorted(folder.glob("[!.]*/"))):
            return ways[0] if len(ways) == 1 else {"ways": ways}
    return {}
