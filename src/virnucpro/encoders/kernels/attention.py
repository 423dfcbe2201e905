"""Attention within packed sequences, straight from the fused projection: rotary positions or symmetric ALiBi inside.

One program takes a block of queries of one sequence and head, and goes over that sequence's keys with a running
softmax (Milakov & Gimelshein 2018; Dao et al. 2022), in fp32. A head is read as two halves, which rotate-half order
rotates against each other; q·k is the sum over both. Rows past a sequence's end are read as its last one and masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from virnucpro.encoders.kernels.pointwise import last_first

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
def _keys(
    k, v, cos, sin, first, length, stride,
    HEAD_DIM: tl.constexpr, HALF: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_DIM: tl.constexpr,
    ROTARY: tl.constexpr, BLOCK_N: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """A tile of keys, rotated and transposed, in halves, and its values."""
    rows = first + tl.arange(0, BLOCK_N)
    if not FULL:
        rows = tl.minimum(rows, length - 1)
    columns = tl.arange(0, BLOCK_DIM)
    k1, k2 = _load_halves(k, rows, stride, HEAD_DIM, HALF, BLOCK_HALF)
    at = v + rows[:, None] * stride + columns[None, :]
    if HEAD_DIM == BLOCK_DIM:
        values = tl.load(at)
    else:
        values = tl.load(at, mask=(columns < HEAD_DIM)[None, :], other=0.0)
    if ROTARY:
        k1, k2 = _rotate(k1, k2, cos, sin, rows, 1.0, HALF, BLOCK_HALF)
    return tl.trans(k1), tl.trans(k2), values


@triton.jit
def _softmax_step(
    q1, q2, k1, k2, values, queries, first, length, scale, slope, highest, total, mixed,
    ROTARY: tl.constexpr, ALIBI: tl.constexpr, BLOCK_N: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take a tile of keys into the running softmax: (highest score, sum of weights, weighted sum of values)."""
    keys = first + tl.arange(0, BLOCK_N)
    scores = tl.dot(q1, k1, input_precision=PRECISION)
    scores = tl.dot(q2, k2, scores, input_precision=PRECISION)
    if ALIBI:
        scores = scores * scale - slope * tl.abs(queries[:, None] - keys[None, :]).to(tl.float32)
    elif not ROTARY:
        scores = scores * scale
    if not FULL:
        scores = tl.where((keys < length)[None, :], scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 1))
    shrink = tl.exp2(highest - higher)
    weights = tl.exp2(scores - higher[:, None])
    total = total * shrink + tl.sum(weights, 1)
    mixed = tl.dot(weights.to(values.dtype), values, mixed * shrink[:, None], input_precision=PRECISION)
    return higher, total, mixed


# cu_seqlens lies anywhere in a batch's one buffer: without this, its alignment would decide about compiling anew.
@triton.jit(do_not_specialize=["cu_seqlens"])
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
    """Any length: a program per block of queries, which fetches and rotates the keys tile by tile."""
    HALF: tl.constexpr = HEAD_DIM // 2
    program, block = last_first(), tl.program_id(1)
    head, sequence = program % heads, program // heads
    start = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - start
    if block * BLOCK_M >= length:
        return
    base = start.to(tl.int64) * stride_token + head * stride_head
    queries = block * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = tl.minimum(queries, length - 1)
    q1, q2 = _load_halves(q + base, rows, stride_token, HEAD_DIM, HALF, BLOCK_HALF)
    if ROTARY:
        q1, q2 = _rotate(q1, q2, cos, sin, rows, scale, HALF, BLOCK_HALF)
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head) * 1.4426950408889634
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_DIM], tl.float32)
    for first in range(0, length, BLOCK_N):
        k1, k2, values = _keys(
            k + base, v + base, cos, sin, first, length, stride_token,
            HEAD_DIM, HALF, BLOCK_HALF, BLOCK_DIM, ROTARY, BLOCK_N, False,
        )  # fmt: skip
        highest, total, mixed = _softmax_step(
            q1, q2, k1, k2, values, queries, first, length, scale, slope, highest, total, mixed,
            ROTARY, ALIBI, BLOCK_N, False, PRECISION,
        )  # fmt: skip
    columns = tl.arange(0, BLOCK_DIM)
    at = out + (start + queries).to(tl.int64)[:, None] * (heads * HEAD_DIM) + head * HEAD_DIM + columns[None, :]
    inside = (queries < length)[:, None] & (columns < HEAD_DIM)[None, :]
    tl.store(at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["cu_seqlens"])
