"""Every kernel against plain PyTorch: natively on a GPU, else (in a process of its own) in Triton's interpreter."""

import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.unit.encoder_fixtures import bpe_json, dna, proteins, random_dnabert, random_esm2, random_esmc
from virnucpro.encoders.attention import Sdpa, Triton, alibi_slopes
from virnucpro.encoders.int8 import Int8Kernels, Int8Linear, rotates, round_layers, round_rows
from virnucpro.encoders.kernels import attention as attention_kernels
from virnucpro.encoders.kernels import pointwise, products
from virnucpro.encoders.kernels.products import Tiling
from virnucpro.encoders.ops import Kernels, rotary_tables, rotate
from virnucpro.encoders.packing import PackedBatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs a GPU or TRITON_INTERPRET=1, which test_kernels_interpreted.py sets",
)

LENGTHS = [[192, 65, 7, 1], [168, 161], [64, 3], [112, 97], [200, 2]]  # up to three tiles (192 to 64), long
INTERPRETED = DEVICE == "cpu"
HEAD_DIMS = [16, 24, 64] if INTERPRETED else [16, 20, 24, 32, 64, 80, 128]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
HALVES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]  # NumPy has no bfloat16


def reference(q, k, v, lengths, rotary=None, slopes=None):
    """Plain softmax attention in fp64, one sequence at a time."""
    outputs = []
    for a, b, c in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        length = len(a)
        if rotary is not None:
            a, b = (rotate(x.float(), rotary[0][:length], rotary[1][:length]) for x in (a, b))
        scores = torch.einsum("ihd,jhd->hij", a.double(), b.double()) / math.sqrt(q.shape[2])
        if slopes is not None:
            at = torch.arange(length, device=q.device)
            scores = scores - slopes.double()[:, None, None] * (at[:, None] - at).abs()
        outputs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), c.double()))
    return torch.cat(outputs)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert torch.isfinite(got).all()
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


CASES = [
    (kind, head_dim, dtype)
    for i, kind in enumerate(("rotary", "alibi", "plain"))
    for j, head_dim in enumerate(HEAD_DIMS)
    for k, dtype in enumerate((torch.float32, *HALVES))
    if not INTERPRETED or (i + j + k) % 2 == 0  # the interpreter is slow: any two of the three are there together
]


@pytest.mark.parametrize(("kind", "head_dim", "dtype"), CASES, ids=str)
def test_attention(kind, head_dim, dtype):
    heads = 1 if INTERPRETED else 3
    for lengths in LENGTHS:
        torch.manual_seed(head_dim)
        qkv = torch.randn(sum(lengths), 3, heads, head_dim, device=DEVICE).to(dtype)
        q, k, v = qkv.unbind(1)
        pack = PackedBatch.build(np.array(lengths)).to(DEVICE)
        at = torch.arange(max(lengths), device=DEVICE)
        rotary = rotary_tables(at, head_dim) if kind == "rotary" else None
        slopes = torch.tensor(alibi_slopes(heads), device=DEVICE) if kind == "alibi" else None
        got = attention_kernels.attention(q, k, v, pack.cu_seqlens, min(lengths), max(lengths), rotary, slopes)
        assert got.shape == q.shape and got.dtype == dtype
        assert error(got, reference(q, k, v, lengths, rotary, slopes)) < TOLERANCE[dtype], lengths


def test_a_sequence_of_more_numbers_than_32_bits_count_is_refused():
    q, k, v = torch.empty((2**20, 3, 32, 64), dtype=torch.float16, device="meta").unbind(1)
    with pytest.raises(ValueError, match="1,048,576 tokens is too long"):
        attention_kernels.attention(q, k, v, torch.empty(2, device="meta"), 2**20, 2**20)


