"""Sequences in, one pooled vector each out. PyTorch is imported when work starts: reading the workflow takes none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from virnucpro.encoders.encoder import Encoder

EMBEDDING_VERSION = (
    1  # raised when the same sequence and weights give another vector, beyond what rounding in that precision changes
)


class Embedded(NamedTuple):
    """What ``embed`` gives."""

    vectors: np.ndarray  # (n, width) float32, in the order of the input
    statistics: dict[str, Any]


def embed(encoder: Encoder, ids: Sequence[str], sequences: Sequence[bytes], **settings: Any) -> Embedded:
    """All vectors at once; the settings are those of ``Embedder``."""
    from virnucpro.encoders.embedder import Embedder

    embedder = Embedder(encoder, ids, sequences, **settings)
    vectors = np.empty((len(ids), encoder.config.width), dtype=np.float32)
    for first, rows in embedder.vectors():
        vectors[first : first + len(rows)] = rows
    return Embedded(vectors, embedder.statistics())
