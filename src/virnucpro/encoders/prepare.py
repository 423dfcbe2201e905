"""A user's encoder → the prepared file. PyTorch is imported only where something has to be converted."""

from __future__ import annotations

import shutil
from pathlib import Path

from virnucpro.encoders.spec import EncoderSpec, verify_encoder
from virnucpro.errors import ModelError
from virnucpro.io import atomic_file
from virnucpro.models.model_file import read_entry
from virnucpro.models.registry import ARCHITECTURES

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What the weights of a model folder may be called, the preferred first."""


def prepare_encoder(source: Path, architecture: str, output: Path) -> EncoderSpec:
    """Write ``source`` to ``output`` as a prepared file, in its own dtype or, where that loses nothing, in fp16.

    ``architecture`` is a registered one's name; a file that is prepared already is verified and copied. Raises
    ModelError, naming file and remedy, for whatever is missing, unsafe, inconsistent or of another architecture.
    """
    source, output = Path(source), Path(output)
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{architecture!r} is not an encoder's architecture; use {' or '.join(ARCHITECTURES)}")
    if not source.exists():
        raise ModelError(f"{source} does not exist; correct the path, or fetch it: virnucpro models fetch")
    if not _is_prepared(source):
        from virnucpro.encoders.loading import convert_checkpoint

        return convert_checkpoint(source, architecture, output)
    spec = verify_encoder(source)
    if spec.architecture != architecture:
        raise ModelError(
            f"{source} holds a {spec.architecture} encoder where {architecture} is asked for; swap the paths"
        )
    with atomic_file(output) as temporary:
        shutil.copyfile(source, temporary)
    return spec


def _is_prepared(path: Path) -> bool:
    try:
        return path.is_file() and read_entry(path) is not None
    except ModelError:
        return False
