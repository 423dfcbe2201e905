"""Both encoders on a GPU against the plain fp32 forward pass: every backend, precision and way through the blocks."""

import copy
import dataclasses
import importlib.util

import numpy as np
import pytest
import torch

from virnucpro import installation
from virnucpro.encoders import ops
from virnucpro.encoders.accuracy import relative_l2, relative_l2_rest
from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.embed import embed
from virnucpro.encoders.embedder import Embedder
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.esmc import ESMC, ESMCConfig
from virnucpro.encoders.graphs import Graphs
from virnucpro.encoders.kernels import products
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.original import embed_original
from virnucpro.encoders.precision import PRECISIONS
from virnucpro.errors import ConfigError
from virnucpro.models.registry import ARCHITECTURES

pytestmark = pytest.mark.gpu

FLASH = pytest.param("flash-attn", marks=pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is None, reason="flash-attn isn't installed"))  # fmt: skip
SHAPES = {16: (3, 64, 4), 24: (3, 96, 4), 32: (3, 128, 4), 64: (3, 256, 4), 128: (2, 512, 4)}  # by head size
LENGTHS = [166, 166, 1, 40, 165, 164, 10, 300, 1022, 700, 64, 62]


def sequences(architecture: str, lengths=LENGTHS, seed=0) -> list[bytes]:
    letters = np.frombuffer(b"ACGT" if architecture == "dnabert_s" else b"LAGVSERTIDPKQNFYMHWC", np.uint8)
    rng = np.random.default_rng(seed)
    return [rng.choice(letters, length * (3 if architecture == "dnabert_s" else 1)).tobytes() for length in lengths]


def random_encoder(architecture: str, head_dim: int):
    """Weights in which nothing is one or zero, and (as ESM-2 3B has it) one dimension is an outlier."""
    layers, width, heads = SHAPES[head_dim]
    torch.manual_seed(head_dim)
    if architecture == "esm2":
        encoder = ESM2(ESM2Config(layers, width, heads, 4 * width))
    elif architecture == "esmc":
        encoder = ESMC(ESMCConfig(layers, width, heads, 2 * width))
    else:
        bundled = load_encoder(installation.root() / "resources" / "models" / "mini-dnabert-s.safetensors")
        encoder = DNABERT(DNABERTConfig(layers, width, heads, 2 * width), bundled.tokenizer_json)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
            if isinstance(module, torch.nn.LayerNorm | torch.nn.Linear) and module.bias is not None:
                module.bias.normal_(std=0.1)
        if architecture == "esmc":  # whose last norm has no bias
            encoder.final_norm.weight[7] += 60
        else:
            last = encoder.final_norm if architecture == "esm2" else encoder.layers[-1].ffn_norm
            last.bias[7] += 60
    return encoder.requires_grad_(False).eval()


def compared(encoder, texts, **settings):
    """Vectors, the plain fp32 ones, and what ran."""
    ids = [f"s{i}" for i in range(len(texts))]
    expected = embed_original(copy.deepcopy(encoder), ids, texts, "cuda").vectors
    found = embed(copy.deepcopy(encoder), ids, texts, device="cuda", **settings)
    assert np.isfinite(found.vectors).all()
    return found.vectors, expected, found.statistics


@pytest.mark.parametrize("architecture", [*ARCHITECTURES])
@pytest.mark.parametrize("attention", ["triton", "sdpa", FLASH])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("head_dim", SHAPES)
def test_every_combination(architecture, attention, precision, head_dim):
    encoder = random_encoder(architecture, head_dim)
    half = precision in ("fp16", "bf16")
    if attention == "flash-attn" and not half:
        with pytest.raises(ConfigError, match=f"'{attention}' is not available"):
            embed(
                encoder, ["a"], sequences(architecture, [20]), device="cuda", precision=precision, attention=attention
            )
        return
    found, expected, ran = compared(
        encoder, sequences(architecture), precision=precision, attention=attention, tokens_per_batch=900
    )
    assert (ran["backend"], ran["kernels"], ran["precision"]) == (attention, "triton", precision)
    assert ran["packs"] >= 3 and ran["redone_batches"] == 0 and ran["gpu_seconds"] > 0 and ran["gpu_uuid"]
    gate = {"fp32": 1e-5, "tf32": 5e-3, "fp16": 2e-3, "bf16": 2e-2}[precision]
    assert np.sqrt(np.mean(relative_l2_rest(found, expected) ** 2)) < gate
    if architecture != "esmc":  # its outlier is a factor, and so as noisy as the rest
        assert relative_l2(found, expected).max() < gate


