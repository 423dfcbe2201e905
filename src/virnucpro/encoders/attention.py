"""Attention over packed tokens: one small interface, and the backends behind it.

A backend is prepared once per pack and then called once per layer with q, k and v as (T, heads,
head_dim), views of the fused projection included, and returns (T, heads, head_dim): softmax(q·k /
√head_dim + bias)·v within each sequence. With ``slopes`` the bias is the symmetric ALiBi
−slope·|i − j| (Press et al. 2022, as in MosaicBERT).
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from virnucpro.encoders.packing import Pack, Run
from virnucpro.errors import ConfigError

logger = logging.getLogger(__name__)

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Tables = tuple[torch.Tensor, torch.Tensor]

BACKENDS = ("auto", "triton", "flash-attn", "varlen", "sdpa")
AUTO = ("triton", "sdpa")  # the first that can run
HALVES = (torch.float16, torch.bfloat16)
DENSE_BIAS = 16 * 2**20  # elements of a (heads, L, L) bias that is kept; longer sequences go in blocks


class Backend(Protocol):
    name: str
    fuses_rotary: bool  # the backend rotates q and k itself, from the tables given to prepare

    def prepare(self, pack: Pack, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        """Whatever all layers share for this pack.

        slopes: (heads,) fp32. rotary: cos and sin by position, (≥ max_length, head_dim/2) fp32, for a backend that
        fuses them.
        """


def choose_backend(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> Backend:
    """The backend of that name, or the best for ``auto``; ConfigError if it can't run with the rest."""
    if name not in BACKENDS:
        raise ConfigError(f"attention: {name!r} is not one of {', '.join(BACKENDS)}")
    if name == "auto":
        name = next(each for each in AUTO if obstacle(each, device, dtype, head_dim, alibi) is None)
    reason = obstacle(name, device, dtype, head_dim, alibi)
    if reason is not None:
        raise ConfigError(f"attention: {name!r} is not available: {reason}; use 'auto' or 'sdpa'")
    backends: dict[str, type[Backend]] = {
        "triton": Triton,
        "flash-attn": FlashAttention,
        "varlen": Varlen,
        "sdpa": Sdpa,
    }
    return backends[name]()


def obstacle(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> str | None:
    """Why a backend can't run with the rest, or None where it can."""
    if name == "sdpa":
        return None
    if device.type != "cuda":
        return "it needs a GPU"
    if name == "triton":
        if head_dim > 128 or head_dim % 2:
            return f"its heads have an even size of at most 128, not {head_dim}"
        return kernels_obstacle(device)
    if dtype not in HALVES:
        return f"it computes in half precision only, not {dtype}"
    if name == "varlen":
        if importlib.util.find_spec("torch.nn.attention.varlen") is None:
            return f"this PyTorch ({torch.__version__}) has no variable-length attention"
        return "it has no ALiBi, which DNABERT-S needs" if alibi else None
    return None if importlib.util.find_spec("flash_attn") else "flash-attn isn't installed (pip install flash-attn)"


def kernels_obstacle(device: torch.device) -> str | None:
    """Why the Triton kernels can't run on a device, or None where they can."""
    if device.type != "cuda":
        return "it needs a GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton isn't installed"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    return _trial(device)


@functools.cache
def _trial(device: torch.device) -> str | None:
    """Why no kernel can be compiled and run, tried once: machines without a compiler have Triton, too."""
    from virnucpro.encoders.kernels.pointwise import pool

    try:
        pool(torch.zeros(1, 16, device=device), torch.tensor([0, 1], dtype=torch.int32, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many types: no compiler, one that fails, no driver library, a cache it can't write
        reason = f"Triton can't compile its kernels ({error}); it needs gcc or clang, and Python's headers"
        logger.warning("%s. What PyTorch has instead is slower.", reason)
        return reason
    return None


class Triton:
    """The project's own kernel, with the positions inside."""

    name = "triton"
    fuses_rotary = True

    def prepare(self, pack: Pack, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        from virnucpro.encoders.kernels.attention import attention

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return attention(q, k, v, pack.cu_seqlens, pack.min_length, pack.max_length, rotary, slopes)

        return attend


class Varlen:
    """PyTorch's own variable-length attention."""

    name = "varlen"
    fuses_rotary = False

    def prepare(self, pack: Pack, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        from torch.nn.attention.varlen import varlen_attn

        ends, longest = pack.cu_seqlens, pack.max_length
        attend: Callable[..., Any] = varlen_attn
        return lambda q, k, v: attend(q, k, v, ends, ends, longest, longest)


class FlashAttention:
    """The flash-attn package (Dao 2023), whose ALiBi is symmetric where attention isn't causal."""

    name = "flash-attn"
    fuses_rotary = False

    def prepare(self, pack: Pack, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        from flash_attn import flash_attn_varlen_func

        ends, longest = pack.cu_seqlens, pack.max_length
        return lambda q, k, v: flash_attn_varlen_func(q, k, v, ends, ends, longest, longest, alibi_slopes=slopes)


class Sdpa:
    """Dense scaled_dot_product_attention on each run of equal lengths; any device and dtype."""

    name = "sdpa"
    fuses_rotary = False

    def __init__(self) -> None:
        self._bias = torch.empty(1, 0, 0, 0)  # grows; shorter sequences use its upper left corner

    def prepare(self, pack: Pack, slopes: torch.Tensor | None = None, rotary: Tables | None = None) -> Attend:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return torch.cat([self._run(run, q, k, v, slopes) for run in pack.runs])

        return attend

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
        elif heads * length * length <= DENSE_BIAS:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._dense_bias(length, slopes, q.dtype))
        else:
            step = max(1, DENSE_BIAS // (heads * length))
            blocks = []
            for block, rows in enumerate(q.split(step, dim=2)):
                bias = alibi_bias(slopes, block * step, rows.shape[2], length).to(q.dtype)
                blocks.append(F.scaled_dot_product_attention(rows, k, v, attn_mask=bias))
            out = torch.cat(blocks, dim=2)
        return out.transpose(1, 2).reshape(sequences * length, heads, head_dim)

    def _dense_bias(self, length: int, slopes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(1, heads, length, length), a view of the longest one so far."""
        kept, wanted = self._bias, (len(slopes), dtype, slopes.device)
        if (kept.shape[1], kept.dtype, kept.device) != wanted or kept.shape[2] < length:
            size = -(-length // 16) * 16  # aligned rows, which CUDA's fused kernels want
            self._bias = alibi_bias(slopes, 0, size, size).to(dtype)
        return self._bias[:, :, :length, :length]


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
