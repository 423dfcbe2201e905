"""Encoders on a CPU: operations in place, a batch on each core."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import ROOT, bpe_json, dna, proteins, random_dnabert, random_esm2, random_esmc
from virnucpro.benchmark import Benchmark, Plan
from virnucpro.classifier.model import load_classifier
from virnucpro.encoders.accuracy import relative_l2
from virnucpro.encoders.cpu import HalfCpuOps, cores, keep_freed_memory
from virnucpro.encoders.device import Device
from virnucpro.encoders.embed import embed
from virnucpro.encoders.embedder import Embedder
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.original import embed_original
from virnucpro.encoders.precision import choose_precision
from virnucpro.errors import ConfigError
from virnucpro.models.registry import ARCHITECTURES

LENGTHS = [3, 70, 70, 70, 5, 41, 41, 160, 2, 70] * 6


MODELS = {"esm2": random_esm2, "esmc": random_esmc, "dnabert_s": lambda: random_dnabert(tokenizer=bpe_json())}


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", list(MODELS))
@pytest.mark.parametrize("batching", ["packed", "single"])
def test_each_core_gives_the_plain_vectors(architecture, batching, three_threads):
    model = MODELS[architecture]()
    texts = dna([4 * n for n in LENGTHS]) if architecture == "dnabert_s" else proteins(LENGTHS)
    ids = [str(number) for number in range(len(texts))]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = embed(model, ids, texts, tokens_per_batch=200, packing=batching == "packed")
    assert (found.statistics["kernels"], torch.get_num_threads()) == ("cpu", 3)
    assert found.statistics["packs"] > 10, "more than wait at once"
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    plain = embed_original(model, ids, texts).vectors
    assert np.abs(found.vectors - plain).max() < 1e-5 * np.abs(plain).max()


@pytest.fixture
def bf16(monkeypatch):
    """A CPU that multiplies bf16 numbers, which oneDNN does for any with AVX512."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bf16 on this processor")
    monkeypatch.setattr(Device, "has_bf16_products", True)


@pytest.mark.parametrize("architecture", list(MODELS))
def test_products_in_bf16_stay_close_to_fp32(architecture, bf16, three_threads):
    model = MODELS[architecture]()
    texts = dna([4 * n for n in LENGTHS]) if architecture == "dnabert_s" else proteins(LENGTHS)
    ids = [str(number) for number in range(len(texts))]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = embed(model, ids, texts, tokens_per_batch=200)
    assert (found.statistics["kernels"], found.statistics["precision"]) == ("cpu", "bf16")
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    errors = relative_l2(found.vectors, embed_original(model, ids, texts).vectors)
    assert 1e-5 < errors.max() < 2e-2


def test_bundled_models_call_the_same_in_bf16(bf16):
    vectors, sizes = {}, (500, 166)
    for name, make, size in zip(("mini-dnabert-s", "mini-esm2"), (dna, proteins), sizes, strict=True):
        encoder = load_encoder(ROOT / "resources" / "models" / f"{name}.safetensors", dtype=torch.float32)
        texts = make([size] * 20)
        for precision in ("bf16", "fp32"):
            found = embed(encoder, list(map(str, range(20))), texts, precision=precision).vectors
            vectors.setdefault(precision, []).append(torch.from_numpy(found))
    classifier, _ = load_classifier(ROOT / "resources" / "models" / "mini-500.safetensors")
    half, full = (classifier.scores(torch.hstack(both))[:, 1] for both in vectors.values())
    assert 0 < (half - full).abs().max() < 0.02


def test_what_overflows_in_bf16_is_computed_again(bf16, three_threads, monkeypatch):
    model, text, linear = random_esm2(), proteins([30] * 4), HalfCpuOps.linear
    monkeypatch.setattr(HalfCpuOps, "linear", lambda *given: linear(*given).fill_(torch.inf))
    found = embed(model, list("abcd"), text, tokens_per_batch=64)
    assert (found.statistics["redone_batches"], found.statistics["precision"]) == (2, "bf16")
    assert relative_l2(found.vectors, embed_original(model, list("abcd"), text).vectors).max() < 1e-5


def test_bf16_is_for_cpus_that_have_it_and_not_compiled(bf16, monkeypatch):
    assert choose_precision("auto", "cpu") == choose_precision("bf16", "cpu")
    assert choose_precision("auto", "cpu", compile=True).name == "fp32"
    with pytest.raises(ConfigError, match="isn't compiled on a CPU"):
        choose_precision("bf16", "cpu", compile=True)
    monkeypatch.setattr(Device, "has_bf16_products", False)
    assert choose_precision("auto", "cpu").name == "fp32"
    with pytest.raises(ConfigError, match="AVX512-BF16, AMX"):
        choose_precision("bf16", "cpu")


def test_what_is_compiled_is_benchmarked_in_fp32_beside_bf16(bf16, monkeypatch):
    def measured(self, precision, attention, compile):
        facts = {"backend": attention, "kernels": "compiled" if compile else "plain", "tokens_per_second": 1.0}
        return 1.0, self._reference, facts

    monkeypatch.setattr(Benchmark, "_measure_encoder", measured)
    plan = Plan(ARCHITECTURES["esm2"], "8M", lengths=(5, 8), attentions=("sdpa",), compile=True, seconds=0.01)
    benchmark = Benchmark(plan, "cpu")
    benchmark.measure()
    rows = {row["way"]: row["precision"] for row in benchmark.rows if row["way"].startswith("this")}
    assert rows == {"this (sdpa, plain)": "bf16", "this (sdpa, compiled)": "fp32"}
    never = Benchmark(replace(plan, precisions=("fp32", "bf16")), "cpu")
    with pytest.raises(ConfigError, match="isn't compiled on a CPU"):
        never.measure()
    assert never.rows == [], "it is said before anything is measured"


def test_features_are_neighbours_only_while_it_computes():
    model, text = random_esm2(), proteins([30] * 4)
    before = model.layers[0].qkv.weight.clone()
    embedder = Embedder(model, list("abcd"), text, tokens_per_batch=32)
    vectors = embedder.vectors()
    next(vectors)
    assert not torch.equal(model.layers[0].qkv.weight, before)
    vectors.close()
    assert torch.equal(model.layers[0].qkv.weight, before)


def test_an_error_on_a_core_is_the_jobs(three_threads, monkeypatch):
    model = random_esm2()
    monkeypatch.setattr(model, "pool", lambda hidden, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(model, list("abcd"), proteins([30] * 4), tokens_per_batch=32)
    assert torch.get_num_threads() == 3


def test_workers_compute_with_one_thread_each(three_threads):
    with cores() as pool:
        assert pool is not None
        assert list(pool.map(lambda _: torch.get_num_threads(), range(9))) == [1] * 9
    assert torch.get_num_threads() == 3


def test_other_libraries_than_glibc_have_nothing_to_set(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
