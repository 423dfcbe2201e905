"""A user's encoder → the canonical file. PyTorch is imported only where something has to be converted."""

from __future__ import annotations

import shutil
from pathlib import Path

from virnucpro.encoders.canonical import FAMILIES, EncoderSpec, read_header, verify_canonical
from virnucpro.errors import ModelError
from virnucpro.io import atomic_file

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What the weights of a model folder may be called, the preferred first."""


def prepare_encoder(source: Path, family: str, output: Path) -> EncoderSpec:
    """Write ``source`` to ``output`` as a canonical file, in its own dtype or, where that loses nothing, in fp16.

    ``family`` is ``esm2`` or ``dnabert_s``; a file that is canonical already is verified and copied. Raises
    ModelError, naming file and remedy, for whatever is missing, unsafe, inconsistent or of another architecture.
    """
    source, output = Path(source), Path(output)
    if family not in FAMILIES:
        raise ModelError(f"{family!r} is not an encoder family; use {' or '.join(FAMILIES)}")
    if not source.exists():
        raise ModelError(f"{source} does not exist; correct the path, or fetch it: virnucpro models fetch")
    if not _is_canonical(source):
        from virnucpro.encoders.checkpoints import convert_checkpoint

        return convert_checkpoint(source, family, output)
    spec = verify_canonical(source)
    if spec.family != family:
        raise ModelError(f"{source} holds a {spec.family} encoder where {family} is asked for; swap the paths")
    with atomic_file(output) as temporary:
        shutil.copyfile(source, temporary)
    return spec


def _is_canonical(path: Path) -> bool:
    try:
        return "virnucpro" in read_header(path)[0]
    except ModelError:
        return False
