"""Sequences in, one pooled vector each out.

PyTorch is imported when work starts, so that the workflow can read this module's constants cheaply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from virnucpro.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from virnucpro.encoders.dnabert import DNABERT
    from virnucpro.encoders.esm2 import ESM2
    from virnucpro.encoders.job import Job
    from virnucpro.encoders.tokenizing import TokenWindows

EMBEDDING_VERSION = 1  # raised whenever the same sequence and weights would give another vector
PRECISIONS = ("auto", "fp32", "tf32", "fp16", "bf16", "fp8")
CPU_TOKENS = 2048  # in a pack, as auto


class Embedded(NamedTuple):
    """What ``embed`` gives."""

    vectors: np.ndarray  # (n, width) float32, in the order of the input
    statistics: dict[str, Any]


def resolve_precision(name: str, device: str | torch.device, family: str = "esm2") -> str:
    """The precision to compute in: ``auto`` is fp32 on a CPU and fp16 on a GPU; ``fp8`` is for ESM-2 only."""
    kind = str(device).partition(":")[0]
    if name not in PRECISIONS:
        raise ConfigError(f"precision: {name!r} is not one of {', '.join(PRECISIONS)}")
    if name == "auto":
        return "fp32" if kind == "cpu" else "fp16"
    if kind == "cpu" and name != "fp32":
        raise ConfigError(f"precision: {name} needs a GPU, a CPU has no fast arithmetic for it; use 'fp32' or 'auto'")
    if name == "fp8" and family != "esm2":
        return "fp16"
    return name


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of weights and activations for a resolved precision, for loading them in it."""
    import torch

    return {"fp16": torch.float16, "fp8": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)


def resolve_tokens_per_batch(value: int | str, device: str | torch.device) -> int | None:
    """Tokens in a pack; ``auto`` is a constant on a CPU, and None, to be measured, on a GPU."""
    if value == "auto":
        return CPU_TOKENS if str(device).partition(":")[0] == "cpu" else None
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"tokens_per_batch: {value!r} is neither a positive integer nor 'auto'")
    return value


def start(
    encoder: ESM2 | DNABERT,
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
    tokens: TokenWindows | None = None,
) -> Job:
    """A job whose ``windows()`` are the pooled vectors of all sequences, whatever the order and size of the packs.

    The encoder is moved to the device and to the precision's dtype in place, as ``nn.Module.to`` does.
    A pack that runs out of memory is planned again at half the budget; sequences whose vectors aren't
    finite are computed again in fp32. Without ``packing`` each sequence has a forward pass of its own.
    ``progress`` is told the rows of each pack when it is done. ``tokens`` of these sequences may be in the making already.
    Raises InputError for sequences that the
    encoder can't read, ConfigError for settings that don't fit, ModelError for vectors that aren't finite in fp32 either.
    """
    from virnucpro.encoders.job import Job

    if len(ids) != len(sequences):
        raise ValueError(f"{len(ids)} ids for {len(sequences)} sequences")
    precision = resolve_precision(precision, device, encoder.family)
    return Job(
        encoder,
        ids,
        sequences,
        budget=resolve_tokens_per_batch(tokens_per_batch, device),
        packing=packing,
        attention=attention,
        precision=precision,
        dtype=compute_dtype(precision),
        device=device,
        compile=compile,
        progress=progress,
        tokens=tokens,
    )


def embed(encoder: ESM2 | DNABERT, ids: Sequence[str], sequences: Sequence[bytes], **settings: Any) -> Embedded:
    """All vectors at once; the settings are those of ``start``."""
    job = start(encoder, ids, sequences, **settings)
    vectors = np.empty((len(ids), encoder.config.width), dtype=np.float32)
    for first, rows in job.windows():
        vectors[first : first + len(rows)] = rows
    return Embedded(vectors, job.statistics())
