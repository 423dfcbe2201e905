"""ESM C against transformers' own module, with random weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmcConfig, EsmcForMaskedLM, EsmcModel, EsmcTokenizer

from tests.unit.encoder_fixtures import forward, proteins, randomised, relative, split
from virnucpro.encoders.embed import embed
from virnucpro.encoders.esmc import ALPHABET, ESMC, ESMCConfig, tokenize
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.ops import CompiledOps
from virnucpro.encoders.original import embed_original
from virnucpro.encoders.packing import PackedBatch
from virnucpro.encoders.prepare import prepare_encoder
from virnucpro.encoders.spec import verify_encoder
from virnucpro.errors import InputError, ModelError
from virnucpro.models.registry import ESMC as ENTRY
from virnucpro.models.sources import find

LENGTHS = [1, 2, 3, 17, 64, 166, 166, 166, 300, 1021, 1022, 1024, 1025, 1100, 166, 17]


def reference(kind=EsmcModel, layers=3, width=48, heads=3):
    torch.manual_seed(width)
    config = EsmcConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=96)
    model = randomised(kind(config).eval())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)  # attention that isn't uniform
    return model


@pytest.fixture
def folder(tmp_path):
    reference().save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize(("width", "heads"), [(32, 2), (48, 2), (64, 1), (256, 2)])
def test_same_as_transformers(width, heads, tmp_path):
    model = reference(width=width, heads=heads)
    model.save_pretrained(tmp_path / "hf")
    spec = prepare_encoder(tmp_path / "hf", "esmc", tmp_path / "m.safetensors")
    assert verify_encoder(tmp_path / "m.safetensors") == spec and spec.pooling == "mean of all residues"
    sequences = proteins(LENGTHS)
    ours = load_encoder(tmp_path / "m.safetensors")
    hidden, pooled, lengths = forward(ours, sequences)
    original = embed_original(ours, [str(i) for i in range(len(sequences))], sequences).vectors
    tokens = split(torch.from_numpy(tokenize(sequences)[0]).long(), lengths)
    for one, found, vector, padded in zip(tokens, split(hidden, lengths), pooled, original, strict=True):
        with torch.inference_mode():
            expected = model(input_ids=one[None]).last_hidden_state[0]
        assert relative(found, expected) < 1e-5
        assert relative(vector, expected[1:-1].mean(0)) < 1e-5
        assert relative(torch.from_numpy(padded), expected[1:-1].mean(0)) < 1e-5


def test_published_shapes_are_transformers():
    """The residual's scale follows the depth, and the hidden layer the width: 8/3 of it in multiples of 256."""
    default = EsmcConfig()
    assert ENTRY.shapes["ESMC-6B"] == (
        default.num_hidden_layers, default.hidden_size, default.num_attention_heads, default.intermediate_size,
    )  # fmt: skip
    for layers, width, heads, ffn in ENTRY.shapes.values():
        assert width // heads == 64 and ffn == -(-width * 8 // 3 // 256) * 256 and layers % 2 == 0


def test_a_model_with_a_head_gives_the_same_file(folder, tmp_path):
    plain = prepare_encoder(folder, "esmc", tmp_path / "a")
    state = {f"esmc.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    head = {k: v.contiguous() for k, v in reference(EsmcForMaskedLM).state_dict().items() if k.startswith("lm_head")}
    save_file(state | head, folder / "model.safetensors")
    assert prepare_encoder(folder, "esmc", tmp_path / "b").weights_sha256 == plain.weights_sha256


def test_tokens_are_transformers():
    text = "ACDEFGHIKLMNPQRSTVWYXBUZO.-"
    assert tokenize([text.encode()])[0].tolist() == EsmcTokenizer()(text)["input_ids"]
    assert EsmcTokenizer().convert_ids_to_tokens(list(range(33))) == ALPHABET
    for bad in (b"MK|V", b"MKJ", b"mk"):
        with pytest.raises(InputError, match=r"protein p has .* which ESM C has no token for"):
            tokenize([bad], ["p"])


def test_a_vector_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model = randomised(ESMC(ESMCConfig(3, 48, 3, 96)).eval())
    sequences = proteins([1, 40, 40, 41, 200, 7])
    together = forward(model, sequences)[1]
    for index, sequence in enumerate(sequences):
        assert relative(together[index], forward(model, [sequence])[1][0]) < 1e-5
    found = embed(model, list("abcdef"), sequences, tokens_per_batch=90).vectors
    assert relative(torch.from_numpy(found), together) < 1e-5


def test_training_reaches_every_parameter():
    model = ESMC(ESMCConfig(2, 32, 2, 64)).train()
    tokens, lengths = tokenize(proteins([9, 9, 4]))
    batch = PackedBatch.build(lengths, tokens=tokens)
    (model(batch.tokens, batch) * torch.randn(batch.total, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_compiled_blocks_are_equivalent():
    torch.manual_seed(0)
    model = randomised(ESMC(ESMCConfig(2, 32, 2, 64)).eval())
    packs = [proteins([5, 5, 9]), proteins([30, 8]), proteins([4])]
    eager = [forward(model, sequences)[1] for sequences in packs]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.ops = CompiledOps()
    for sequences, expected in zip(packs, eager, strict=True):
        assert relative(forward(model, sequences)[1], expected) < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, "rope_theta is 500.0"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but this encoder needs 'silu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"head_dim": 8}, "head_dim is 8"),
        ({"num_hidden_layers": 2}, "has 3 layers but its configuration says 2"),
        ({"model_type": "esm"}, "model_type is 'esm', but this encoder needs 'esmc'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, changes, match, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelError, match=match):
        prepare_encoder(folder, "esmc", tmp_path / "out")


def test_names_and_folders_tell_that_it_is_esm_c(folder, tmp_path):
    for name in ("ESMC-300M", "biohub/ESMC-300M", "someone/ESMC-600M", str(folder)):
        assert find("protein", name, tmp_path).architecture is ENTRY
    (tmp_path / "x.pth").write_bytes(np.zeros(3).tobytes())
    with pytest.raises(ModelError, match="ESM C is read from a Hugging Face folder"):
        prepare_encoder(tmp_path / "x.pth", "esmc", tmp_path / "out")
