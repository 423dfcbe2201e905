"""Attention within packed sequences, straight from the fused projection: rotary positions or symmetric ALiBi inside.

One program takes a block of queries of one sequence and head, and goes over that sequence's keys with a running
softmax (Milakov & Gimelshein 2018; Dao et al. 2022), in fp32. A head is read as two halves, which rotate-half order
rotates against each other; q·k is the sum over both. Rows past a sequence's end are read as its last one and masked.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

LOG2E = math.log2(math.e)


@triton.jit
def _load_halves(base, rows, stride, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, BLOCK_HALF: tl.constexpr):
    columns = tl.arange(0, BLOCK_HALF)
    first = base + rows[:, None] * stride + columns[None, :]
    if HALF == BLOCK_HALF:
        return tl.load(first), tl.load(first + HALF)
    inside = (columns < HALF)[None, :]
    return tl.load(first, mask=inside, other=0.0), tl.load(first + HALF, mask=inside, other=0.0)


@triton.jit
def _rotate(first, second, cos, sin, rows, scale, HALF: tl.constexpr, BLOCK_HALF: tl.constexpr):
    columns = tl.arange(0, BLOCK_HALF)
    inside = (columns < HALF)[None, :]
    at = rows[:, None] * HALF + columns[None, :]
    c = tl.load(cos + at, mask=inside, other=0.0) * scale
    s = tl.load(sin + at, mask=inside, other=0.0) * scale
    a, b = first.to(tl.float32), second.to(tl.float32)
    return (a * c - b * s).to(first.dtype), (b * c + a * s).to(first.dtype)


@triton.jit
def attention_kernel(
    q,  # (T, heads, HEAD_DIM); q, k and v have the same strides
    k,
    v,
    out,  # (T, heads, HEAD_DIM), contiguous
    cu_seqlens,  # (n + 1,) int32
    cos,  # (longest, HALF) fp32, or anything without ROTARY
    sin,
    slopes,  # (heads,) fp32, or anything without ALIBI
    stride_token,
    stride_head,
    scale,  # log2(e) / √HEAD_DIM
    heads,
    HEAD_DIM: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    ALIBI: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    head, sequence, block = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(1)
    start = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - start
    if block * BLOCK_M >= length:
        return
    base = start.to(tl.int64) * stride_token + head * stride_head
    q += base
    k += base
    v += base

    queries = block * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = tl.minimum(queries, length - 1)
    q1, q2 = _load_halves(q, rows, stride_token, HEAD_DIM, HALF, BLOCK_HALF)
    if ROTARY:
        q1, q2 = _rotate(q1, q2, cos, sin, rows, scale, HALF, BLOCK_HALF)
    if ALIBI:
        slope = tl.load(slopes + head) * 1.4426950408889634

    columns = tl.arange(0, BLOCK_DIM)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_DIM], tl.float32)
    for first in range(0, length, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        places = tl.minimum(keys, length - 1)
        k1, k2 = _load_halves(k, places, stride_token, HEAD_DIM, HALF, BLOCK_HALF)
        if HEAD_DIM == BLOCK_DIM:
            values = tl.load(v + places[:, None] * stride_token + columns[None, :])
        else:
            inside = (columns < HEAD_DIM)[None, :]
            values = tl.load(v + places[:, None] * stride_token + columns[None, :], mask=inside, other=0.0)
        if ROTARY:
            k1, k2 = _rotate(k1, k2, cos, sin, places, 1.0, HALF, BLOCK_HALF)
        scores = tl.dot(q1, tl.trans(k1), input_precision=PRECISION)
        scores = tl.dot(q2, tl.trans(k2), scores, input_precision=PRECISION)
        if ALIBI:
            distance = tl.abs(queries[:, None] - keys[None, :]).to(tl.float32)
            scores = scores * scale - slope * distance
        elif not ROTARY:
            scores = scores * scale
        scores = tl.where((keys < length)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(weights.to(values.dtype), values, mixed, input_precision=PRECISION)
        highest = higher

    mixed = mixed / total[:, None]
    at = out + (start + queries).to(tl.int64)[:, None] * (heads * HEAD_DIM) + head * HEAD_DIM + columns[None, :]
    tl.store(at, mixed.to(out.dtype.element_ty), mask=(queries < length)[:, None] & (columns < HEAD_DIM)[None, :])


def tile(head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Block shapes and launch options: within the 99 kB of shared memory of the smallest GPUs, without spills."""
    if dtype == torch.float32:
        return {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1}
    if head_dim > 64:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 1}
    return {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 1}


def constants(head_dim: int, dtype: torch.dtype) -> dict[str, int | str]:
    """What the kernel is compiled for, beside the kind of positions."""
    return {
        "HEAD_DIM": head_dim,
        "BLOCK_HALF": max(16, triton.next_power_of_2(head_dim // 2)),
        "BLOCK_DIM": max(16, triton.next_power_of_2(head_dim)),
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        **tile(head_dim, dtype),
    }


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(q·k / √head_dim + bias)·v within each sequence.

    Args:
        q, k, v: (T, heads, head_dim) of equal strides, the last one 1; half precision or fp32.
        cu_seqlens: (n + 1,) int32, first token of each sequence, then T.
        max_length: tokens of the longest sequence.
        rotary: cos and sin by position, (≥ max_length, head_dim/2) fp32; q and k are rotated by them.
        slopes: (heads,) fp32; adds −slope·|i − j|.

    Returns:
        (T, heads, head_dim) of q's dtype.
    """
    total, heads, head_dim = q.shape
    if not q.stride() == k.stride() == v.stride() or q.stride(2) != 1:
        raise ValueError("q, k and v must be laid out alike, with neighbouring elements of a head side by side")
    out = torch.empty((total, heads, head_dim), dtype=q.dtype, device=q.device)
    fixed = constants(head_dim, q.dtype)
    cos, sin = rotary if rotary is not None else (cu_seqlens, cu_seqlens)
    attention_kernel[(heads * (len(cu_seqlens) - 1), triton.cdiv(max_length, fixed["BLOCK_M"]))](
        q,
        k,
        v,
        out,
        cu_seqlens,
        cos,
        sin,
        cu_seqlens if slopes is None else slopes,
        q.stride(0),
        q.stride(1),
        LOG2E / math.sqrt(head_dim),
        heads,
        ROTARY=rotary is not None,
        ALIBI=slopes is not None,
        **fixed,
    )
    return out
