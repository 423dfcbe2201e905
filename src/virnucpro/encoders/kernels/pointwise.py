"""What an encoder does to each token apart from the matrix products: one pass over memory each.

LayerNorm takes a residual stream that lacks the biases of the products added to it so far (they are the same for all
tokens, so one vector, ``shift``, stands for them), and rounds to int8 where the next product wants that. Statistics and
sums are fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

GELU = {"BLOCK": 2048, "num_warps": 4}
GLU = {"ROWS": 2, "num_warps": 4}
NORM = {1024: (1, 1), 2048: (1, 1), 4096: (2, 4), 8192: (2, 4)}  # by block: rows of a program, warps
NORM_INT8 = {
    1024: (1, 1),
    2048: (1, 1),
    4096: (1, 1),
    8192: (1, 2),
}  # of few warps: a rotation goes through all of them
QUANTISE_WARPS = {1024: 1, 2048: 1, 4096: 2, 8192: 4, 16384: 8}  # by the first part of a row


@triton.jit
def last_first():
    """The program's number, counted from the end: what the product before wrote last is still in the L2 cache.

    In turn the next product, which begins in front, finds there what these programs write last.
    """
    return tl.num_programs(0) - 1 - tl.program_id(0)


@triton.jit
def _gelu(x, EXACT: tl.constexpr):
    """x·Φ(x). Without EXACT, Φ(x) = 1/(1 + 2^(x·p(x²))): 4e-6 off at most, far below half precision, in half the time.

    p was fitted to least the largest error of x·Φ(x); where x leaves the fit, its last term leads to 0 or x.
    """
    if EXACT:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    s = x * x
    p = -2.3020521 + s * (-1.0520476e-1 + s * (3.4761317e-4 + s * (9.0282762e-5 + s * -3.3172283e-6)))
    return tl.fdiv(x, 1.0 + tl.exp2(x * p))


@triton.jit
def _rotated(value, SIZE: tl.constexpr):
    """SIZE numbers -> each 256 neighbours times the orthonormal Hadamard matrix H₁₆ ⊗ H₁₆, in transposed order.

    As 16 × 16 matrices X these are H₁₆·Xᵀ·H₁₆: two products on tensor cores, in fp16. Weights come through here, too, so
    the order is the same on both sides of a product.
    """
    line = tl.arange(0, 16)
    shared = line[:, None] & line[None, :]
    shared ^= shared >> 2
    shared ^= shared >> 1
    matrix = (0.25 - 0.5 * (shared & 1).to(tl.float32)).to(tl.float16)
    half = tl.dot(value.to(tl.float16).reshape(SIZE // 16, 16), matrix).to(tl.float16)
    half = half.reshape(SIZE // 256, 16, 16).permute(0, 2, 1).reshape(SIZE // 16, 16)
    return tl.dot(half, matrix).reshape(value.shape)


@triton.jit
def _scale(largest):
    return tl.maximum(largest, 1e-12) / 127.0


@triton.jit
def _rounded(value, scale):
    """The int8 nearest to value / scale: what is added leaves it in the lowest bits."""
    return (value * (1.0 / scale) + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)


# Numbers of tokens aren't specialised: whether one is a multiple of 16 would decide about compiling anew.
@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    x,  # (T, WIDTH), rows STRIDE apart
    shift,  # (WIDTH,) fp32, or anything without SHIFT
    weight,  # (WIDTH,)
    bias,  # (WIDTH,), or anything without BIAS
    out,  # (T, WIDTH), rows OUT_STRIDE apart
    scales,  # (T,) fp32, or anything without QUANTISE
    rows,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    BIAS: tl.constexpr,
    QUANTISE: tl.constexpr,  # to int8
    ROTATE: tl.constexpr,
):
    row = last_first() * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    row64 = row.to(tl.int64)[:, None]
    at = row64 * STRIDE + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if SHIFT:
        value += tl.load(shift + column, mask=column < WIDTH, other=0.0)[None, :]
    mean = tl.sum(value, 1) / WIDTH
    value = tl.where(inside, value - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(value * value, 1) / WIDTH + eps)
    w = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    value = value * inverse[:, None] * w[None, :]
    if BIAS:
        value += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    if ROTATE:
        value = _rotated(value, ROWS * BLOCK)
    place = out + row64 * OUT_STRIDE + column[None, :]
    if QUANTISE:
        scale = _scale(tl.max(tl.abs(value), 1))
        tl.store(scales + row, scale, mask=row < rows)
        tl.store(place, _rounded(value, scale[:, None]), mask=inside)
    else:
        tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def gelu_kernel(x, out, rows, WIDTH: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    at = last_first().to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < rows.to(tl.int64) * WIDTH
    value = tl.load(x + at, mask=inside).to(tl.float32)
    tl.store(out + at, _gelu(value, EXACT).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def glu_kernel(
    x, out, rows, WIDTH: tl.constexpr, EXACT: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    """(T, 2·WIDTH) → (T, WIDTH): GELU, or SiLU, of the first half times the second."""
    CHUNKS: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    program = last_first()
    row = (program // CHUNKS).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = program % CHUNKS * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    at = row[:, None] * 2 * WIDTH + column[None, :]
    gate = tl.load(x + at, mask=inside).to(tl.float32)
    value = tl.load(x + at + WIDTH, mask=inside).to(tl.float32)
    activated = gate * tl.sigmoid(gate) if SILU else _gelu(gate, EXACT)
    result = (activated * value).to(out.dtype.element_ty)
    tl.store(out + row[:, None] * WIDTH + column[None, :], result, mask=inside)


@triton.jit
def quantise_kernel(x, out, scales, ROTATE: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr):
    """A row → int8 and its scale, rotated if asked for. In two parts, so that 10,240 isn't 16,384."""
    row = last_first().to(tl.int64)
    x += row * WIDTH
    out += row * WIDTH
    head, tail = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    first = tl.load(x + head).to(tl.float32)
    second = tl.load(x + tail, mask=tail < WIDTH, other=0.0).to(tl.float32)
    if ROTATE:
        first = _rotated(first, HEAD)
        if WIDTH > HEAD:
            second = _rotated(second, TAIL)
    scale = _scale(tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0)))
    tl.store(scales + row, scale)
    tl.store(out + head, _rounded(first, scale))
    tl.store(out + tail, _rounded(second, scale), mask=tail < WIDTH)


