"""The original's way of computing: padded batches in fp32, attention written out.

ESM-2 as fair-esm's extraction does it: shortest sequences first, batches of at most 2,048 tokens
padding included, scores masked at the padding, softmax, weighted sum. DNABERT-S one sequence a call,
with its bias added to the scores. The weights and the plain block functions are the packed encoders';
packs, attention backends, kernels and compiled stages aren't used: so it also serves as their reference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from virnucpro.encoders.attention import alibi_bias, alibi_slopes
from virnucpro.encoders.dnabert import DNABERT
from virnucpro.encoders.embed import Embedded
from virnucpro.encoders.esm2 import ESM2, POOLED_RESIDUES, TRAINING_MASK_FRACTION, rotary_tables
from virnucpro.errors import ConfigError, ModelError

TOKENS_PER_BATCH = 2048
PAD = 1  # ESM-2's


def embed_original(
    encoder: ESM2 | DNABERT,
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
    vectors = np.empty((len(ids), encoder.config.width), np.float32)
    started, computed = time.perf_counter(), 0
    tokens, lengths = encoder.tokenize(sequences, ids) if sequences else (np.empty(0, np.int64), np.empty(0, np.int64))
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    batches = plan_batches(lengths) if isinstance(encoder, ESM2) else [[row] for row in range(len(ids))]
    for rows in batches:
        longest = max(int(lengths[row]) for row in rows)
        padded = torch.full((len(rows), longest), PAD)
        for place, row in enumerate(rows):
            padded[place, : lengths[row]] = torch.from_numpy(parts[row].astype(np.int64))
        try:
            with torch.inference_mode():
                padded = padded.to(device)
                if isinstance(encoder, ESM2):
                    states = hidden(padded) if hidden else esm2_hidden(encoder, padded)
                    pooled = pool_residues(states, lengths[rows])
                else:
                    pooled = dnabert_vectors(encoder, padded)
                vectors[rows] = pooled.cpu().numpy()
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


def plan_batches(lengths: np.ndarray) -> list[list[int]]:
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


def esm2_hidden(encoder: ESM2, tokens: torch.Tensor) -> torch.Tensor:
    """Padded tokens (n, L) -> hidden states (n, L, d)."""
    n, longest = tokens.shape
    x = encoder.embed_tokens(tokens).flatten(0, 1)
    if encoder.config.token_dropout:  # its factor as long as no token is <mask>, and no letter stands for <mask>
        x = x * (1 - TRAINING_MASK_FRACTION)
    positions = torch.arange(longest, device=tokens.device).repeat(n)
    cos, sin = rotary_tables(positions, encoder.config.head_dim)
    bias = torch.zeros(n, 1, 1, longest, device=tokens.device).masked_fill((tokens == PAD)[:, None, None], -torch.inf)
    blocks: Any = encoder.layers
    for layer in blocks:
        q, k, v = (part.unflatten(0, (n, longest)) for part in layer.project(x, cos, sin))
        x = layer.finish(x, attention(q, k, v, bias).flatten(0, 1))
    return encoder.final_norm(x).unflatten(0, (n, longest))


def pool_residues(hidden: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """Hidden states (n, L, d) of sequences with (n,) ``lengths`` -> (n, d): mean of the first 1,024 residues."""
    ends = np.minimum(lengths - 2, POOLED_RESIDUES) + 1
    return torch.stack([row[1 : int(end)].mean(0) for row, end in zip(hidden, ends, strict=True)])


def dnabert_vectors(encoder: DNABERT, tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (1, L) -> (1, d): mean of all tokens."""
    slopes = torch.tensor(alibi_slopes(encoder.config.heads), device=tokens.device)
    bias = alibi_bias(slopes, 0, tokens.shape[1], tokens.shape[1])
    x = encoder.embed_norm(encoder.embed_tokens(tokens[0]) + encoder.token_type)
    blocks: Any = encoder.layers
    for layer in blocks:
        q, k, v = (part[None] for part in layer.project(x))
        x = layer.finish(x, attention(q, k, v, bias)[0])
    return x.mean(0, keepdim=True)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """q, k, v (n, L, H, D) and a bias that broadcasts to (n, H, L, L) -> (n, L, H, D)."""
    scores = torch.einsum("nqhd,nkhd->nhqk", q / q.shape[-1] ** 0.5, k) + bias
    return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v)