@pytest.mark.parametrize("architecture", [*ARCHITECTURES])
def test_what_auto_means(architecture):
    found, expected, ran = compared(random_encoder(architecture, 64), sequences(architecture))
    assert (ran["backend"], ran["kernels"], ran["precision"]) == ("triton", "triton", "fp16")
    assert ran["tokens_per_batch"] == ARCHITECTURES[architecture].max_tokens, "measured: there is room"
    assert relative_l2_rest(found, expected).max() < PRECISIONS["fp16"].gate.relative_l2


def test_gelu_ends_the_product_in_half_precision_alone(monkeypatch):
    """As near to fp32 as with the erf kernel, which fp32 keeps."""
    calls, fused = [], ops.linear_gelu
    monkeypatch.setattr(ops, "linear_gelu", lambda x, linear: calls.append(x.dtype) or fused(x, linear))
    encoder, texts = random_encoder("esm2", 64), sequences("esm2")
    assert relative_l2_rest(*compared(encoder, texts, precision="fp32")[:2]).max() < 1e-5 and not calls
    with_tanh, expected, ran = compared(encoder, texts, precision="fp16")
    assert ran["kernels"] == "triton" and set(calls) == {torch.float16}
    monkeypatch.setattr(ops, "gelu_in_product", lambda weight: False)
    with_erf = compared(encoder, texts, precision="fp16")[0]
    errors = [float(np.sqrt(np.mean(relative_l2_rest(each, expected) ** 2))) for each in (with_tanh, with_erf)]
    assert errors[0] < 1.5 * errors[1] < 3e-3


@pytest.mark.parametrize("architecture", [*ARCHITECTURES])
def test_compiled_blocks(architecture):
    encoder = random_encoder(architecture, 64)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found, expected, ran = compared(encoder, sequences(architecture), compile=True, tokens_per_batch=900)
    assert ran["kernels"] == "compiled" and ran["compiled_graphs"] <= 4, "not for every pack anew"
    assert relative_l2_rest(found, expected).max() < PRECISIONS["fp16"].gate.relative_l2


def test_int8_keeps_to_its_gate_in_spite_of_an_outlier_dimension():
    encoder = random_encoder("esm2", 64)
    found, expected, ran = compared(encoder, sequences("esm2", [166] * 40), precision="int8")
    assert (ran["kernels"], ran["precision"]) == ("int8", "int8")
    error = np.sqrt(np.mean(relative_l2_rest(found, expected) ** 2))
    assert 1e-4 < error < PRECISIONS["int8"].job_gate, "it did run, and is close"
    assert relative_l2(found, expected).max() < error, "which plain relative L2 would flatter"
    other = embed(random_encoder("dnabert_s", 64), ["a"], [b"ACGT" * 9], device="cuda", precision="int8")
    assert other.statistics["precision"] == "fp16"


def test_int8_that_is_too_far_off_stops_the_job(monkeypatch):
    monkeypatch.setitem(PRECISIONS, "int8", dataclasses.replace(PRECISIONS["int8"], job_gate=1e-4))
    with pytest.raises(ConfigError, match=r"precision: int8 changes the vectors.*Use 'fp16'"):
        embed(random_encoder("esm2", 64), ["a"], sequences("esm2", [100]), device="cuda", precision="int8")


@pytest.mark.parametrize("channels", ["ordinary", "outliers"])
def test_int8_of_650m_shapes(channels):
    """The products that 650M has, with and without three channels 20 times as large: rotation makes them harmless."""
    torch.manual_seed(0)
    encoder = ESM2(ESM2Config(8, 1280, 20, 5120))
    if channels == "outliers":
        with torch.no_grad():
            for layer in encoder.layers:
                for norm, linear in ((layer.attention_norm, layer.qkv), (layer.ffn_norm, layer.fc1)):
                    large = torch.randperm(1280)[:3]
                    norm.weight[large] *= 20
                    linear.weight[:, large] /= 20
    found, expected, _ = compared(encoder, sequences("esm2", [166] * 40), precision="int8")
    assert np.sqrt(np.mean(relative_l2_rest(found, expected) ** 2)) < PRECISIONS["int8"].job_gate


def test_gates_within_the_products(monkeypatch):
    """Where they pay they run, and change vectors by no more than half precision does."""
    if torch.cuda.get_device_capability() not in products.GATED_TILINGS:
        pytest.skip("the launch shapes for this GPU aren't measured")
    encoder, texts = random_encoder("dnabert_s", 64), sequences("dnabert_s")
    calls, gated = [], products.gated_product
    monkeypatch.setattr(products, "gated_product", lambda *given, **how: calls.append(1) or gated(*given, **how))
    found, expected, ran = compared(copy.deepcopy(encoder), texts, precision="fp16")
    assert calls and ran["kernels"] == "triton"
    monkeypatch.setattr(products, "gate_pays", lambda *_: False)
    apart, count = compared(encoder, texts, precision="fp16")[0], len(calls)
    assert len(calls) == count
    errors = [float(np.sqrt(np.mean(relative_l2_rest(each, expected) ** 2))) for each in (found, apart)]
    assert errors[0] < 1.5 * errors[1] < 3e-3


