"""What a classifier file says of itself, and whether it fits a pair of encoders. Needs no PyTorch.

A classifier is one safetensors file with the metadata entry ``virnucpro``: a JSON object with the
fields of ``ClassifierSpec``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from virnucpro import __version__
from virnucpro.encoders.canonical import read_header
from virnucpro.errors import ModelError

FORMAT = 1
KIND = "classifier"


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

    name: str
    width: int  # inputs: DNA columns, then protein columns
    hidden: int
    dna_width: int | None = None
    protein_width: int | None = None
    chunk_length: int | None = None  # bases of the chunks it was trained on
    dna_encoder: dict[str, Any] | None = None  # {"name", "weights_sha256"}
    protein_encoder: dict[str, Any] | None = None
    pooling: dict[str, str] | None = None  # {"dna", "protein"}: how residues became one vector
    batchnorm_eps: float = 1e-5
    training: dict[str, Any] | None = None  # settings and the digest of the data
    metrics: dict[str, Any] | None = None  # on the test part
    source_sha256: str | None = None  # of the file it was imported from
    weights_sha256: str = ""  # of the tensors as stored
    virnucpro_version: str = __version__
    kind: str = KIND
    format: int = FORMAT

    def to_json(self) -> str:
        """The metadata entry; equal specifications give equal text."""
        return json.dumps(asdict(self), sort_keys=True)


def read_classifier_spec(path: str | Path) -> ClassifierSpec:
    """Read a canonical classifier's specification from its header.

    Raises:
        ModelError: the file is missing, damaged, or not a canonical classifier.
    """
    metadata, _, _ = read_header(path)
    try:
        entry = json.loads(metadata["virnucpro"])
        kind, version = entry.get("kind"), entry.get("format")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelError(
            f"{path}: not a VirNucPro classifier. Import an original .pth with `virnucpro classifier import`."
        ) from None
    if kind != KIND:
        raise ModelError(f"{path}: holds an encoder, not a classifier. Name a classifier's file instead.")
    if version != FORMAT or set(entry) != {field.name for field in fields(ClassifierSpec)}:
        raise ModelError(f"{path}: was written by another version (format {version}). Make it again with this one.")
    return ClassifierSpec(**entry)


def check_fit(spec: ClassifierSpec, dna: Encoder, protein: Encoder, chunk_length: int, where: str | Path) -> None:
    """Refuse a classifier that wasn't trained for these encoders and this chunk length.

    Args:
        spec: the classifier.
        dna, protein: anything with ``name``, ``width`` and ``weights_sha256``.
        chunk_length: bases per chunk of the run.
        where: the classifier's file, for the message.

    Raises:
        ModelError: says both sides of what differs, and what to do.
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
