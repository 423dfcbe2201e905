"""What every output records of the run that made it: versions, the configuration's digest, environment switches."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from virnucpro import __version__
from virnucpro.errors import StorageError

_INPUTS = ("samples", "training_data", "labels", "evaluate_split", "check_published")
PLACES = (*_INPUTS, "output_dir", "cache_dir", "models_dir", "gpu_lease_dir")
"""Keys that say where files are; the digest leaves them out, so that the same run elsewhere has the same."""


@dataclass(frozen=True)
class RunRecord:
    """A run as its jobs know it.

    Made while the workflow is parsed. None of it makes a result stale, so it isn't of a type that Snakemake compares.
    """

    configuration: Mapping[str, Any] = field(default_factory=dict)  # all keys, resolved
    switches: Mapping[str, bool] = field(default_factory=dict)  # environment switches that are set
    snakemake: str | None = None  # version

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping for HDF5 attributes and JSON; versions are those of the process that asks."""
        decisive = {key: value for key, value in self.configuration.items() if key not in PLACES}
        return {
            "versions": {
                "virnucpro": __version__,
                "python": platform.python_version(),
                "torch": _version("torch"),
                "snakemake": self.snakemake,
            },
            "configuration_sha256": _digest(decisive) if self.configuration else None,
            "switches": dict(self.switches),
        }


_ORIGIN = (
    "threshold",
    "chunk_length",
    "classifier",
    "dna_encoder",
    "protein_encoder",
    "computed",
    "run",
    "configuration",
)


def origins(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """How the tables in these samples' folders were made: each way once, with the ``samples`` that it holds for.

    Folders without a summary are left out; raises StorageError for one that can't be read.
    """
    ways: list[tuple[dict[str, Any], list[str]]] = []
    for folder in folders:
        if not (path := folder / "summary.json").is_file():
            continue
        summary = read_json(path)
        made = {key: summary[key] for key in _ORIGIN if key in summary}
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


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    """Version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
