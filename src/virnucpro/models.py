"""Which files a model's name stands for: bundled, published, or a path."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from virnucpro import installation
from virnucpro.errors import ModelError, nearest
from virnucpro.paths import expand_home
from virnucpro.settings.presets import PRESETS


class Published(NamedTuple):
    """A model that can be fetched: as a Hugging Face repository, or else as a single file from its publisher."""

    places: tuple[str, ...]  # what it may be called in the models folder, what is fetched first
    repository: str | None = None
    megabytes: int = 0  # of the download, about; memory is asked for by it before the files are there


_ESM2 = {
    "8M": ("esm2_t6_8M_UR50D", 30, 30),
    "35M": ("esm2_t12_35M_UR50D", 130, 130),
    "150M": ("esm2_t30_150M_UR50D", 590, 590),
    "650M": ("esm2_t33_650M_UR50D", 2600, 2600),
    "3B": ("esm2_t36_3B_UR50D", 5700, 11400),
    "15B": ("esm2_t48_15B_UR50D", 30300, 60600),
}
"""Size → name, megabytes of fair-esm's file (the largest two are in fp16) and of the Hugging Face repository."""
_DNABERT_S = "zhihan1996/DNABERT-S"

PUBLISHED: dict[str, dict[str, Published]] = {
    "esm2": {
        alias: Published((f"{name}.pt", name), None, size)
        for label, (name, size, _) in _ESM2.items()
        for alias in (label, name)
    }
    | {
        f"facebook/{name}": Published((name, f"{name}.pt"), f"facebook/{name}", size)
        for name, _, size in _ESM2.values()
    },
    "dnabert_s": {alias: Published(("DNABERT-S",), _DNABERT_S, 470) for alias in ("DNABERT-S", _DNABERT_S)},
    "classifier": {f"virnucpro-{length}": Published((f"{length}_model.pth",), None, 7) for length in (500, 300)},
}
"""Family → name → where it's kept and comes from."""

BUNDLED: dict[str, tuple[str, ...]] = {
    "esm2": ("mini-esm2",),
    "dnabert_s": ("mini-dnabert-s",),
    "classifier": ("mini-500", "mini-300"),
}

KEYS = {"esm2": "esm_model", "dnabert_s": "dnabert_model", "classifier": "classifier"}
"""Family → the configuration key that chooses it."""


@dataclass(frozen=True)
class ModelSource:
    """A model's checkpoint as the user has it, or, if it's a published one, as it will be when it is fetched."""

    family: str
    name: str
    path: Path
    published: Published | None = None

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

    @property
    def megabytes(self) -> int:
        """Size of the files; about, while they aren't fetched."""
        if self.published and not self.path.exists():
            return self.published.megabytes
        return sum(file.stat().st_size for file in self.files) // 2**20


def published(family: str, name: str) -> Published | None:
    """What a published model's name or a Hugging Face id of an encoder stands for; None for anything else."""
    if name in PUBLISHED[family]:
        return PUBLISHED[family][name]
    is_id = re.fullmatch(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", name)
    if family == "classifier" or not is_id or Path(name).suffix in _SUFFIXES or Path(name).parent.is_dir():
        return None
    return Published((name.replace("/", "--"),), name)


_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin")


def is_name(family: str, name: str) -> bool:
    """Whether a bundled or published model is called so (else it's a path)."""
    return name in BUNDLED[family] or published(family, name) is not None


def find(family: str, name: str, models_dir: str | Path) -> ModelSource:
    """Resolve a bundled name, a published name or a path; looks at the disk only.

    Args:
        family: "esm2", "dnabert_s" or "classifier".
        name: what the configuration says.
        models_dir: folder of published models; one that isn't there gets the path that fetching gives it.

    Raises:
        ModelError: nothing of that name is there; names the key, the value and the remedy.
    """
    key = KEYS[family]
    if name in BUNDLED[family]:
        return ModelSource(family, name, installation.root() / "resources" / "models" / f"{name}.safetensors")
    if model := published(family, name):
        if str(models_dir).startswith("~"):
            raise ModelError(
                f"{key}: {name} is looked for in {models_dir}, but you have no home folder. Give models_dir."
            )
        places = [Path(models_dir) / place for place in model.places]
        return ModelSource(family, name, next((place for place in places if place.exists()), places[0]), model)
    path = Path(expand_home(name))
    if os.path.exists(path):
        return ModelSource(family, path.name, path.resolve())
    if "/" in name or path.suffix in _SUFFIXES:
        raise ModelError(f"{key}: {name}: no such file or folder (looked in {Path.cwd()}).")
    known = [*BUNDLED[family], *PUBLISHED[family]]
    raise ModelError(f"{key}: '{name}' is neither a path nor a known model{nearest(name, known)}")


def find_published(name: str, models_dir: str | Path) -> list[ModelSource]:
    """The published models that a preset, a published model's name or a Hugging Face id asks for.

    Raises:
        ModelError: there is none of that name; names the nearest.
    """
    if name in PRESETS:
        wanted = [(family, PRESETS[name][key]) for family, key in KEYS.items()]
    else:
        named = [family for family in KEYS if name in PUBLISHED[family]]
        wanted = [(family, name) for family in named or KEYS if published(family, name)][:1]
    sources = [find(family, model, models_dir) for family, model in wanted if published(family, model)]
    if not sources and wanted:
        raise ModelError(f"'{name}' is part of this installation: there is nothing to fetch.")
    if not sources:
        known = [*PRESETS, *(alias for family in PUBLISHED.values() for alias in family)]
        raise ModelError(f"'{name}' isn't a published model{nearest(name, known)}")
    return sources