@pytest.mark.parametrize("architecture", ["esm2", "dnabert_s"])
def test_out_of_memory_halves_the_budget_and_goes_on(architecture):
    encoder = random_encoder(architecture, 64)
    texts = sequences(architecture, [400] * 600)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    expected = embed(copy.deepcopy(encoder), [str(i) for i in range(600)], texts, device="cuda", tokens_per_batch=4096)
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 400e6) / total)
        found = embed(
            copy.deepcopy(encoder), [str(i) for i in range(600)], texts, device="cuda", tokens_per_batch=250_000
        )
        assert found.statistics["out_of_memory"] > 0 and found.statistics["tokens_per_batch"] < 250_000
        auto = embed(copy.deepcopy(encoder), [str(i) for i in range(600)], texts, device="cuda")
        assert (
            auto.statistics["out_of_memory"] == 0
            and auto.statistics["tokens_per_batch"] <= ARCHITECTURES[architecture].max_tokens
        )
        letters = b"M" if architecture == "esm2" else b"ACGTTGCA"
        with pytest.raises(ConfigError, match=r"sequence giant .* doesn't fit in the memory"):
            embed(copy.deepcopy(encoder), ["giant"], [letters * 1_000_000], device="cuda", tokens_per_batch=4096)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert relative_l2(found.vectors, expected.vectors).max() < 1e-3
    assert relative_l2(auto.vectors, expected.vectors).max() < 1e-3


def test_packs_of_one_shape_are_replayed_as_graphs(monkeypatch):
    """Of lengths that share a shape, of others that don't, and of a second job on the same encoder."""
    encoder = random_encoder("dnabert_s", 64)
    lengths = [*np.random.default_rng(3).integers(150, 170, 3000), *[300] * 50, *[1022] * 3]
    texts = sequences("dnabert_s", lengths)
    for _ in range(2):
        found, expected, ran = compared(encoder, texts, tokens_per_batch=20_000)
        assert 1 <= ran["graphs"] <= 4 and ran["packs"] > ran["graph_packs"] > ran["packs"] / 2
        assert relative_l2_rest(found, expected).max() < PRECISIONS["fp16"].gate.relative_l2
    monkeypatch.setattr(Embedder, "_graphed", lambda embedder: False)
    launched, _, ran = compared(encoder, texts, tokens_per_batch=20_000)
    assert "graphs" not in ran
    assert relative_l2(found, launched).max() < 5e-4, "rounding only"


def test_graphs_share_their_memory(monkeypatch):
    grown, record = [], Graphs._record

    def watched(graphs, *arguments):
        before = torch.cuda.memory_reserved()
        record(graphs, *arguments)
        grown.append(torch.cuda.memory_reserved() - before)

    monkeypatch.setattr(Graphs, "_record", watched)
    texts = sequences("dnabert_s", [*[100] * 4000, *[200] * 2000, *[400] * 1000])
    _, _, ran = compared(random_encoder("dnabert_s", 64), texts, tokens_per_batch=40_000)
    assert ran["graphs"] == len(grown) >= 3
    assert sum(grown[1:]) < grown[0] / 2, "the first one's serves the others, which never run at the same time"


@pytest.mark.parametrize("architecture", ["esm2", "dnabert_s"])
def test_an_overflow_is_computed_again_in_fp32(architecture):
    encoder = random_encoder(architecture, 64)
    if architecture == "dnabert_s":
        with torch.no_grad():
            encoder.layers[-1].gated.weight *= 3000
        found, expected, ran = compared(
            encoder.half().float(), sequences(architecture, [166] * 100), tokens_per_batch=3000
        )
        assert ran["redone_batches"] > 0 and "graphs" not in ran
        assert relative_l2_rest(found, expected).max() < 1e-3
        return
    with torch.no_grad():
        encoder.layers[-1].fc1.bias[0] = 60000
        encoder.layers[-1].fc2.weight[:, 0] = 2
        encoder.final_norm.weight *= 1e-3  # else fp32 loses digits to the 120,000 in every dimension, too
    found, expected, ran = compared(encoder.half().float(), sequences("esm2"), tokens_per_batch=900)
    assert ran["redone_batches"] == ran["packs"] - ran["redone_batches"] > 0
    assert relative_l2(found, expected).max() < 1e-3
