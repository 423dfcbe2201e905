"""Which files a model's name stands for: bundled, published, or a path."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from virnucpro import installation
from virnucpro.errors import ModelError, nearest
from virnucpro.models.model_file import read_entry
from virnucpro.models.registry import (
    BUNDLED_CLASSIFIERS,
    CLASSIFIER,
    CLASSIFIERS,
    DNA,
    PROTEIN,
    Architecture,
    Published,
    architectures,
)
from virnucpro.paths import expand_home
from virnucpro.settings.presets import PRESETS

KEYS = {role.name: role.key for role in (PROTEIN, DNA)} | {CLASSIFIER: CLASSIFIER}
"""Role, or classifier → the configuration key that chooses it; in the order in which models are listed and fetched."""

PUBLISHED: dict[str, dict[str, Published]] = {
    role: {name: model for each in architectures(role) for name, model in each.published.items()} for role in KEYS
} | {CLASSIFIER: CLASSIFIERS}
"""Role, or classifier → name → where it's kept and comes from."""

BUNDLED: dict[str, tuple[str, ...]] = {
    role: tuple(name for each in architectures(role) for name in each.bundled) for role in KEYS
} | {CLASSIFIER: BUNDLED_CLASSIFIERS}


@dataclass(frozen=True)
class ModelSource:
    """A model's checkpoint as the user has it, or, if it's a published one, as it will be when it is fetched."""

    role: str  # or "classifier"
    name: str
    path: Path
    published: Published | None = None

    @cached_property
    def architecture(self) -> Architecture:
        """An encoder's: by its name, for a path by what the files there say, else the role's default.

        A model that may yet be fetched is told by its name alone, before and after that: rules are called after it.
        """
        known = architectures(self.role)
        if self.published:
            named = (each for each in known if self.name in each.published or each.shape_of(self.path.name))
            return next(named, known[0])
        said = _said(self.path)
        return next((each for each in known if said == each.name or said in each.model_types), known[0])

    @property
    def kind(self) -> str:
        """The architecture's name, or ``classifier``: in names of rules and files."""
        return self.role if self.role == CLASSIFIER else self.architecture.name

    @property
    def identifier(self) -> str:
        """File name for what is prepared from this checkpoint; differs for different paths."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.stem or self.name)
        return f"{slug}-{hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:10]}"

    @property
    def origin(self) -> str:
        """The address that a published model is fetched from; empty for any other."""
        if self.published and self.published.repository:
            hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
            return f"{hub}/{self.published.repository}"
        if self.published and self.published.publisher:
            variable, default = self.published.publisher
            return f"{os.environ.get(variable, default).rstrip('/')}/{self.path.name}"
        return ""

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


def _said(path: Path) -> str | None:
    """What a prepared file or a Hugging Face folder calls its architecture; None where neither can be read."""
    try:
        if path.is_dir():
            return json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
        return (read_entry(path) or {}).get("architecture")
    except (OSError, ValueError, AttributeError, ModelError):  # preparing it says what is wrong
        return None


def published(role: str, name: str) -> Published | None:
    """What a published model's name or a Hugging Face id of an encoder stands for; None for anything else."""
    if name in PUBLISHED[role]:
        return PUBLISHED[role][name]
    is_id = re.fullmatch(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", name)
    if role == CLASSIFIER or not is_id or Path(name).suffix in _SUFFIXES or Path(name).parent.is_dir():
        return None
    return Published((name.replace("/", "--"),), name)


_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin")


def is_name(role: str, name: str) -> bool:
    """Whether a bundled or published model is called so (else it's a path)."""
    return name in BUNDLED[role] or published(role, name) is not None


def find(role: str, name: str, models_dir: str | Path) -> ModelSource:
    """Resolve a bundled name, a published name or a path; looks at the disk only.

    Args:
        role: "dna", "protein" or "classifier".
        name: what the configuration says.
        models_dir: folder of published models; one that isn't there gets the path that fetching gives it.

    Raises:
        ModelError: nothing of that name is there; names the key, the value and the remedy.
    """
    key = KEYS[role]
    if name in BUNDLED[role]:
        return ModelSource(role, name, installation.root() / "resources" / "models" / f"{name}.safetensors")
    if model := published(role, name):
        if str(models_dir).startswith("~"):
            raise ModelError(
                f"{key}: {name} is looked for in {models_dir}, but you have no home folder. Give models_dir."
            )
        places = [Path(models_dir) / place for place in model.places]
        return ModelSource(role, name, next((place for place in places if place.exists()), places[0]), model)
    path = Path(expand_home(name))
    if os.path.exists(path):
        return ModelSource(role, path.name, path.resolve())
    if "/" in name or path.suffix in _SUFFIXES:
        raise ModelError(f"{key}: {name}: no such file or folder (looked in {Path.cwd()}).")
    known = [*BUNDLED[role], *PUBLISHED[role]]
    raise ModelError(f"{key}: '{name}' is neither a path nor a known model{nearest(name, known)}")


def find_published(name: str, models_dir: str | Path) -> list[ModelSource]:
    """The published models that a preset, a published model's name or a Hugging Face id asks for.

    Raises:
        ModelError: there is none of that name; names the nearest.
    """
    if name in PRESETS:
        wanted = [(role, PRESETS[name][key]) for role, key in KEYS.items()]
    else:
        named = [role for role in KEYS if name in PUBLISHED[role]]
        wanted = [(role, name) for role in named or KEYS if published(role, name)][:1]
    sources = [find(role, model, models_dir) for role, model in wanted if published(role, model)]
    if not sources and wanted:
        raise ModelError(f"'{name}' is part of this installation: there is nothing to fetch.")
    if not sources:
        known = [*PRESETS, *(alias for known in PUBLISHED.values() for alias in known)]
        raise ModelError(f"'{name}' isn't a published model{nearest(name, known)}")
    return sources