@pytest.mark.parametrize("lengths", [[105, 70], [200, 2]], ids=["short", "long"])
def test_padding_changes_nothing(lengths):
    total = sum(lengths)
    qkv = torch.randn(total + 50, 3, 2, 16, device=DEVICE).to(HALVES[0])
    got = []
    for room in ((0, 0), (5, total + 50)):
        q, k, v = qkv[: max(total, room[1])].unbind(1)
        pack = PackedBatch.build(np.array(lengths), pad_to=room).to(DEVICE)
        slopes = torch.tensor(alibi_slopes(2), device=DEVICE)
        out = attention_kernels.attention(q, k, v, pack.cu_seqlens, min(lengths), max(lengths), None, slopes)
        pooled = pointwise.pool(out.flatten(1).contiguous(), pack.cu_seqlens)
        got.append((out[:total], pooled[: len(lengths)]))
    assert torch.equal(got[0][0], got[1][0]) and torch.equal(got[0][1], got[1][1])
    assert torch.isfinite(got[0][1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("width", [48, 2560] if INTERPRETED else [48, 320, 768, 2560, 5120])
def test_norm_with_everything(dtype, width):
    torch.manual_seed(width)
    x = torch.randn(5, width, device=DEVICE).to(dtype)
    shift = torch.randn(width, device=DEVICE)
    module = torch.nn.LayerNorm(width, eps=1e-5, device=DEVICE)
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)

    def wanted(value):
        return F.layer_norm(value, (width,), module.weight, module.bias, 1e-5).detach()

    assert error(pointwise.norm(x, module), wanted(x.float())) < TOLERANCE[dtype]
    assert error(pointwise.norm(x, module, shift=shift), wanted(x.float() + shift)) < TOLERANCE[dtype]
    assert pointwise.norm(x, module, dtype=torch.float32).dtype == torch.float32
    same = x.clone()
    assert pointwise.norm(same, module, out=same) is same
    assert error(same, wanted(x.float())) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_norm_of_rows_that_are_apart(dtype):
    """As queries and keys within their fused projection, and without a bias."""
    qkv = torch.randn(5, 3 * 48, device=DEVICE).to(dtype)
    module = torch.nn.LayerNorm(48, bias=False, device=DEVICE)
    torch.nn.init.normal_(module.weight)
    before, (q, k, v) = qkv.clone(), qkv.chunk(3, dim=1)
    wanted = F.layer_norm(k.float(), (48,), module.weight).detach()
    assert error(pointwise.norm(k, module), wanted) < TOLERANCE[dtype]
    assert torch.equal(qkv, before)
    assert pointwise.norm(k, module, out=k) is k
    assert error(k, wanted) < TOLERANCE[dtype]
    assert torch.equal(q, before[:, :48]) and torch.equal(v, before[:, 96:]), "and nothing else"


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("width", [20, 1280, 5120])
def test_activations(dtype, width):
    x = torch.linspace(-12, 12, 4 * width, device=DEVICE).view(2, 2 * width).to(dtype)
    gate, value = x.float().chunk(2, dim=1)
    assert error(pointwise.glu(x), F.gelu(gate) * value) < TOLERANCE[dtype]
    assert error(pointwise.glu(x, silu=True), F.silu(gate) * value) < TOLERANCE[dtype]
    wanted = F.gelu(x.float())
    got = pointwise.gelu_(x)
    assert got is x and error(got, wanted) < TOLERANCE[dtype]
    assert float((got.float() - wanted).abs().max()) <= TOLERANCE[dtype] * 6
    most = 60_000 if dtype == torch.float16 else 1e30
    ends = torch.tensor([[-most, -1000, -20, 20, 1000, most, 0, -0.0]], device=DEVICE).to(dtype)
    assert torch.equal(pointwise.gelu_(ends.clone()), F.relu(ends)), "where nothing was fitted"


@pytest.mark.parametrize("width", [320, 256, 1280, 2560])
def test_rows_in_int8(width):
    """To the number as in PyTorch, but where fp16 within the rotation moves one over a half; 320 isn't rotated."""
    torch.manual_seed(width)
    x = torch.randn(5, width, device=DEVICE).half()
    x[1], x[2, 7] = 0, 300
    module = torch.nn.LayerNorm(width, device=DEVICE)
    torch.nn.init.normal_(module.weight)
    with torch.no_grad():
        normed = pointwise.norm_quantised(x, module, rotates(width))
        cases = (pointwise.quantise(x, rotates(width)), x), (normed, module(x.float()))
    for (values, scales), source in cases:
        wanted, wanted_scales = round_rows(source.cpu())
        assert values.dtype == torch.int8 and error(scales.cpu(), wanted_scales) < 1e-3
        difference = (values.cpu().int() - wanted.int()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.02
        assert int(values.abs().max()) == 127 and not values[1].any()
    assert rotates(width) == (width != 320)


SMALL = [
    Tiling(32, 32, 32, 4, 2, tma=False),
    Tiling(32, 64, 32, 4, 2, group=2, parts=2, tma=False),
    Tiling(32, 32, 32, 4, 2, group=1, programs=1, tma=False),
]
if INTERPRETED or torch.cuda.get_device_capability() >= (9, 0):
    SMALL += [Tiling(64, 64, 64, 4, 2), Tiling(64, 64, 32, 4, 3, group=2, parts=2, programs=1)]
    SMALL += (
        []
        if INTERPRETED
        else [Tiling(64, 128, 64, 4, 2, reduce=True), Tiling(64, 128, 64, 4, 2, programs=1, flatten=True)]
    )


@pytest.mark.parametrize("tiling", SMALL, ids=str)
@pytest.mark.parametrize("columns", [48, 192])
def test_int8_product(tiling, columns, monkeypatch):
    torch.manual_seed(columns)
    a, b = (torch.randint(-127, 128, (n, 96), dtype=torch.int8, device=DEVICE) for n in (100, columns))
    scales, weight_scales = torch.rand(100, 1, device=DEVICE), torch.rand(1, columns, device=DEVICE) * 1e-4
    bias, before = torch.randn(columns, device=DEVICE).half(), torch.randn(100, columns, device=DEVICE).half()
    exact = (a.double() @ b.double().t()) * scales * weight_scales
    monkeypatch.setattr(products, "int8_tiling", lambda *_: tiling)

    def found(bias=None, gelu=False, into=None):
        return products.int8_product(a, scales, b, weight_scales, bias, torch.float16, gelu, into)

    assert error(found(), exact) < 4e-4
    assert error(found(bias), exact + bias) < 4e-4
    assert error(found(bias, gelu=True), F.gelu(exact + bias)) < 2e-3, "tanh for erf, and the GPU's tanh"
    into = before.clone()
    assert found(into=into) is into and error(into, before + exact) < 6e-4


@pytest.mark.parametrize("tiling", SMALL, ids=str)
@pytest.mark.parametrize("silu", [True, False])
def test_gated_product(tiling, silu, monkeypatch):
    torch.manual_seed(1)
    x = torch.randn(70, 96, device=DEVICE).half()
    weight = torch.randn(2 * 48, 96, device=DEVICE).half() / 10
    gate, value = (x.double() @ weight.double().t()).chunk(2, dim=1)
    monkeypatch.setitem(products.GATED_TILINGS, products.capability(x.device), tiling)
    interleaved = weight.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
    found = products.gated_product(x, interleaved, silu)
    assert error(found, (F.silu(gate) if silu else F.gelu(gate)) * value) < 2e-3


def test_launch_shapes_fit_the_products_that_encoders_have():
    """Without TMA a product is made of whole steps; elsewhere a product has the one that was fastest for it."""
    for inner in (320, 480, 1280, 10240):
        assert inner % products.int8_tiling((8, 0), inner, gelu=False, accumulate=True).k == 0
    found = {
        (inner, end): products.int8_tiling((9, 0), inner, end == "fc1", end in ("out", "fc2"))
        for inner, end in ((1280, "qkv"), (1280, "fc1"), (5120, "fc2"), (2560, "qkv"), (2560, "fc1"), (10240, "fc2"))
    }
    assert found[5120, "fc2"] == found[10240, "fc2"] == products.INT8_LONG
    assert found[1280, "qkv"] == found[1280, "fc1"] == products.INT8_TURNS
    assert found[2560, "fc1"] == products.INT8_WIDE
    assert found[2560, "qkv"] == products.INT8_TILES


@pytest.mark.parametrize(("skip", "most"), [(0, 0), (1, 0), (1, 5)])
def test_pool(skip, most):
    lengths = [3, 40, 9, 6]
    hidden = torch.randn(sum(lengths), 300, device=DEVICE)
    got = pointwise.pool(hidden, PackedBatch.build(np.array(lengths)).to(DEVICE).cu_seqlens, skip, most)
    wanted = [part[skip : len(part) - skip][: most or None].double().mean(0) for part in hidden.split(lengths)]
    assert error(got, torch.stack(wanted)) < 1e-6


def batch_of(encoder, sequences) -> PackedBatch:
    tokens, lengths = encoder.tokenize(sequences)
    return PackedBatch.build(lengths, tokens).to(DEVICE)


def models():
    return [random_esm2(layers=3), random_dnabert(layers=3, tokenizer=bpe_json()), random_esmc(layers=3)]


@pytest.mark.parametrize("encoder", models(), ids=lambda encoder: encoder.architecture)
def test_a_forward_pass_in_kernels_is_the_one_in_pytorch(encoder):
    """The same text over both sets of operations, in the same numbers; and again, with what kernels remember."""
    encoder = encoder.to(DEVICE)
    sequences = dna([90, 31, 90, 5]) if encoder.architecture == "dnabert_s" else proteins([30, 7, 30, 1])
    batch = batch_of(encoder, sequences)
    with torch.inference_mode():
        wanted = encoder.vectors(batch, Sdpa())
        encoder.ops = Kernels()
        for _ in range(2):
            assert error(encoder.vectors(batch, Triton()), wanted) < 2e-6
    biases = [layer.out.bias for layer in encoder.layers if layer.out.bias is not None]
    assert len(encoder.ops._biases) == 2 * len(biases)


def test_a_forward_pass_in_int8_is_that_of_its_layers_in_pytorch():
    """What products accumulated, and the biases: layers in int8 with their own forward pass are right."""
    encoder = random_esm2(layers=3, width=256).to(DEVICE).half()
    batch = batch_of(encoder, proteins([30, 7, 30, 1]))
    with torch.inference_mode():
        half = encoder.vectors(batch, Sdpa())
        round_layers(encoder)
        assert isinstance(encoder.layers[1].fc1, Int8Linear) and not isinstance(encoder.layers[0].fc1, Int8Linear)
        wanted = encoder.vectors(batch, Sdpa())
        encoder.ops = Int8Kernels()
        for _ in range(2):  # what is rounded in between differs in fp16's last bit
            assert error(encoder.vectors(batch, Triton()), wanted) < 0.02
    assert 1e-4 < error(wanted, half) < 0.1


@pytest.mark.parametrize("architecture", ["dnabert_s", "esmc"])
def test_a_forward_pass_with_gates_in_the_products(architecture, monkeypatch):
    encoder = {each.architecture: each for each in models()}[architecture].to(DEVICE).half()
    tiling = Tiling(32, 32, 16, 4, 2, tma=False)
    batch = batch_of(encoder, dna([90, 5]) if architecture == "dnabert_s" else proteins([30, 1]))
    ran, gated = [], products.gated_product
    monkeypatch.setattr(products, "gated_product", lambda *given, **how: ran.append(1) or gated(*given, **how))
    found = []
    with torch.inference_mode():
        for tilings in ({}, {products.capability(batch.cu_seqlens.device): tiling}):
            monkeypatch.setattr(products, "GATED_TILINGS", tilings)
            encoder.ops = Kernels()
            found.append(encoder.vectors(batch, Triton()))
            assert len(ran) == 3 * len(tilings)
    assert 0 < error(*found) < 2e-3
