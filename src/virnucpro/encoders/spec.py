"""What the file of a prepared encoder says of itself. Needs no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from virnucpro.errors import ModelError
from virnucpro.models import model_file
from virnucpro.models.registry import ARCHITECTURES, Architecture

DIGEST_FORMAT = 1  # part of each digest; another one would make all stored vectors another encoder's
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class EncoderSpec:
    """Identity, configuration and origin of an encoder."""

    KIND: ClassVar[str] = "encoder"
    REMEDY: ClassVar[str] = "Prepare it from its checkpoint again."

    architecture: str  # one of ARCHITECTURES
    name: str
    config: dict[str, Any]  # the fields of the encoder's Config
    weights_sha256: str  # of tensors, configuration and tokenizer
    source: dict[str, Any]  # {"name": ..., "files": {file name: SHA-256}}
    pooling: str
    alphabet: list[str] | None = None  # tokens in order, where each is a letter
    tokenizer: str | None = None  # a byte-pair tokenizer's tokenizer.json

    @property
    def width(self) -> int:
        return int(self.config["width"])

    @property
    def head_dim(self) -> int:
        return self.width // int(self.config["heads"])

    @property
    def registered(self) -> Architecture:
        return ARCHITECTURES[self.architecture]


def read_spec(path: str | Path) -> EncoderSpec:
    """The specification in a prepared encoder's file; ModelError for any other file."""
    spec = model_file.read_spec(path, EncoderSpec)
    if spec.architecture not in ARCHITECTURES:
        raise ModelError(f"{path}: holds the architecture {spec.architecture}; known are {', '.join(ARCHITECTURES)}.")
    return spec


def verify_encoder(path: str | Path) -> EncoderSpec:
    """Read the whole file and compare its content with the digest that it carries."""
    spec = read_spec(path)
    found = encoder_digest(spec.architecture, spec.config, spec.tokenizer, model_file.stored_tensors(path))
    if found != spec.weights_sha256:
        raise ModelError(f"{path} is damaged: its content doesn't match its own SHA-256; prepare it again")
    return spec


def encoder_digest(
    architecture: str, config: Mapping[str, Any], tokenizer: str | None, tensors: Iterable[tuple[str, Any]]
) -> str:
    """SHA-256 of all that decides about vectors; ``tensors`` are sorted by name."""
    head = json.dumps([DIGEST_FORMAT, architecture, dict(config), tokenizer], sort_keys=True)
    return model_file.content_digest(head, tensors, DTYPES)
