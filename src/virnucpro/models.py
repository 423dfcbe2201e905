"""Which files a model's name stands for: bundled, published, or a path."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from virnucpro import installation
from virnucpro.configuration import nearest
from virnucpro.errors import ModelError

_ESM2_LAYERS = {"8M": 6, "35M": 12, "150M": 30, "650M": 33, "3B": 36, "15B": 48}
_ESM2 = {size: f"esm2_t{layers}_{size}_UR50D" for size, layers in _ESM2_LAYERS.items()}

PUBLISHED: dict[str, dict[str, tuple[str, ...]]] = {
    "esm2": {alias: (f"{name}.pt", name) for size, name in _ESM2.items() for alias in (size, name, f"facebook/{name}")},
    "dnabert_s": {alias: ("DNABERT-S",) for alias in ("DNABERT-S", "zhihan1996/DNABERT-S")},
    "classifier": {f"virnucpro-{length}": (f"{length}_model.pth",) for length in (500, 300)},
}
"""Published name → what it is called in the models folder, in order of preference."""

BUNDLED: dict[str, tuple[str, ...]] = {
    "esm2": ("mini-esm2",),
    "dnabert_s": ("mini-dnabert-s",),
    "classifier": ("mini-500", "mini-300"),
}

KEYS = {"esm2": "esm_model", "dnabert_s": "dnabert_model", "classifier": "classifier"}
"""Family → the configuration key that chooses it."""


@dataclass(frozen=True)
class ModelSource:
    """A model's checkpoint as the user has it."""

    family: str
    name: str
    path: Path

    @property
    def identifier(self) -> str:
        """File name for what is prepared from this checkpoint; differs for different paths."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.stem or self.name)
        return f"{slug}-{hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:10]}"

    @property
    def files(self) -> list[Path]:
        """The files whose change makes it another model."""
        if not self.path.is_dir():
            return [self.path]
        kinds = ("*.json", "*.safetensors", "*.bin")
        return sorted(file for kind in kinds for file in self.path.glob(kind))


def is_name(family: str, name: str) -> bool:
    """Whether a bundled or published model is called so (else it's a path)."""
    return name in BUNDLED[family] or name in PUBLISHED[family]


def find(family: str, name: str, models_dir: str | Path) -> ModelSource:
    """Resolve a bundled name, a published name or a path.

    Args:
        family: "esm2", "dnabert_s" or "classifier".
        name: what the configuration says.
        models_dir: folder of published models.

    Raises:
        ModelError: nothing of that name is there; names the key, the value and the remedy.
    """
    key = KEYS[family]
    if name in BUNDLED[family]:
        return ModelSource(family, name, installation.root() / "resources" / "models" / f"{name}.safetensors")
    if name in PUBLISHED[family]:
        candidates = [Path(models_dir) / file for file in PUBLISHED[family][name]]
        for candidate in candidates:
            if candidate.exists():
                return ModelSource(family, name, candidate)
        places = " or ".join(str(candidate) for candidate in candidates)
        raise ModelError(
            f"{key}: the published model '{name}' isn't on this machine: expected {places}. "
            f"Put it there, set 'models_dir', or give {key} a path."
        )
    path = Path(name).expanduser()
    if path.exists():
        return ModelSource(family, path.name, path.resolve())
    if "/" in name or path.suffix in (".pt", ".pth", ".safetensors", ".bin"):
        raise ModelError(f"{key}: {name}: no such file or folder (looked in {Path.cwd()}).")
    known = [*BUNDLED[family], *PUBLISHED[family]]
    raise ModelError(f"{key}: '{name}' is neither a path nor a known model{nearest(name, known)}.")
