"""The original's way of computing: padded batches in fp32, attention written out.

ESM-2 as fair-esm's extraction does it: shortest sequences first, batches of at most 2,048 tokens
padding included, scores masked at the padding, softmax, weighted sum. DNABERT-S one sequence a call,
with its bias added to the scores. Weights and blocks are the packed encoders', in plain PyTorch; packed batches,
attention backends and kernels aren't used: so it also serves as their reference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from virnucpro.encoders.attention import Attend, Tables, alibi_bias, rotated
from virnucpro.encoders.embed import Embedded
from virnucpro.encoders.encoder import Encoder
from virnucpro.encoders.ops import PYTORCH
from virnucpro.encoders.packing import PackedBatch
from virnucpro.errors import ConfigError, ModelError
from virnucpro.models.registry import ARCHITECTURES, PROTEIN

TOKENS_PER_BATCH = 2048
PAD = 1  # of protein encoders; DNA isn't padded


def embed_original(
    encoder: Encoder,
    ids: Sequence[str],
    sequences: Sequence[bytes],
    device: str | torch.device = "cpu",
    progress: Callable[[list[int]], object] | None = None,
    hidden: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Embedded:
    """Pooled vectors, as ``embed`` gives them; the encoder is moved to the device and to fp32 in place.

    ``progress`` is told the rows of each batch when it is done. ``hidden`` stands in for an ESM-2's own forward
    pass: padded tokens (n, L) to hidden states (n, L, d). Raises InputError for sequences that the encoder can't
    read, ConfigError where memory doesn't suffice, ModelError for vectors that aren't finite.
    """
    torch.set_float32_matmul_precision("highest")
    encoder = encoder.to(device=device, dtype=torch.float32).eval()
    encoder.ops = PYTORCH
    vectors = np.empty((len(ids), encoder.config.width), np.float32)
    started, computed = time.perf_counter(), 0
    tokens, lengths = encoder.tokenize(sequences, ids) if sequences else (np.empty(0, np.int64), np.empty(0, np.int64))
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    batches = (
        plan_padded(lengths)
        if ARCHITECTURES[encoder.architecture].role is PROTEIN
        else [[row] for row in range(len(ids))]
    )
    for rows in batches:
        longest = max(int(lengths[row]) for row in rows)
        padded = torch.full((len(rows), longest), PAD)
        for place, row in enumerate(rows):
            padded[place, : lengths[row]] = torch.from_numpy(parts[row].astype(np.int64))
        try:
            with torch.inference_mode():
                padded = padded.to(device)
                states = hidden(padded) if hidden else padded_hidden(encoder, padded)
                vectors[rows] = pool_padded(encoder, states, lengths[rows]).cpu().numpy()
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"{len(rows)} sequences of up to {longest:,} tokens, first {ids[rows[0]]}, don't fit in the memory of "
                f"{device} in fp32 with the original's attention; use a device with more, or batching: packed (VIRNUCPRO_V1_ATTENTION unset)"
            ) from None
        computed += padded.numel()
        if progress:
            progress(rows)
    if bad := [name for name, row in zip(ids, vectors, strict=True) if not np.isfinite(row).all()]:
        raise ModelError(f"the encoder gave values that are not finite for {len(bad):,} sequences, first {bad[0]}")
    seconds = time.perf_counter() - started
    statistics = {
        "tokens": int(lengths.sum()),
        "packs": len(batches),
        "fill": float(lengths.sum()) / computed if computed else 0.0,
        "batching": "original",
        "backend": "original",
        "precision": "fp32",
        "tokens_per_batch": TOKENS_PER_BATCH,
        "seconds": seconds,
        "tokens_per_second": float(lengths.sum()) / seconds,
        "redone_batches": 0,
    }
    return Embedded(vectors, statistics)


def plan_padded(lengths: np.ndarray) -> list[list[int]]:
    """fair-esm's batches of sequences with (n,) ``lengths`` in tokens, as lists of rows: shortest first.

    A batch is closed where its rows times its longest one would exceed 2,048; of <cls> and <eos> that count has one.
    """
    batches: list[list[int]] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * (lengths[row] - 1) <= TOKENS_PER_BATCH:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def padded_hidden(encoder: Encoder, tokens: torch.Tensor) -> torch.Tensor:
    """Padded tokens (n, L) -> hidden states (n, L, d)."""
    n, longest = tokens.shape
    batch = PackedBatch.build(np.full(n, longest)).to(tokens.device)
    return encoder(tokens.flatten(), batch, PaddedAttention(tokens)).unflatten(0, (n, longest))


def pool_padded(encoder: Encoder, hidden: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """Hidden states (n, L, d) of sequences with (n,) ``lengths`` -> (n, d), as the encoder pools them."""
    real = torch.cat([row[: int(length)] for row, length in zip(hidden, lengths, strict=True)])
    return encoder.pool(real, PackedBatch.build(lengths).to(hidden.device))


class PaddedAttention:
    """Attention written out, as the backend for batches of padded rows."""

    name = "original"

    def __init__(self, tokens: torch.Tensor) -> None:
        """For padded tokens (n, L)."""
        self.tokens = tokens

    def prepare(self, batch: PackedBatch, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        n, longest = self.tokens.shape
        if slopes is None:
            bias = torch.zeros(n, 1, 1, longest, device=self.tokens.device)
            bias = bias.masked_fill((self.tokens == PAD)[:, None, None], -torch.inf)
        else:
            bias = alibi_bias(slopes, 0, longest, longest)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = (part.unflatten(0, (n, longest)) for part in (q, k, v))
            return attention(q, k, v, bias).flatten(0, 1)

        return rotated(attend, batch, rotary)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """q, k, v (n, L, H, D) and a bias that broadcasts to (n, H, L, L) -> (n, L, H, D)."""
    scores = torch.einsum("nqhd,nkhd->nhqk", q / q.shape[-1] ** 0.5, k) + bias
    return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v)
