import math
import shutil

import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import (
    PARITY,
    bpe_json,
    dna,
    dnabert_tokenizer,
    forward,
    random_dnabert,
    relative,
    split,
)
from virnucpro.encoders import attention
from virnucpro.encoders.attention import alibi_slopes
from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.embed import embed
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.ops import CompiledOps
from virnucpro.encoders.packing import PackedBatch
from virnucpro.encoders.prepare import prepare_encoder


def plain(model: DNABERT, tokens: torch.Tensor) -> torch.Tensor:
    """The architecture written out for one sequence (L,), in fp64: the reference of these tests."""
    w = {key: value.double() for key, value in model.state_dict().items()}
    heads, slopes = model.config.heads, alibi_slopes(model.config.heads)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    x = norm(w["embed_tokens.weight"][tokens.long()] + w["token_type"], "embed_norm")
    at = torch.arange(len(tokens))
    distance = (at[:, None] - at).abs()
    for layer in range(model.config.layers):
        name = f"layers.{layer}."
        q, k, v = (x @ w[name + "qkv.weight"].T + w[name + "qkv.bias"]).chunk(3, dim=-1)
        size = q.shape[1] // heads
        attended = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size) - slopes[h] * distance
            attended.append(scores.softmax(-1) @ v[:, part])
        x = norm(x + torch.cat(attended, -1) @ w[name + "out.weight"].T + w[name + "out.bias"], name + "attention_norm")
        gate, value = (x @ w[name + "gated.weight"].T).chunk(2, dim=-1)
        x = norm(x + (gelu(gate) * value) @ w[name + "down.weight"].T + w[name + "down.bias"], name + "ffn_norm")
    return x


def run(model: DNABERT, lengths: list[int]):
    tokens = torch.randint(5, 256, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    pack = PackedBatch.build(np.array(lengths))
    with torch.inference_mode():
        hidden = model(tokens, pack)
        return tokens, hidden, model.pool(hidden, pack)


@pytest.mark.parametrize("heads", [1, 3, 4])
def test_same_as_the_plain_reference(heads):
    model = random_dnabert(width=48, heads=heads)
    lengths = [3, 100, 100, 4, 300, 100, 17]
    tokens, hidden, pooled = run(model, lengths)
    for one, ours, vector in zip(split(tokens, lengths), split(hidden, lengths), pooled, strict=True):
        expected = plain(model, one)
        assert relative(ours, expected) < 1e-5
        assert relative(vector, expected.mean(0)) < 1e-5


def test_long_sequences_in_blocks_of_queries(monkeypatch):
    model = random_dnabert()
    whole = run(model, [200, 200, 333])[1]
    monkeypatch.setattr(attention, "MAX_BIAS_SIZE", 3 * 333 * 50)  # blocks of 50 rows for 333, of 83 for 200
    assert relative(run(model, [200, 200, 333])[1], whole) < 1e-5


def test_slopes_are_those_of_the_paper():
    powers = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    assert alibi_slopes(8) == powers
    assert alibi_slopes(12) == pytest.approx([*powers, 0.70711, 0.35355, 0.17678, 0.08839], abs=1e-5)


def test_parity_with_the_original(tmp_path):
    folder = tmp_path / "dnabert_tiny"
    shutil.copytree(PARITY / "dnabert_tiny", folder)
    (folder / "tokenizer.json").write_text(dnabert_tokenizer())
    prepare_encoder(folder, "dnabert_s", tmp_path / "m.safetensors")
    lines = (PARITY / "expected" / "input_identified_nucleotide.fa").read_text().split(">")[1:]
    ids, sequences = zip(*((r.splitlines()[0], "".join(r.splitlines()[1:]).encode()) for r in lines), strict=True)
    expected = np.load(PARITY / "expected" / "merged.npz")
    found = embed(load_encoder(tmp_path / "m.safetensors"), ids, sequences)
    assert np.abs(found.vectors - expected["embeddings"][:, :96]).max() < 1e-5


def test_a_vector_does_not_depend_on_its_pack():
    model = random_dnabert(tokenizer=bpe_json())
    sequences = dna([5, 500, 500, 120, 61])
    together = forward(model, sequences)[1]
    for index, sequence in enumerate(sequences):
        assert relative(together[index], forward(model, [sequence])[1][0]) < 1e-5


def test_training_reaches_every_parameter():
    model = DNABERT(DNABERTConfig(2, 48, 3, 64, 256)).train()
    pack = PackedBatch.build(np.array([4, 4, 9]))
    tokens = torch.randint(5, 256, (17,))
    (model(tokens, pack) * torch.randn(17, 48)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_half_model_is_close():
    exact = run(random_dnabert(), [5, 100, 300])[2]
    assert relative(run(random_dnabert().half(), [5, 100, 300])[2], exact) < 5e-3


def test_compiled_blocks_are_equivalent():
    model = random_dnabert()
    sizes = [[5, 5, 9], [30, 8], [4]]
    eager = [run(model, lengths)[1] for lengths in sizes]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.ops = CompiledOps()
    for lengths, expected in zip(sizes, eager, strict=True):
        assert relative(run(model, lengths)[1], expected) < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
