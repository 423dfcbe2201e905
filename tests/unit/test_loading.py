import json
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.unit.encoder_fixtures import bpe_json, dna, forward, proteins, random_dnabert, random_esm2, relative
from virnucpro.encoders import embedder as embedding
from virnucpro.encoders import tokenizing
from virnucpro.encoders.attention import BACKENDS
from virnucpro.encoders.embed import embed
from virnucpro.encoders.embedder import resolve_max_tokens
from virnucpro.encoders.loading import load_encoder, write_encoder
from virnucpro.encoders.ops import Kernels
from virnucpro.encoders.precision import CPU_PRECISIONS, PRECISIONS, choose_precision
from virnucpro.encoders.spec import read_spec, verify_encoder
from virnucpro.errors import ConfigError, InputError, ModelError
from virnucpro.models.registry import DNABERT_S, ESM2


@pytest.fixture
def esm2(tmp_path):
    write_encoder(random_esm2(), tmp_path / "esm2.safetensors", name="tiny")
    return tmp_path / "esm2.safetensors"


@pytest.mark.parametrize("make", [random_esm2, lambda: random_dnabert(tokenizer=bpe_json())], ids=["esm2", "dnabert"])
def test_an_encoder_comes_back_as_it_went(make, tmp_path):
    model = make()
    written = write_encoder(model, tmp_path / "a", name="tiny", source={"name": "x.pt", "files": {"x.pt": "0"}})
    assert read_spec(tmp_path / "a") == written == verify_encoder(tmp_path / "a")
    assert (written.architecture, written.width, written.name) == (model.architecture, model.config.width, "tiny")
    again = load_encoder(tmp_path / "a")
    sequences = dna([50, 20, 7])  # the bases are residues too
    assert torch.equal(forward(again, sequences)[1], forward(model, sequences)[1])
    assert again.config == model.config and again.tokenizer_json == model.tokenizer_json


def test_the_same_content_gives_the_same_bytes_and_digest(tmp_path):
    first = write_encoder(random_esm2(), tmp_path / "a", name="tiny")
    assert write_encoder(random_esm2(), tmp_path / "b", name="tiny") == first
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert write_encoder(random_esm2(), tmp_path / "c", name="other").weights_sha256 == first.weights_sha256


def test_the_digest_covers_weights_dtype_configuration_and_tokenizer(tmp_path):
    def digest(model):
        return write_encoder(model, tmp_path / "a", name="tiny").weights_sha256

    changed = random_esm2()
    with torch.no_grad():
        changed.final_norm.bias[3] += 1
    other_heads = random_esm2()
    object.__setattr__(other_heads.config, "heads", 4)
    models = [random_esm2(), changed, random_esm2().half(), other_heads]
    models += [random_dnabert(tokenizer=bpe_json()), random_dnabert(tokenizer=bpe_json(200))]
    assert len({digest(model) for model in models}) == len(models)


def test_fp16_storage_computes_in_fp32(tmp_path):
    write_encoder(random_esm2().half(), tmp_path / "a", name="tiny")
    with safe_open(tmp_path / "a", framework="pt") as handle:
        assert {handle.get_tensor(key).dtype for key in handle.keys()} == {torch.float16}  # noqa: SIM118
    sequences = proteins([30, 5])
    found = forward(load_encoder(tmp_path / "a", dtype=torch.float32), sequences)[1]
    assert torch.equal(found, forward(random_esm2().half().float(), sequences)[1])


def test_reading_the_specification_needs_no_torch(esm2):
    code = (
        "import sys; from virnucpro.encoders.spec import read_spec, verify_encoder;"
        "from virnucpro.encoders import packing, precision, embed; precision.choose_precision('fp32', 'cpu');"
        f"print(verify_encoder({str(esm2)!r}).width, embed.EMBEDDING_VERSION, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["32", "1", "False"]


def test_a_changed_byte_is_found(esm2):
    content = bytearray(esm2.read_bytes())
    content[-5] ^= 1
    esm2.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        verify_encoder(esm2)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 200, b"\x10" + b"\0" * 7 + b"not a json head.", None])
def test_other_files_are_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(ModelError, match=r"can't be read|does not exist"):
        read_spec(tmp_path / "a")


def test_a_truncated_file_is_refused(esm2):
    esm2.write_bytes(esm2.read_bytes()[:-1])
    with pytest.raises(ModelError, match="can't be read"):
        read_spec(esm2)