@triton.jit(do_not_specialize=["cu_seqlens"])
def pool_kernel(x, out, cu_seqlens, SKIP: tl.constexpr, LIMIT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Mean over a sequence's tokens without SKIP at either end, the first LIMIT of them (all if 0)."""
    sequence, column = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(cu_seqlens + sequence) + SKIP
    count = tl.load(cu_seqlens + sequence + 1) - start - SKIP
    if LIMIT > 0:
        count = tl.minimum(count, LIMIT)
    inside = column < WIDTH
    x += start.to(tl.int64) * WIDTH + column
    total = tl.zeros([BLOCK], tl.float32)
    for token in range(0, count):
        total += tl.load(x + token * WIDTH, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + sequence.to(tl.int64) * WIDTH + column, total / count, mask=inside)


def norm(
    x: torch.Tensor,
    module: torch.nn.LayerNorm,
    *,
    shift: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """LayerNorm of ``x + shift`` (T, d), whose rows may be apart, to ``out``, which may be x, or a new tensor of ``dtype``."""
    out = torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device) if out is None else out
    _launch_norm(x, module, shift, out)
    return out


def norm_quantised(
    x: torch.Tensor, module: torch.nn.LayerNorm, rotate: bool, *, shift: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``norm``, to rows in int8, rotated if asked for, and their scales (T, 1) fp32."""
    out = torch.empty_like(x, dtype=torch.int8)
    scales = torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
    _launch_norm(x, module, shift, out, scales, rotate)
    return out, scales


def _launch_norm(
    x: torch.Tensor,
    module: torch.nn.LayerNorm,
    shift: torch.Tensor | None,
    out: torch.Tensor,
    scales: torch.Tensor | None = None,
    rotate: bool = False,
) -> None:
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    table = NORM if scales is None else NORM_INT8
    per_program, warps = table.get(block, (max(1, 2048 // block), 4))
    norm_kernel[(triton.cdiv(rows, per_program),)](
        x,
        x if shift is None else shift,
        module.weight,
        x if module.bias is None else module.bias,
        out,
        x if scales is None else scales,
        rows,
        module.eps,
        WIDTH=width,
        BLOCK=block,
        ROWS=per_program,
        STRIDE=x.stride(0),
        OUT_STRIDE=out.stride(0),
        SHIFT=shift is not None,
        BIAS=module.bias is not None,
        QUANTISE=scales is not None,
        ROTATE=rotate,
        num_warps=warps,
    )


def gelu_(x: torch.Tensor) -> torch.Tensor:
    """erf-GELU of (T, d) in place."""
    rows, width = x.shape
    grid = (triton.cdiv(rows * width, GELU["BLOCK"]),)
    gelu_kernel[grid](x, x, rows, WIDTH=width, EXACT=x.dtype == torch.float32, **GELU)
    return x


def glu(x: torch.Tensor, silu: bool = False) -> torch.Tensor:
    """(T, 2·f) → (T, f): erf-GELU, or SiLU, of the first half times the second."""
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    block = min(1024, max(256, width & -width))  # divides the width, or leaves little over
    grid = (triton.cdiv(rows, GLU["ROWS"]) * triton.cdiv(width, block),)
    exact = x.dtype == torch.float32
    glu_kernel[grid](x, out, rows, WIDTH=width, EXACT=exact, SILU=silu, BLOCK=block, **GLU)
    return out


def quantise(x: torch.Tensor, rotate: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, d) → rows in int8, rotated if asked for (d is a multiple of 256 then), and scales (T, 1) fp32."""
    rows, width = x.shape
    out = torch.empty_like(x, dtype=torch.int8)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    head = 1 << (width.bit_length() - 1)
    quantise_kernel[(rows,)](
        x,
        out,
        scales,
        ROTATE=rotate,
        WIDTH=width,
        HEAD=head,
        TAIL=triton.next_power_of_2(max(1, width - head)),
        num_warps=QUANTISE_WARPS.get(head, 1 if head < 1024 else 16),
    )
    return out, scales


def pool(hidden: torch.Tensor, cu_seqlens: torch.Tensor, skip: int = 0, limit: int = 0) -> torch.Tensor:
    """(T, d) → (n, d) fp32: mean of each sequence's tokens but ``skip`` at either end, the first ``limit`` of them."""
    width, block = hidden.shape[1], 256
    out = torch.empty((len(cu_seqlens) - 1, width), dtype=torch.float32, device=hidden.device)
    grid = (len(out), triton.cdiv(width, block))
    pool_kernel[grid](hidden, out, cu_seqlens, SKIP=skip, LIMIT=limit, WIDTH=width, BLOCK=block, num_warps=4)
    return out
