import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import (
    PARITY,
    fair_esm,
    fair_esm_checkpoint,
    forward,
    hugging_face_esm,
    proteins,
    random_esm2,
    relative,
    split,
)
from virnucpro.encoders.attention import Sdpa
from virnucpro.encoders.embed import embed
from virnucpro.encoders.esm2 import ALPHABET, ESM2, POOLED_RESIDUES, ESM2Config, tokenize
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.ops import CompiledOps, gelu_in_product, linear_gelu, rotary_tables, rotate
from virnucpro.encoders.packing import PackedBatch
from virnucpro.encoders.prepare import prepare_encoder
from virnucpro.errors import InputError

LENGTHS = [1, 2, 3, 17, 64, 166, 166, 166, 300, 1021, 1022, 1024, 1025, 1100, 166, 17]
SIZES = {16: (2, 32, 2), 24: (2, 48, 2), 32: (2, 64, 2), 64: (2, 64, 1), 128: (2, 256, 2)}


@pytest.mark.parametrize("head_dim", SIZES)
def test_same_as_fair_esm(head_dim, tmp_path):
    reference = fair_esm(*SIZES[head_dim])
    prepare_encoder(fair_esm_checkpoint(reference, tmp_path / "m.pt"), "esm2", tmp_path / "m.safetensors")
    sequences = proteins(LENGTHS)
    hidden, pooled, lengths = forward(load_encoder(tmp_path / "m.safetensors"), sequences)
    convert = reference.alphabet.get_batch_converter()
    for sequence, ours, vector in zip(sequences, split(hidden, lengths), pooled, strict=True):
        _, _, tokens = convert([("", sequence.decode())])
        with torch.inference_mode():
            expected = reference(tokens, repr_layers=[2])["representations"][2][0]
        assert relative(ours, expected) < 1e-5
        assert relative(vector, expected[1:-1][:1024].mean(0)) < 1e-5


@pytest.mark.parametrize("head_dim", [16, 24])
def test_same_as_transformers(head_dim, tmp_path):
    reference = hugging_face_esm(*SIZES[head_dim])
    reference.save_pretrained(tmp_path / "hf")
    prepare_encoder(tmp_path / "hf", "esm2", tmp_path / "m.safetensors")
    sequences = proteins([1, 2, 50, 50, 700, 1100, 3])
    hidden, _, lengths = forward(load_encoder(tmp_path / "m.safetensors"), sequences)
    tokens, _ = tokenize(sequences)
    for ours, one in zip(split(hidden, lengths), split(torch.from_numpy(tokens).long(), lengths), strict=True):
        with torch.inference_mode():
            expected = reference(input_ids=one[None], attention_mask=torch.ones(1, len(one))).last_hidden_state[0]
        assert relative(ours, expected) < 1e-5


def test_no_sequence_holds_a_mask():
    """For which token dropout would scale the other tokens by another factor than 0.88."""
    assert "<mask>" in ALPHABET and ALPHABET.index("<mask>") not in tokenize.table
    for dropout in (True, False):
        model = ESM2(ESM2Config(1, 32, 2, 64, dropout))
        weight = model.embed_tokens.weight
        assert torch.equal(model.embed(torch.tensor([4, 5])), weight[4:6] * (0.88 if dropout else 1))


def test_parity_with_the_original(tmp_path):
    path = PARITY / "esm2_t36_tiny" / "esm2_t36_tiny_UR50D.pt"
    prepare_encoder(path, "esm2", tmp_path / "m.safetensors")
    lines = (PARITY / "expected" / "input_identified_protein.faa").read_text().split(">")[1:]
    ids, sequences = zip(*((r.splitlines()[0], "".join(r.splitlines()[1:]).encode()) for r in lines), strict=True)
    expected = np.load(PARITY / "expected" / "merged.npz")
    assert list(ids) == expected["ids"].tolist()
    found = embed(load_encoder(tmp_path / "m.safetensors"), ids, sequences)
    assert np.abs(found.vectors - expected["embeddings"][:, 96:]).max() < 1e-5


