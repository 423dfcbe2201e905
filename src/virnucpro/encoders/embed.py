"""Sequences in, one pooled vector each out.

PyTorch is imported when work starts, so that the workflow can read this module's constants cheaply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from virnucpro.encoders.device import Device
from virnucpro.encoders.precision import choose_precision
from virnucpro.errors import ConfigError
from virnucpro.models.registry import ARCHITECTURES

if TYPE_CHECKING:
    import torch

    from virnucpro.encoders.embedder import Embedder
    from virnucpro.encoders.encoder import Encoder
    from virnucpro.encoders.tokenizing import TokenSlices

EMBEDDING_VERSION = 1  # raised whenever the same sequence and weights would give another vector
CPU_MAX_TOKENS = 2048  # in a packed batch, as auto


class Embedded(NamedTuple):
    """What ``embed`` gives."""

    vectors: np.ndarray  # (n, width) float32, in the order of the input
    statistics: dict[str, Any]


def resolve_max_tokens(value: int | str, device: str | torch.device) -> int | None:
    """Tokens in a packed batch; ``auto`` is a constant on a CPU, and None, to be measured, on a GPU."""
    if value == "auto":
        return None if Device.of(device).is_gpu else CPU_MAX_TOKENS
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"tokens_per_batch: {value!r} is neither a positive integer nor 'auto'")
    return value


def start(
    encoder: Encoder,
    ids: Sequence[str],
    sequences: Sequence[bytes],
    *,
    tokens_per_batch: int | str = "auto",
    attention: str = "auto",
    precision: str = "auto",
    device: str | torch.device = "cpu",
    compile: bool = False,
    packing: bool = True,
    progress: Callable[[np.ndarray], object] | None = None,
    tokens: TokenSlices | None = None,
) -> Embedder:
    """An embedder whose ``vectors()`` are those of all sequences, whatever the order and size of the packed batches.

    The encoder is moved to the device and to the precision's dtype in place, as ``nn.Module.to`` does. A batch that runs
    out of memory is planned again at half its tokens; sequences whose vectors aren't finite are computed again in fp32.
    Without ``packing`` each sequence has a forward pass of its own. ``progress`` is told the rows of each batch when it is
    done. ``tokens`` of these sequences may be in the making already.
    Raises InputError for sequences that the encoder can't read, ConfigError for settings that don't fit, ModelError for
    vectors that aren't finite in fp32 either.
    """
    from virnucpro.encoders.embedder import Embedder

    if len(ids) != len(sequences):
        raise ValueError(f"{len(ids)} ids for {len(sequences)} sequences")
    return Embedder(
        encoder,
        ids,
        sequences,
        max_tokens=resolve_max_tokens(tokens_per_batch, device),
        packing=packing,
        attention=attention,
        precision=choose_precision(precision, device, ARCHITECTURES[encoder.architecture]),
        device=device,
        compile=compile,
        progress=progress,
        tokens=tokens,
    )


def embed(encoder: Encoder, ids: Sequence[str], sequences: Sequence[bytes], **settings: Any) -> Embedded:
    """All vectors at once; the settings are those of ``start``."""
    embedder = start(encoder, ids, sequences, **settings)
    vectors = np.empty((len(ids), encoder.config.width), dtype=np.float32)
    for first, rows in embedder.vectors():
        vectors[first : first + len(rows)] = rows
    return Embedded(vectors, embedder.statistics())
