"""What a classifier's file says of itself, and whether it fits a pair of encoders. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from virnucpro import __version__
from virnucpro.classifier.evidence import Calibration
from virnucpro.classifier.reference import Reference, is_reference, read_reference
from virnucpro.classifier.region_model import DEFAULT, RegionModel
from virnucpro.errors import ModelError
from virnucpro.models import model_file

CLASSES = ("others", "virus")
IGNORED = "bn1.num_batches_tracked"  # counts training steps; plays no part in a score
DTYPES = {"float32": "torch.float32", "float16": "torch.float16"}

Arrays = dict[str, np.ndarray]


class Encoder(Protocol):
    """The part of an encoder's specification that a classifier cares about."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def weights_sha256(self) -> str: ...


@dataclass(frozen=True)
class ClassifierSpec:
    """Identity and origin of a classifier. ``None`` stands for what its origin doesn't tell."""

    KIND: ClassVar[str] = "classifier"
    REMEDY: ClassVar[str] = "Import an original .pth with `virnucpro classifier import`, or name a classifier's file."

    name: str
    width: int  # inputs: DNA columns, then protein columns
    hidden: int
    dna_width: int | None = None
    protein_width: int | None = None
    chunk_length: int | None = None  # bases of the chunks it was trained on
    dna_encoder: dict[str, Any] | None = None  # {"name", "weights_sha256"}
    protein_encoder: dict[str, Any] | None = None
    pooling: dict[str, str] | None = None  # {"dna", "protein"}: how residues became one vector
    partial_frames: bool = False  # whether it was trained or validated for those of chunks without a stop-free frame
    calibration: dict[str, Any] | None = None  # see ``evidence.Calibration``
    reference: dict[str, Any] | None = None  # {"limit", "classes", "rows", "sha256"}, see ``reference.Reference``
    regions: dict[str, Any] | None = None  # see ``region_model.RegionModel``
    categories: list[dict[str, Any]] | None = None  # {"name", "viral"} each, in the order of the category head
    batchnorm_eps: float = 1e-5
    training: dict[str, Any] | None = None  # settings and the digest of the data
    metrics: dict[str, Any] | None = None  # on the test part
    source_sha256: str | None = None  # of the file it was imported from
    weights_sha256: str = ""  # of the network's tensors as stored, so of all but the reference's
    virnucpro_version: str = __version__

    def read_calibration(self, where: str | Path) -> Calibration | None:
        """The calibration, if there is one; ModelError names ``where``, the classifier's file, if it can't be used."""
        return None if self.calibration is None else Calibration.from_dict(self.calibration, where)

    def read_regions(self, where: str | Path) -> RegionModel:
        """How regions are found, the default if the file doesn't say; ModelError as ``read_calibration``."""
        return DEFAULT if self.regions is None else RegionModel.from_dict(self.regions, where)


def read_classifier_spec(path: str | Path) -> ClassifierSpec:
    """A classifier's specification, from its file's header; ModelError for any other file."""
    return model_file.read_spec(path, ClassifierSpec)


def spec_or_none(path: str | Path) -> ClassifierSpec | None:
    """The same; None if the file isn't there, or is none of this program."""
    try:
        return read_classifier_spec(path)
    except (ModelError, OSError):
        return None


def scores_partial(wanted: str, spec: ClassifierSpec | None) -> bool:
    """Whether partial frames are scored, by the option ``partial_frames``: what it says, or with ``auto`` what the classifier is for."""
    return spec is not None and spec.partial_frames if wanted == "auto" else wanted == "true"


def read_classifier(path: str | Path) -> tuple[Arrays, ClassifierSpec]:
    """Weights, in float32 whatever the file stores, and specification of a classifier's file; see ``read_all``."""
    arrays, _, spec = read_all(path)
    return arrays, spec


def read_all(path: str | Path) -> tuple[Arrays, Reference | None, ClassifierSpec]:
    """The network's weights, in float32 whatever the file stores, the reference if there is one, and the specification.

    Raises ModelError if the file is missing, damaged, or not a classifier.
    """
    spec = read_classifier_spec(path)
    stored = dict(model_file.stored_tensors(path))
    apart = {name: stored.pop(name) for name in list(stored) if is_reference(name)}
    if weights_digest(stored) != spec.weights_sha256:
        raise ModelError(f"{path}: its weights don't match the digest it carries. Fetch or make it again.")
    arrays = check_weights(stored, path)
    if arrays["hidden_layer.weight"].shape != (spec.hidden, spec.width):
        raise ModelError(f"{path}: weights and metadata disagree on the widths. Make it again.")
    check_categories(spec.categories, len(arrays.get("category_layer.bias", ())), path)
    return arrays, read_reference(apart, spec.reference, spec.width, path), spec