def test_a_vector_does_not_depend_on_its_pack():
    model = random_esm2()
    sequences = proteins([1, 40, 40, 41, 200, 7])
    _, together, _ = forward(model, sequences)
    _, reversed_order, _ = forward(model, sequences[::-1])
    for index, sequence in enumerate(sequences):
        alone = forward(model, [sequence])[1][0]
        assert relative(together[index], alone) < 1e-5
        assert relative(reversed_order[-1 - index], alone) < 1e-5


def test_pooling_leaves_out_specials_and_the_residues_after_1024():
    model = random_esm2()
    pack = PackedBatch.build(np.array([3, 7, POOLED_RESIDUES + 100]))
    hidden = torch.randn(pack.total, 32)
    expected = [part[1:-1][:POOLED_RESIDUES].mean(0) for part in split(hidden, pack.lengths)]
    assert torch.allclose(model.pool(hidden, pack), torch.stack(expected), atol=1e-6)
    assert model.pool(hidden.half(), pack).dtype == torch.float32


def test_rotary_tables_stay_fp32_in_a_half_model():
    model = random_esm2().half()
    assert not dict(model.named_buffers())
    cos, sin = rotary_tables(torch.arange(2000), 16)
    exact = torch.arange(2000).double()[:, None] / 10000 ** (torch.arange(0, 16, 2).double() / 16)
    assert cos.dtype == torch.float32 and (cos - exact.cos()).abs().max() < 2e-4
    assert rotate(torch.randn(2000, 2, 16).half(), cos, sin).dtype == torch.float16


def test_a_half_model_is_close():
    sequences = proteins([5, 166, 300])
    exact = forward(random_esm2(), sequences)[1]
    assert relative(forward(random_esm2().half(), sequences)[1], exact) < 5e-3


class RotatingBackend(Sdpa):
    """Stands for kernels that rotate inside the attention."""

    def prepare(self, batch, slopes=None, rotary=None):
        attend, rotary = super().prepare(batch), [table[batch.positions] for table in rotary]
        return lambda q, k, v: attend(rotate(q, *rotary), rotate(k, *rotary), v)


def test_a_backend_may_rotate_itself():
    sequences = proteins([5, 30, 30])
    assert (
        relative(forward(random_esm2(), sequences, RotatingBackend())[0], forward(random_esm2(), sequences)[0]) < 1e-6
    )


def test_training_reaches_every_parameter():
    model = ESM2(ESM2Config(2, 32, 2, 64)).train()
    tokens, lengths = tokenize(proteins([9, 9, 4]))
    pack = PackedBatch.build(lengths, tokens=tokens)
    model.pool(model(pack.tokens, pack), pack).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_tokens_are_fair_esms():
    alphabet = fair_esm(1, 32, 2).alphabet
    assert alphabet.all_toks == ALPHABET
    sequence = "ACDEFGHIKLMNPQRSTVWYXBUZO.-"
    tokens, lengths = tokenize([sequence.encode(), b"M"])
    assert tokens.tolist() == [*alphabet.get_batch_converter()([("", sequence)])[2][0].tolist(), 0, 20, 2]
    assert lengths.tolist() == [29, 3]


@pytest.mark.parametrize("bad", [b"MKJ", b"MK*", b"MKv", b"MK\0", b"MK\0\0A", b"MK A", b"M<K"])
def test_letters_without_a_token_are_refused_by_name(bad):
    with pytest.raises(InputError, match=r"protein second has .* at residue"):
        tokenize([b"MKV", bad], ["first", "second"])


def test_an_empty_protein_is_refused_by_name():
    with pytest.raises(InputError, match="protein second is empty"):
        tokenize([b"MKV", b""], ["first", "second"])


def test_compiled_blocks_are_equivalent():
    model = random_esm2()
    packs = [proteins([5, 5, 9]), proteins([30, 8]), proteins([4])]
    eager = [forward(model, sequences)[1] for sequences in packs]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.ops = CompiledOps()
    for sequences, expected in zip(packs, eager, strict=True):
        assert relative(forward(model, sequences)[1], expected) < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # for all layers and all packs


def test_gelu_at_the_end_of_a_product():
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(24, 40), torch.randn(9, 24)
    assert torch.allclose(linear_gelu(x, linear), torch.nn.functional.gelu(linear(x)), atol=1e-3), "by tanh on a GPU"
    assert not gelu_in_product(linear.weight) and not gelu_in_product(linear.weight.half()), "a CPU keeps erf"
