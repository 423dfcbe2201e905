"""Matrix products that end in more than cuBLAS offers: scales of int8 rows, a gate, a sum in place.

One program, or in turn one of as many as the GPU runs at a time, makes a tile of the result, from fp16 (bf16) or int8
operands. What follows the sum happens in its registers, so that nothing but the finished tile goes to memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def _tanh(x, FAST: tl.constexpr):
    """By the one instruction that GPUs have for it since 7.5, 5e-4 off at most, or (in the interpreter) by exp2."""
    if FAST:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return 1.0 - 2.0 / (1.0 + tl.exp2(x * 2.8853900817779268))


@triton.jit
def _gelu_tanh(x, FAST: tl.constexpr):
    half = 0.5 * x
    return half + half * _tanh(x * (0.7978845608028654 + 0.035677408136300125 * x * x), FAST)


@triton.jit
def _silu(x, FAST: tl.constexpr):
    half = 0.5 * x
    return half + half * _tanh(half, FAST)


@triton.jit
def _halves(x):
    """(m, n) -> its left and its right columns, without moving them between threads."""
    left, right = tl.split(x.reshape(x.shape[0], 2, x.shape[1] // 2).permute(0, 2, 1))
    return left, right


@triton.jit
def _finish(
    sums, out, scales, weight_scales, bias, row, column, rows, columns,
    SCALED: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, ACCUMULATE: tl.constexpr, REDUCE: tl.constexpr,
    TMA: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Sums of a tile that begins at (row, column) of the product -> what is stored of it."""
    at = column + tl.arange(0, sums.shape[1])
    value = sums.to(tl.float32)
    if SCALED:
        line = row + tl.arange(0, sums.shape[0])
        value *= tl.load(scales + line, mask=line < rows, other=0.0)[:, None]
        value *= tl.load(weight_scales + at, mask=at < columns, other=0.0)[None, :]
    if BIAS:
        value += tl.load(bias + at, mask=at < columns, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "gelu":
        value = _gelu_tanh(value, FAST)
    elif ACTIVATION != "":  # gates and values take turns in the columns, so one thread has both
        gate, value = tl.split(value.reshape(value.shape[0], value.shape[1] // 2, 2))
        value *= _gelu_tanh(gate, FAST) if ACTIVATION == "gated_gelu" else _silu(gate, FAST)
        column, columns = column // 2, columns // 2
    if TMA:
        if ACCUMULATE and REDUCE:  # the memory adds: nobody waits for what was there
            out.atomic_add([row, column], value.to(out.dtype))
        else:
            if ACCUMULATE:
                value += out.load([row, column]).to(tl.float32)
            out.store([row, column], value.to(out.dtype))
    else:
        line, at = row + tl.arange(0, value.shape[0]), column + tl.arange(0, value.shape[1])
        place = out + line.to(tl.int64)[:, None] * columns + at[None, :]
        inside = (line < rows)[:, None] & (at < columns)[None, :]
        if ACCUMULATE:
            value += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _tile(
    number, a, b, out, scales, weight_scales, bias, rows, columns, inner,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, ACCUMULATE: tl.constexpr, REDUCE: tl.constexpr,
    TMA: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """A tile of the result. GROUP rows of tiles are gone through column by column, so that operands stay in the L2 cache."""
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(columns, BLOCK_N)
    first = number // (GROUP * tiles_n) * GROUP
    group = tl.minimum(tiles_m - first, GROUP)
    row = (first + number % (GROUP * tiles_n) % group) * BLOCK_M
    column = number % (GROUP * tiles_n) // group * BLOCK_N
    KIND: tl.constexpr = tl.int32 if SCALED else tl.float32
    sums = tl.zeros([BLOCK_M, BLOCK_N], KIND)
    if TMA:
        for k in range(0, inner, BLOCK_K):
            sums = tl.dot(a.load([row, k]), b.load([column, k]).T, sums, out_dtype=KIND)
    else:
        k = tl.arange(0, BLOCK_K)[None, :]
        line = tl.minimum(row + tl.arange(0, BLOCK_M), rows - 1)
        at = tl.minimum(column + tl.arange(0, BLOCK_N), columns - 1)
        left, right = a + line.to(tl.int64)[:, None] * inner + k, b + at.to(tl.int64)[:, None] * inner + k
        for _ in range(0, inner, BLOCK_K):
            sums = tl.dot(tl.load(left), tl.load(right).T, sums, out_dtype=KIND)
            left += BLOCK_K
            right += BLOCK_K
    if PARTS == 1:
        _finish(
            sums, out, scales, weight_scales, bias, row, column, rows, columns,
            SCALED, BIAS, ACTIVATION, ACCUMULATE, REDUCE, TMA, FAST,
        )  # fmt: skip
    else:  # one half after the other, which take half of the shared memory on their way out
        left, right = _halves(sums)
        _finish(
            left, out, scales, weight_scales, bias, row, column, rows, columns,
            SCALED, BIAS, ACTIVATION, ACCUMULATE, REDUCE, TMA, FAST,
        )  # fmt: skip
        _finish(
            right, out, scales, weight_scales, bias, row, column + BLOCK_N // 2, rows, columns,
            SCALED, BIAS, ACTIVATION, ACCUMULATE, REDUCE, TMA, FAST,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def product_kernel(
    a,  # (rows, inner) int8 or half precision, or its descriptor (so all three, with TMA)
    b,  # (columns, inner) of the same type
    out,  # (rows, columns), of half the columns with a gate
    scales,  # (rows,) fp32, or anything without SCALED
    weight_scales,  # (columns,) fp32, or anything without SCALED
    bias,  # (columns,), or anything without BIAS
    rows,
    columns,
    inner,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,  # divides inner, unless with TMA
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    PERSISTENT: tl.constexpr,
    FLATTEN: tl.constexpr,
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    REDUCE: tl.constexpr,
    TMA: tl.constexpr,
    FAST: tl.constexpr,
):
    if PERSISTENT:
        tiles = tl.cdiv(rows, BLOCK_M) * tl.cdiv(columns, BLOCK_N)
        for number in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN):
            _tile(
                number, a, b, out, scales, weight_scales, bias, rows, columns, inner, BLOCK_M, BLOCK_N, BLOCK_K,
                GROUP, PARTS, SCALED, BIAS, ACTIVATION, ACCUMULATE, REDUCE, TMA, FAST,
            )  # fmt: skip
    else:
        _tile(
            tl.program_id(0), a, b, out, scales, weight_scales, bias, rows, columns, inner, BLOCK_M, BLOCK_N, BLOCK_K,
            GROUP, PARTS, SCALED, BIAS, ACTIVATION, ACCUMULATE, REDUCE, TMA, FAST,
        )  # fmt: skip


@dataclass(frozen=True)
class Tiling:
    """How a product is launched."""

    m: int  # rows of a tile
    n: int  # its columns; with a gate twice those of the result
    k: int  # what is summed up at a time
    warps: int
    stages: int
    group: int = 8
    parts: int = 1
    programs: int = 0  # on each multiprocessor, which take tile after tile; 0: a program for each tile
    flatten: bool = False
    tma: bool = True
    reduce: bool = False  # what is accumulated is added by the memory

    def constants(self) -> dict[str, Any]:
        """What the kernel is compiled for on that account."""
        return {
            "BLOCK_M": self.m, "BLOCK_N": self.n, "BLOCK_K": self.k, "GROUP": self.group, "PARTS": self.parts,
            "PERSISTENT": self.programs > 0, "FLATTEN": self.flatten, "TMA": self.tma,
            "REDUCE": self.reduce and self.tma, "num_warps": self.warps, "num_stages": self.stages,
        }  # fmt: skip


def product(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    *,
    tiling: Tiling,
    scales: torch.Tensor | None = None,
    weight_scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    activation: str = "",
    accumulate: bool = False,
) -> torch.Tensor:
    """Launch the kernel; ``out`` is given back."""
    (rows, inner), columns = a.shape, b.shape[0]
    if not tiling.tma and inner % tiling.k:
        raise ValueError(f"sums of {inner} numbers aren't made of {tiling.k} at a time")
    tiles = triton.cdiv(rows, tiling.m) * triton.cdiv(columns, tiling.n)
    grid = min(tiles, tiling.programs * processors(a.device)) if tiling.programs else tiles
    operands: tuple[Any, ...] = (a, b, out)
    if tiling.tma:
        width = tiling.n // tiling.parts // (2 if activation.startswith("gated") else 1)
        blocks = (tiling.m, tiling.k), (tiling.n, tiling.k), (tiling.m, width)
        operands = tuple(
            TensorDescriptor(each, list(each.shape), [each.stride(0), 1], list(block))
            for each, block in zip(operands, blocks, strict=True)
        )
    product_kernel[(grid,)](
        *operands,
        a if scales is None else scales,
        a if weight_scales is None else weight_scales,
        a if bias is None else bias,
        rows,
        columns,
        inner,
        SCALED=scales is not None,
        BIAS=bias is not None,
        ACTIVATION=activation,
        ACCUMULATE=accumulate,
        FAST=a.is_cuda,
        **tiling.constants(),
    )
    return out


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a few in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def int8_product(
    rows: torch.Tensor,
    row_scales: torch.Tensor,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    gelu: bool = False,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """rows (T, in) int8 · weight (out, in) int8, by scales (T, 1) and (1, out) fp32, + bias (out,) -> (T, out).

    Args:
        rows, row_scales, weight, weight_scales, bias: as above; ``in`` and ``out`` are multiples of 32.
        dtype: of the result, fp16 or bf16.
        gelu: GELU (by tanh) of it.
        into: (T, out), to which the result is added in place, and which is given back.
    """
    out = torch.empty((len(rows), len(weight)), dtype=dtype, device=rows.device) if into is None else into
    tiling = int8_tiling(capability(rows.device), rows.shape[1], gelu, into is not None)
    return product(
        rows,
        weight,
        out,
        tiling=tiling,
        scales=row_scales,
        weight_scales=weight_scales,
        bias=bias,
        activation="gelu" if gelu else "",
        accumulate=into is not None,
    )


def gated_product(x: torch.Tensor, weight: torch.Tensor, silu: bool = False) -> torch.Tensor:
    """x (T, in) · weight (2·f, in), rows of gates and of values in turn -> (T, f): GELU, or SiLU, of gates times values."""
    out = torch.empty((len(x), len(weight) // 2), dtype=x.dtype, device=x.device)
    activation = "gated_silu" if silu else "gated_gelu"
    return product(x, weight, out, tiling=GATED_TILINGS[capability(x.device)], activation=activation)


def gate_pays(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether that was measured to be faster than cuBLAS's product and a kernel after it."""
    aligned = weight.shape[0] % 16 == weight.shape[1] % 8 == 0  # rows begin at 16 bytes
    return aligned and x.dtype == weight.dtype != torch.float32 and capability(x.device) in GATED_TILINGS


def int8_tiling(capability: tuple[int, int], inner: int, gelu: bool, accumulate: bool) -> Tiling:
    """The launch for such a product: the fastest of those that benchmarks/tune_products.py tried."""
    if capability != (9, 0):
        return replace(INT8_ELSEWHERE, k=min(INT8_ELSEWHERE.k, inner & -inner))
    if accumulate and inner > 4096:
        return INT8_LONG
    if gelu and inner >= 2048:
        return INT8_WIDE
    return INT8_TURNS if gelu or inner < 2048 else INT8_TILES


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """CUDA's compute capability of a GPU; (0, 0) in the interpreter."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


INT8_LONG = Tiling(128, 256, 128, 8, 4, parts=2, programs=1, flatten=True, reduce=True)
INT8_TURNS = Tiling(128, 128, 128, 4, 3, parts=2, programs=2, flatten=True, reduce=True)
INT8_WIDE = replace(INT8_TURNS, group=4)
INT8_TILES = Tiling(128, 128, 128, 4, 3, reduce=True)
INT8_ELSEWHERE = Tiling(128, 128, 64, 4, 4, tma=False)
GATED_TILINGS = {(9, 0): Tiling(128, 256, 64, 8, 3, programs=1, flatten=True)}
