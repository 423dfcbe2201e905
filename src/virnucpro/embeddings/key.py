"""The name under which a shard's vectors are kept: everything that changes their numbers, nothing else."""

from __future__ import annotations

import re

from virnucpro.encoders.embed import EMBEDDING_VERSION
from virnucpro.encoders.spec import EncoderSpec


def embedding_key(spec: EncoderSpec, precision: str, batching: str = "packed", vectors: str = "float32") -> str:
    """Folder name for vectors of one encoder.

    Args:
        spec: the prepared encoder.
        precision: the precision as configured; ``auto`` is a class of its own, since what it ran as
            depends on the machine (the file's attributes say).
        batching: how sequences share a forward pass, as configured.
        vectors: dtype in which they are stored.
    """
    pooling = re.sub(r"[^A-Za-z0-9]+", "-", spec.pooling)
    key = f"{spec.config['layers']}x{spec.width}-{spec.weights_sha256[:12]}-{pooling}-{precision}-v{EMBEDDING_VERSION}"
    usual = {"packed", "float32"}  # what version 0.1 had has no name
    return "-".join([key, *(part for part in (batching, vectors) if part not in usual)])
