"""What every output records of its making, and what any of them says of it.

The run: versions, the configuration's digest, environment switches. The vectors: how they were computed, and how fast.
The tables: models, threshold and all of that.
"""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro import __version__
from virnucpro.errors import StorageError
from virnucpro.models.model_file import read_entry
from virnucpro.settings.options import path_keys

_FIRST_MAX_RSS = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
OF_VECTORS = ("precision", "backend", "batching", "compile", "device", "versions", "configuration_sha256", "switches")
"""Attributes of a shard that say how its vectors were computed; ``embeddings.h5`` has each way once."""
OF_JOBS = (
    "device", "precision", "backend", "tokens", "seconds", "tokens_per_second", "fill", "gpu_name", "gpu_seconds",
    "job_seconds", "cpu_seconds", "max_rss", "distinct", "computed",
)  # fmt: skip
"""Those that ``embeddings.h5`` keeps of each shard."""
OF_TABLES = (
    "threshold", "chunk_length", "classifier", "dna_encoder", "protein_encoder", "computed", "run", "configuration",
)  # fmt: skip
"""Keys of a sample's summary that say how its tables were made."""
OPTIONS_OF_VECTORS = (
    "chunk_length",
    "dnabert_model",
    "esm_model",
    "precision",
    "batching",
    "vectors",
    "keep",
    "partial_frames",
)
"""Options that a sample's ``embeddings.h5`` depends on."""
OPTIONS_OF_TABLES = (
    "classifier",
    "threshold",
    "calls",
    "fdr",
    "prior",
    "min_length",
    "min_chunks",
    "regions",
    "controls",
    "control_fasta",
)
"""Those that only its tables depend on."""
CONTENT = (
    "alphabet",
    "tokenizer",
    "metrics",
    "reliability",
    "weighted_reliability",
    "contig_calls",
    "false_discovery",
    "by_category",
    "confusion",
    "history",
    "calibration",
    "held_out",
    "rows",
    "gates",
    "not_available",
)
"""Keys of any record that hold its file's content, not its origin."""
RECORDS = ("summary.json", "evaluation.json", "training.json", "calibration.json", "check.json", "manifest.json")
"""What stands for the files beside it that have no room for a record: tables, FASTA, plots and pages."""


@dataclass(frozen=True)
class RunRecord:
    """A run as its jobs know it.

    Made while the workflow is parsed. None of it makes a result stale, so it isn't of a type that Snakemake compares.
    """

    configuration: Mapping[str, Any] = field(default_factory=dict)  # all options, resolved
    switches: Mapping[str, bool] = field(default_factory=dict)  # environment switches that are set
    snakemake: str | None = None  # version

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping for HDF5 attributes and JSON; versions are those of the process that asks."""
        places = path_keys()  # left out, so that the same run elsewhere has the same digest
        canonical = json.dumps(
            {key: value for key, value in self.configuration.items() if key not in places}, sort_keys=True
        )
        return {
            "versions": {
                "virnucpro": __version__,
                "python": platform.python_version(),
                "torch": package_version("torch"),
                "snakemake": self.snakemake,
            },
            "configuration_sha256": hashlib.sha256(canonical.encode()).hexdigest() if self.configuration else None,
            "switches": dict(self.switches),
        }


def resources_used(began: float) -> dict[str, float]:
    """What a job used until now: seconds since ``began`` (``perf_counter``), processor time, largest resident memory (MB).

    Processor time counts processes that were waited for. A process begins with the largest memory of the one that started it, so
    its own is known only where it is more.
    """
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    used = {
        "job_seconds": time.perf_counter() - began,
        "cpu_seconds": sum(each.ru_utime + each.ru_stime for each in (own, others)),
    }
    if own.ru_maxrss > _FIRST_MAX_RSS:
        used["max_rss"] = own.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return used


def other_options(folder: Path, configuration: Mapping[str, Any]) -> set[str]:
    """The options that decide on results and that those in a sample's folder were made with other values of.

    Empty where there are none, or where their summary doesn't say.
    """
    try:
        made = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["configuration"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {key for key in (*OPTIONS_OF_VECTORS, *OPTIONS_OF_TABLES) if key in made and made[key] != configuration[key]}


def origins(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """How the tables in these samples' folders were made: each way once, with the ``samples`` that it holds for.

    Folders without a summary are left out; raises StorageError for one that can't be read.
    """
    ways: list[tuple[dict[str, Any], list[str]]] = []
    for folder in folders:
        if not (path := folder / "summary.json").is_file():
            continue
        summary = read_json(path)
        made = {key: summary[key] for key in OF_TABLES if key in summary}
        samples = next((samples for known, samples in ways if known == made), None)
        if samples is None:
            ways.append((made, samples := []))
        samples.append(folder.name)
    return [{"samples": samples, **made} for made, samples in ways]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a record's file, empty for anything else that JSON can hold; StorageError if it isn't JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path}: can't be read as JSON ({error}). Delete it and run again.") from error
    return found if isinstance(found, dict) else {}


def read_provenance(path: str | Path) -> dict[str, Any]:
    """What a file records of its making; for a table, sequences or a report what the record beside it says.

    For the report over all samples, or a run's folder, it is what its samples' records say, each way once.

    Raises:
        StorageError: no such file, one that can't be read, or neither it nor its folder says anything.
        ModelError: a safetensors file that can't be read.
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
        if found.get("calibration"):
            found["calibrated_on"] = found["calibration"].get("fitted_on")
    else:
        found = _of_folder(path)
    if not found:
        raise StorageError(f"{path}: holds no record of its making. Name an output of this workflow.")
    return {key: value for key, value in found.items() if key not in CONTENT}


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


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """A shard's attributes, as they were given to ``ShardFile.finish``."""
    found = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    for key, value in found.items():
        if isinstance(value, str) and (value == "null" or value[:1] == "{"):
            with suppress(ValueError):
                found[key] = json.loads(value)
    return found


def package_version(package: str) -> str | None:
    """Version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
