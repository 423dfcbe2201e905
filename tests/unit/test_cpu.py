"""Encoders on a CPU: operations in place, a batch on each core."""

import ctypes

import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import bpe_json, dna, proteins, random_dnabert, random_esm2, random_esmc
from virnucpro.encoders.cpu import cores, keep_freed_memory
from virnucpro.encoders.embed import embed
from virnucpro.encoders.embedder import Embedder
from virnucpro.encoders.original import embed_original

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