def test_files_of_others_and_of_other_versions_are_refused(esm2, tmp_path):
    def rewrite(**changes):
        with safe_open(esm2, framework="pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            entry = {**json.loads(handle.metadata()["virnucpro"]), **changes}
        save_file(tensors, tmp_path / "b", metadata={"virnucpro": json.dumps(entry)})
        return tmp_path / "b"

    with pytest.raises(ModelError, match="another version"):
        read_spec(rewrite(format=0))
    with pytest.raises(ModelError, match="holds the architecture classifier"):
        read_spec(rewrite(family="classifier"))
    with pytest.raises(ModelError, match=r"disagree, first at layers.2\S*: shape missing"):
        load_encoder(rewrite(config={"layers": 3, "width": 32, "heads": 2, "ffn": 128}))
    with pytest.raises(ModelError, match="unusable configuration"):
        load_encoder(rewrite(config={"layers": 2, "width": 32}))
    save_file({"x": torch.zeros(1)}, tmp_path / "c")
    with pytest.raises(ModelError, match="not a VirNucPro encoder file"):
        read_spec(tmp_path / "c")


# --- embed: the loop around an encoder ---


def test_embedding_keeps_the_order_of_the_input(monkeypatch):
    monkeypatch.setattr(tokenizing, "SLICE_SIZE", 4)
    model = random_esm2()
    sequences = proteins([9, 40, 3, 40, 200, 3, 40, 1, 77, 9])
    ids = [f"p{i}" for i in range(len(sequences))]
    found = embed(model, ids, sequences, tokens_per_batch=90)
    for vector, sequence in zip(found.vectors, sequences, strict=True):
        assert relative(torch.from_numpy(vector), forward(model, [sequence])[1][0]) < 1e-5
    statistics = found.statistics
    assert statistics["tokens"] == sum(map(len, sequences)) + 2 * len(sequences)
    assert (statistics["backend"], statistics["precision"], statistics["redone_batches"]) == ("sdpa", "fp32", 0)
    assert statistics["fill"] > 0 and statistics["packs"] > 3


def test_nothing_to_embed():
    found = embed(random_esm2(), [], [])
    assert found.vectors.shape == (0, 32) and found.vectors.dtype == np.float32


def test_an_unreadable_sequence_is_named():
    with pytest.raises(InputError, match="protein b has"):
        embed(random_esm2(), ["a", "b"], [b"MKV", b"MK1"])


@pytest.mark.parametrize("name", ["fp16", "bf16", "tf32", "int8"])
def test_half_precision_on_a_cpu_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} needs a GPU.*use 'fp32' or 'auto'"):
        embed(random_esm2(), ["a"], [b"MKV"], precision=name)


def test_precision_and_budget_by_device():
    assert choose_precision("auto", "cpu").name == "fp32" and choose_precision("auto", "cuda:1").name == "fp16"
    assert choose_precision("tf32", torch.device("cuda")).tf32
    half = CPU_PRECISIONS["bf16"]
    assert resolve_max_tokens("auto", "cuda:0", PRECISIONS["bf16"]) is None
    assert [resolve_max_tokens("auto", "cpu", each) for each in (PRECISIONS["fp32"], half)] == [1024, 2048]
    assert choose_precision("int8", "cuda", DNABERT_S).name == "fp16"
    assert choose_precision("int8", "cuda", ESM2).name == "int8"
    with pytest.raises(ConfigError, match="not one of"):
        choose_precision("half", "cpu")
    with pytest.raises(ConfigError, match="positive integer"):
        resolve_max_tokens(0, "cpu", half)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name not in ("auto", "sdpa")])
def test_attention_that_is_not_available_is_refused(name):
    with pytest.raises(ConfigError, match=f"'{name}' is not available.*use 'auto' or 'sdpa'"):
        random_dnabert().backend(name)
    with pytest.raises(ConfigError, match="not one of"):
        random_esm2().backend("eager")


@pytest.mark.parametrize("make", [random_esm2, random_dnabert])
def test_kernels_follow_the_precision_and_leave_the_weights_alone(make):
    """As batches are redone: half precision, fp32, half precision again."""
    pytest.importorskip("triton")
    model = make().requires_grad_(False)
    weights = set(model.state_dict())
    for half in (True, False, True, False):
        (model.half() if half else model.float()).ops = Kernels()
        total = None
        for layer in model.layers:
            total = model.ops.running_bias(total, layer.out)
        assert set(model.state_dict()) == weights and not isinstance(total, torch.nn.Parameter)
        assert total.dtype == torch.float32 and model.ops.running_bias(total, layer.out) is total
        assert torch.allclose(total, sum(layer.out.bias.float() for layer in model.layers))


def overflowing():
    """Half precision overflows in the last MLP; fp32 doesn't."""
    model = random_esm2()
    with torch.no_grad():
        model.layers[-1].fc1.bias[0] = 60000
        model.layers[-1].fc2.weight[:, 0] = 2
    return model


def test_an_overflow_is_computed_again_in_fp32(monkeypatch):
    monkeypatch.setattr(embedding, "choose_precision", lambda name, device, architecture, compile: PRECISIONS[name])
    sequences = proteins([30, 30, 12])
    expected = forward(overflowing().half().float(), sequences)[1]
    model = overflowing()
    found = embed(model, ["a", "b", "c"], sequences, precision="fp16", tokens_per_batch=64)
    assert found.statistics["redone_batches"] == 2
    assert relative(torch.from_numpy(found.vectors), expected) < 1e-5
    assert next(model.parameters()).dtype == torch.float16


def test_values_that_stay_infinite_fail_by_name():
    model = random_esm2()
    with torch.no_grad():
        model.embed_tokens.weight[20] = torch.inf  # M
    with pytest.raises(ModelError, match=r"not finite for 2 sequences \(b, c\), in fp32 too;"):
        embed(model, ["a", "b", "c"], [b"KV", b"MK", b"KM"])


def test_out_of_memory_halves_the_budget(monkeypatch):
    model = random_esm2()
    sequences = proteins([40] * 8 + [10] * 3)
    ids = [str(i) for i in range(len(sequences))]
    expected = embed(model, ids, sequences).vectors
    forward_batch = model.forward

    def limited(tokens, batch, backend=None):
        if batch.total > limit:
            raise torch.OutOfMemoryError("too large")
        return forward_batch(tokens, batch, backend)

    monkeypatch.setattr(model, "forward", limited)
    monkeypatch.setattr(embedding, "cores", nullcontext)  # a GPU's error, so batch by batch as on a GPU
    limit = 100
    found = embed(model, ids, sequences, tokens_per_batch=320)
    assert np.allclose(found.vectors, expected, atol=1e-5)
    assert found.statistics["tokens_per_batch"] <= 100
    limit = 20
    with pytest.raises(ConfigError, match=r"sequence 0 \(42 tokens\) doesn't fit in the memory of cpu"):
        embed(model, ids, sequences)