def check_categories(categories: Any, outputs: int, where: str | Path) -> None:
    """ModelError unless a specification names each of a category head's outputs (0: no head) once, as viral or not."""
    named = [] if categories is None else categories
    if not isinstance(named, list) or len(named) != outputs or (categories is not None and not named):
        count = len(named) if isinstance(named, list) else repr(named)
        raise ModelError(f"{where}: has weights of {outputs} categories, and names {count}. Make it again.")
    for each in named:
        known = isinstance(each, dict) and each.keys() == {"name", "viral"} and isinstance(each["viral"], bool)
        if not known or not isinstance(each["name"], str) or not each["name"].isprintable() or not each["name"].strip():
            raise ModelError(f"{where}: {each!r} isn't a category's name and whether it is viral. Make it again.")
    if len({each["name"] for each in named}) < len(named):
        raise ModelError(f"{where}: two of its categories have the same name. Make it again.")


def check_weights(stored: Mapping[str, np.ndarray], where: str | Path) -> Arrays:
    """The weights in float32; ModelError names what is missing, unknown, misshapen or not finite."""
    arrays = {name: value.astype(np.float32) for name, value in stored.items() if name != IGNORED}
    weight = arrays.get("hidden_layer.weight")
    if weight is None or weight.ndim != 2 or 0 in weight.shape:
        raise ModelError(f"{where}: not a VirNucPro classifier (it has no matrix hidden_layer.weight).")
    hidden, width = weight.shape
    expected: dict[str, tuple[int, ...]] = {"hidden_layer.weight": (hidden, width), "hidden_layer.bias": (hidden,)}
    expected |= {f"bn1.{name}": (hidden,) for name in ("weight", "bias", "running_mean", "running_var")}
    expected |= {"output_layer.weight": (len(CLASSES), hidden), "output_layer.bias": (len(CLASSES),)}
    if {"input_mean", "input_scale"} & arrays.keys():
        expected |= {"input_mean": (width,), "input_scale": (width,)}
    if {"category_layer.weight", "category_layer.bias"} & arrays.keys():
        bias = arrays.get("category_layer.bias")
        count = bias.size if bias is not None and bias.size else 1
        expected |= {"category_layer.weight": (count, hidden), "category_layer.bias": (count,)}
    found = {name: value.shape for name, value in arrays.items()}
    if expected != found:
        wrong = min(name for name in expected.keys() | found if expected.get(name) != found.get(name))
        raise ModelError(
            f"{where}: not a VirNucPro classifier ({wrong} has shape {found.get(wrong, 'missing')}, "
            f"expected {expected.get(wrong, 'nothing')})."
        )
    for name, value in arrays.items():
        if not np.isfinite(value).all() or (name == "bn1.running_var" and (value < 0).any()):
            raise ModelError(f"{where}: {name} holds values that no classifier can have. Fetch the file again.")
    return arrays


def weights_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    return model_file.content_digest("", sorted(arrays.items()), DTYPES)


def check_fit(spec: ClassifierSpec, dna: Encoder, protein: Encoder, chunk_length: int, where: str | Path) -> None:
    """Refuse a classifier that wasn't trained for these encoders and this chunk length.

    ``where`` is the classifier's file. The ModelError says both sides of what differs, and what to do.
    """
    remedy = "Choose the encoders that it was trained on, or train a classifier for these (virnucpro train)."
    given = (dna.width, protein.width)
    widths_known = spec.dna_width is not None and spec.protein_width is not None
    if sum(given) != spec.width or (widths_known and given != (spec.dna_width, spec.protein_width)):
        parts = f" ({spec.dna_width:,} DNA + {spec.protein_width:,} protein)" if widths_known else ""
        names = [encoder["name"] for encoder in (spec.dna_encoder, spec.protein_encoder) if encoder]
        trained = f"; it was trained on {' and '.join(names)}" if names else ""
        raise ModelError(
            f"{where}: this classifier takes {spec.width:,} inputs{parts}, but {dna.name} gives {dna.width:,} and "
            f"{protein.name} gives {protein.width:,}, together {sum(given):,}{trained}. {remedy}"
        )
    if spec.chunk_length is not None and spec.chunk_length != chunk_length:
        raise ModelError(
            f"{where}: this classifier was trained on chunks of {spec.chunk_length} bases, the run has {chunk_length}. "
            f"Set chunk_length to {spec.chunk_length}, or choose a classifier for {chunk_length}."
        )
    for role, trained_on, encoder in (("DNA", spec.dna_encoder, dna), ("protein", spec.protein_encoder, protein)):
        if trained_on is not None and trained_on["weights_sha256"] != encoder.weights_sha256:
            raise ModelError(
                f"{where}: this classifier was trained on the {role} encoder {trained_on['name']} with weights "
                f"{trained_on['weights_sha256'][:12]}, but {encoder.name} has {encoder.weights_sha256[:12]}. {remedy}"
            )
