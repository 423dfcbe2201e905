"""Attention over packed tokens: one small interface, and the backends behind it.

A backend is prepared once per batch and then called once per layer with q, k and v as (T, heads,
head_dim), views of the fused projection included, and returns (T, heads, head_dim): softmax(q·k /
√head_dim + bias)·v within each sequence. With ``slopes`` the bias is the symmetric ALiBi
−slope·|i − j| (Press et al. 2022, as in MosaicBERT).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F

from virnucpro.encoders.device import Device
from virnucpro.encoders.ops import rotate
from virnucpro.encoders.packing import PackedBatch, Run
from virnucpro.errors import ConfigError

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Tables = tuple[torch.Tensor, torch.Tensor] | torch.Tensor

AUTO_BACKENDS = ("triton", "sdpa")  # the first that can run
HALF_DTYPES = (torch.float16, torch.bfloat16)
MAX_BIAS_SIZE = 16 * 2**20  # elements of a (heads, L, L) bias that is kept; longer sequences go in blocks


class Backend(Protocol):
    name: str

    def prepare(self, batch: PackedBatch, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        """Whatever all layers share for this batch.

        slopes: ALiBi's, (heads,) fp32. rotary: cos and sin by position, (≥ max_length, head_dim/2) fp32, by which q and k
        are rotated; or both as one complex table for neighbouring features, by which q and k are rotated in place.
        """


def choose_backend(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> Backend:
    """The backend of that name, or the best for ``auto``; ConfigError if it can't run with the rest."""
    if name not in BACKENDS:
        raise ConfigError(f"attention: {name!r} is not one of {', '.join(BACKENDS)}")
    if name == "auto":
        name = next(each for each in AUTO_BACKENDS if unavailable_reason(each, device, dtype, head_dim, alibi) is None)
    reason = unavailable_reason(name, device, dtype, head_dim, alibi)
    if reason is not None:
        raise ConfigError(f"attention: {name!r} is not available: {reason}; use 'auto' or 'sdpa'")
    return _BACKENDS[name]()


def unavailable_reason(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> str | None:
    """Why a backend can't run with the rest, or None where it can."""
    if name == "sdpa":
        return None
    if device.type != "cuda":
        return "it needs a GPU"
    if name == "triton":
        if head_dim > 128 or head_dim % 2:
            return f"its heads have an even size of at most 128, not {head_dim}"
        return Device.of(device).kernels_unavailable_reason()
    if dtype not in HALF_DTYPES:
        return f"it computes in half precision only, not {dtype}"
    return None if importlib.util.find_spec("flash_attn") else "flash-attn isn't installed (pip install flash-attn)"


def rotated(attend: Attend, batch: PackedBatch, rotary: Tables | None) -> Attend:
    """An ``attend`` without positions of its own, which is given rotated q and k."""
    if rotary is None:
        return attend
    if isinstance(rotary, torch.Tensor):
        turns = rotary[batch.positions][:, None]  # (T, 1, D/2)

        def attend_turned(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            for x in (q, k):
                exact = x.float()
                torch.view_as_complex(exact.unflatten(-1, (-1, 2))).mul_(turns)
                if exact is not x:
                    x.copy_(exact)
            return attend(q, k, v)

        return attend_turned
    cos, sin = (table[batch.positions] for table in rotary)
    return lambda q, k, v: attend(rotate(q, cos, sin), rotate(k, cos, sin), v)


class Triton:
    """The project's own kernel, with the positions inside."""

    name = "triton"

    def prepare(self, batch: PackedBatch, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        from virnucpro.encoders.kernels.attention import attention

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if not q.stride() == k.stride() == v.stride():  # else they are views of one product
                q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
            assert not isinstance(rotary, torch.Tensor), "features are paired on a CPU only"
            return attention(q, k, v, batch.cu_seqlens, batch.min_length, batch.max_length, rotary, slopes)

        return attend


class FlashAttention:
    """The flash-attn package (Dao 2023), whose ALiBi is symmetric where attention isn't causal."""

    name = "flash-attn"

    def prepare(self, batch: PackedBatch, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        from flash_attn import flash_attn_varlen_func

        ends, longest = batch.cu_seqlens, batch.max_length

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return flash_attn_varlen_func(q, k, v, ends, ends, longest, longest, alibi_slopes=slopes)

        return rotated(attend, batch, rotary)


class Sdpa:
    """Dense scaled_dot_product_attention on each run of equal lengths; any device and dtype."""

    name = "sdpa"

    def __init__(self) -> None:
        self._bias = torch.empty(1, 0, 0, 0)  # grows; shorter sequences use its upper left corner

    def prepare(self, batch: PackedBatch, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            parts = [self._run(run, q, k, v, slopes) for run in batch.runs]
            if len(q) > batch.total:
                parts.append(torch.zeros_like(q[batch.total :]))
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return rotated(attend, batch, rotary)

    def _run(
        self, run: Run, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor | None
    ) -> torch.Tensor:
        start, sequences, length = run
        heads, head_dim = q.shape[1:]

        def dense(x: torch.Tensor) -> torch.Tensor:  # (n·L, H, D) -> (n, H, L, D), no copy
            return x[start : start + sequences * length].unflatten(0, (sequences, length)).transpose(1, 2)

        q, k, v = dense(q), dense(k), dense(v)
        if slopes is None:
            out = F.scaled_dot_product_attention(q, k, v)
        elif heads * length * length <= MAX_BIAS_SIZE:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._dense_bias(length, slopes, q.dtype))
        else:
            step = max(1, MAX_BIAS_SIZE // (heads * length))
            blocks = []
            for block, rows in enumerate(q.split(step, dim=2)):
                bias = alibi_bias(slopes, block * step, rows.shape[2], length).to(q.dtype)
                blocks.append(F.scaled_dot_product_attention(rows, k, v, attn_mask=bias))
            out = torch.cat(blocks, dim=2)
        return out.transpose(1, 2).reshape(sequences * length, heads, head_dim)

    def _dense_bias(self, length: int, slopes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(1, heads, length, length), a view of the longest one so far."""
        kept, wanted = self._bias, (len(slopes), dtype, slopes.device)  # another thread may replace it meanwhile
        if (kept.shape[1], kept.dtype, kept.device) != wanted or kept.shape[2] < length:
            size = -(-length // 16) * 16  # aligned rows, which CUDA's fused kernels want
            self._bias = kept = alibi_bias(slopes, 0, size, size).to(dtype)
        return kept[:, :, :length, :length]


_BACKENDS: dict[str, type[Backend]] = {"triton": Triton, "flash-attn": FlashAttention, "sdpa": Sdpa}
BACKENDS = ("auto", *_BACKENDS)


def alibi_bias(slopes: torch.Tensor, first: int, rows: int, columns: int) -> torch.Tensor:
    """(1, heads, rows, columns) fp32: −slope·|i − j| for queries i from ``first`` and keys j from 0."""
    queries = torch.arange(first, first + rows, device=slopes.device, dtype=torch.float32)
    keys = torch.arange(columns, device=slopes.device, dtype=torch.float32)
    return (-(queries[:, None] - keys).abs() * slopes[:, None, None]).unsqueeze(0)


def alibi_slopes(heads: int) -> list[float]:
    """One slope a head: powers of 2^(−8/n), with every other one of 2n inserted if n is no power of two."""
    closest = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (h + 1) / closest) for h in range(closest)]
    between = [2.0 ** (-4.0 * (h + 1) / closest) for h in range(0, 2 * closest, 2)]
    return slopes + between[: heads - closest]