def short_attention_kernel(
    q, k, v, out, cu_seqlens, cos, sin, slopes, stride_token, stride_head, scale, heads,
    HEAD_DIM: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_DIM: tl.constexpr, ROTARY: tl.constexpr,
    ALIBI: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Keys in tiles of A, B and C rows (0: no such tile; all but the last are whole if FULL), which stay in shared memory.

    A program per sequence and head fetches and rotates its keys once, for all its blocks of queries. That is most of
    the arithmetic outside the tensor cores where sequences are short.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    program = last_first()
    head, sequence = program % heads, program // heads
    start = tl.load(cu_seqlens + sequence)
    length = tl.load(cu_seqlens + sequence + 1) - start
    if length <= 0:
        return
    base = start.to(tl.int64) * stride_token + head * stride_head
    out += start.to(tl.int64) * (heads * HEAD_DIM) + head * HEAD_DIM
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head) * 1.4426950408889634
    a1, a2, a_values = _keys(
        k + base, v + base, cos, sin, 0, length, stride_token,
        HEAD_DIM, HALF, BLOCK_HALF, BLOCK_DIM, ROTARY, A, FULL and B > 0,
    )  # fmt: skip
    if B > 0:
        b1, b2, b_values = _keys(
            k + base, v + base, cos, sin, A, length, stride_token,
            HEAD_DIM, HALF, BLOCK_HALF, BLOCK_DIM, ROTARY, B, FULL and C > 0,
        )  # fmt: skip
    if C > 0:
        c1, c2, c_values = _keys(
            k + base, v + base, cos, sin, A + B, length, stride_token,
            HEAD_DIM, HALF, BLOCK_HALF, BLOCK_DIM, ROTARY, C, False,
        )  # fmt: skip
    columns = tl.arange(0, BLOCK_DIM)
    for block in range(0, length, BLOCK_M):
        queries = block + tl.arange(0, BLOCK_M)
        rows = tl.minimum(queries, length - 1)
        q1, q2 = _load_halves(q + base, rows, stride_token, HEAD_DIM, HALF, BLOCK_HALF)
        if ROTARY:
            q1, q2 = _rotate(q1, q2, cos, sin, rows, scale, HALF, BLOCK_HALF)
        highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        mixed = tl.zeros([BLOCK_M, BLOCK_DIM], tl.float32)
        highest, total, mixed = _softmax_step(
            q1, q2, a1, a2, a_values, queries, 0, length, scale, slope, highest, total, mixed,
            ROTARY, ALIBI, A, FULL and B > 0, PRECISION,
        )  # fmt: skip
        if B > 0:
            highest, total, mixed = _softmax_step(
                q1, q2, b1, b2, b_values, queries, A, length, scale, slope, highest, total, mixed,
                ROTARY, ALIBI, B, FULL and C > 0, PRECISION,
            )  # fmt: skip
        if C > 0:
            highest, total, mixed = _softmax_step(
                q1, q2, c1, c2, c_values, queries, A + B, length, scale, slope, highest, total, mixed,
                ROTARY, ALIBI, C, False, PRECISION,
            )  # fmt: skip
        at = out + queries[:, None] * (heads * HEAD_DIM) + columns[None, :]
        inside = (queries < length)[:, None] & (columns < HEAD_DIM)[None, :]
        tl.store(at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


SHORT = 192  # tokens up to which keys stay in shared memory
SMALLEST_TILE = 16  # rows that a product on tensor cores takes at least


@dataclass(frozen=True)
class Launch:
    """How a batch's attention is launched, apart from the number of its sequences."""

    kernel: Any
    blocks: int  # programs for each sequence and head
    constants: dict[str, Any]  # what the kernel is compiled for


def launch(head_dim: int, dtype: torch.dtype, min_length: int, max_length: int) -> Launch:
    """The launch for sequences of these lengths."""
    fixed = constants(head_dim, dtype, min_length, max_length)
    if "A" in fixed:
        return Launch(short_attention_kernel, 1, fixed)
    return Launch(attention_kernel, triton.cdiv(max_length, fixed["BLOCK_M"]), fixed)


def constants(head_dim: int, dtype: torch.dtype, min_length: int, max_length: int) -> dict[str, Any]:
    """What the kernel is compiled for, beside the kind of positions: shapes that fit the smallest GPUs' 99 kB."""
    half = dtype != torch.float32
    short = half and max_length <= SHORT and head_dim <= 64
    block = 64 if half else 32
    fixed = {
        "HEAD_DIM": head_dim,
        "BLOCK_HALF": max(16, triton.next_power_of_2(head_dim // 2)),
        "BLOCK_DIM": max(16, triton.next_power_of_2(head_dim)),
        "PRECISION": "tf32" if half else "ieee",
        "BLOCK_M": block,
        "BLOCK_N": block,
        "num_warps": 8 if half and head_dim > 64 else 4,
        "num_stages": 1,
    }
    if short:
        del fixed["BLOCK_N"]
        tiles = key_tiles(max_length)
        fixed |= dict(zip("ABC", (*tiles, 0, 0), strict=False)) | {"FULL": sum(tiles[:-1]) <= min_length}
        if head_dim == 64:
            fixed["maxnreg"] = 128  # four programs on a multiprocessor, at no cost
    return fixed


def key_tiles(length: int) -> list[int]:
    """One to three tiles, powers of two, that hold ``length`` ≤ ``SHORT`` keys: the fewest rows, a multiple of 16."""
    rows = -(-length // SMALLEST_TILE) * SMALLEST_TILE
    tiles = [64] * (rows // 64) + [tile for tile in (32, 16) if rows & tile]
    return [128, *tiles[2:]] if len(tiles) > 3 else tiles


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    min_length: int,
    max_length: int,
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(q·k / √head_dim + bias)·v within each sequence.

    Args:
        q, k, v: (T, heads, head_dim) of equal strides, the last one 1; half precision or fp32.
        cu_seqlens: (n + 1,) int32, first token of each sequence, then T.
        min_length, max_length: tokens of the shortest and the longest sequence.
        rotary: cos and sin by position, (≥ max_length, head_dim/2) fp32; q and k are rotated by them.
        slopes: (heads,) fp32; adds −slope·|i − j|.

    Returns:
        (T, heads, head_dim) of q's dtype.
    """
    total, heads, head_dim = q.shape
    if not q.stride() == k.stride() == v.stride() or q.stride(2) != 1:
        raise ValueError("q, k and v must be laid out alike, with neighbouring elements of a head side by side")
    if max_length * q.stride(0) >= 2**31:  # the kernels count the rows of one sequence in 32 bits
        raise ValueError(f"a sequence of {max_length:,} tokens is too long for these kernels; use 'sdpa'")
    out = torch.empty((total, heads, head_dim), dtype=q.dtype, device=q.device)
    how = launch(head_dim, q.dtype, min_length, max_length)
    cos, sin = rotary if rotary is not None else (q, q)
    how.kernel[(heads * (len(cu_seqlens) - 1), how.blocks)](
        q,
        k,
        v,
        out,
        cu_seqlens,
        cos,
        sin,
        q if slopes is None else slopes,
        q.stride(0),
        q.stride(1),
        LOG2E / math.sqrt(head_dim),
        heads,
        ROTARY=rotary is not None,
        ALIBI=slopes is not None,
        **how.constants,
    )
    return out
