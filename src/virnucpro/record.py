"""What every output records of the run that made it: versions, the configuration's digest, environment switches."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from virnucpro import __version__

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


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    """Version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
