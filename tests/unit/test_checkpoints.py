import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.encoder_fixtures import (
    bpe_json,
    dna,
    dnabert_folder,
    fair_esm,
    fair_esm_checkpoint,
    forward,
    hugging_face_esm,
    proteins,
    random_dnabert,
    relative,
)
from virnucpro.encoders.loading import load_encoder, write_encoder
from virnucpro.encoders.prepare import prepare_encoder
from virnucpro.encoders.spec import read_spec, verify_encoder
from virnucpro.errors import ModelError
from virnucpro.io import sha256_file


def prepared(source: Path, architecture: str, output: Path):
    spec = prepare_encoder(source, architecture, output)
    assert verify_encoder(output) == spec
    return spec, load_encoder(output)


@pytest.fixture
def pt(tmp_path) -> Path:
    return fair_esm_checkpoint(fair_esm(2, 32, 2), tmp_path / "esm2_t2_tiny.pt")


@pytest.fixture
def hf(tmp_path) -> Path:
    hugging_face_esm(2, 32, 2).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def dnabert(tmp_path) -> Path:
    return dnabert_folder(random_dnabert(), tmp_path / "dnabert", bpe_json())


def test_a_fair_esm_checkpoint(pt, tmp_path):
    spec, _ = prepared(pt, "esm2", tmp_path / "out" / "m.safetensors")
    assert spec.config == {"layers": 2, "width": 32, "heads": 2, "ffn": 128, "token_dropout": True}
    assert (spec.name, spec.source["files"]) == ("esm2_t2_tiny", {"esm2_t2_tiny.pt": sha256_file(pt)})


def read_pt(path):
    """A fair-esm checkpoint's content, by the same rule as the library: no pickle is trusted."""
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, weights_only=True)


def test_formats_of_one_model_give_one_digest(pt, tmp_path):
    digest = prepare_encoder(pt, "esm2", tmp_path / "a").weights_sha256
    content = read_pt(pt)
    state = {key.replace("sentence_encoder.", ""): value for key, value in content["model"].items()}
    torch.save({"cfg": content["cfg"], "model": state}, tmp_path / "other.pt")
    assert prepare_encoder(tmp_path / "other.pt", "esm2", tmp_path / "b").weights_sha256 == digest


def old_names(state: dict) -> dict:
    """What the published folders hold: LayerNorm weight and bias, a buffer in each layer, a head, a prefix."""
    state = {"esm." + k.replace(".gamma", ".weight").replace(".beta", ".bias"): v for k, v in state.items()}
    state = {key: value for key, value in state.items() if "inv_freq" not in key}
    state["esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"] = torch.zeros(8)
    state["esm.embeddings.position_ids"] = torch.zeros(1, 8)
    state["lm_head.bias"] = torch.zeros(33)
    return state


def test_all_layouts_of_a_hugging_face_folder(hf, tmp_path):
    sequences = proteins([3, 50])
    spec, model = prepared(hf, "esm2", tmp_path / "a")
    expected = forward(model, sequences)[1]
    state = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    digests = {spec.weights_sha256}

    def again(output):
        spec, model = prepared(hf, "esm2", tmp_path / output)
        assert torch.equal(forward(model, sequences)[1], expected)
        digests.add(spec.weights_sha256)

    torch.save(old_names(state), hf / "pytorch_model.bin")
    again("bin")
    keys = sorted(old_names(state))
    parts = {"model-1.safetensors": keys[:9], "model-2.safetensors": keys[9:]}
    for name, part in parts.items():
        save_file({key: old_names(state)[key] for key in part}, hf / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    again("sharded")
    assert len(digests) == 1
    (hf / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-2.safetensors is missing"):
        prepare_encoder(hf, "esm2", tmp_path / "c")


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_dnabert_folder(prefix, tmp_path):
    model, text = random_dnabert(), bpe_json()
    spec, ours = prepared(dnabert_folder(model, tmp_path / "d", text, prefix), "dnabert_s", tmp_path / "m")
    assert spec.tokenizer == text and set(spec.source["files"]) == {
        "pytorch_model.bin",
        "config.json",
        "tokenizer.json",
    }
    sequences = dna([50, 20])
    assert torch.equal(forward(ours, sequences)[1], forward(random_dnabert(tokenizer=text), sequences)[1])


def test_dtypes(pt, tmp_path):
    assert next(prepared(pt, "esm2", tmp_path / "a")[1].parameters()).dtype == torch.float32
    stored = read_pt(pt)
    stored["model"] = {key: value.half() for key, value in stored["model"].items()}
    torch.save(stored, pt)
    assert next(prepared(pt, "esm2", tmp_path / "b")[1].parameters()).dtype == torch.float16
    stored["model"]["encoder.sentence_encoder.layers.1.fc1.weight"] = torch.full((128, 32), torch.inf)
    torch.save(stored, pt)
    refuse(pt, "esm2", "layers.1.fc1.weight holds values that are not finite", tmp_path)


def test_fp32_weights_that_half_precision_holds_exactly_are_kept_in_it(pt, tmp_path):
    """As fair-esm's fp16 file and Hugging Face's fp32 one of the same model."""
    content = read_pt(pt)
    content["model"] = {key: value.half() for key, value in content["model"].items()}
    torch.save(content, pt)
    digest = prepare_encoder(pt, "esm2", tmp_path / "half").weights_sha256
    content["model"] = {key: value.float() for key, value in content["model"].items()}
    torch.save(content, pt)
    assert prepare_encoder(pt, "esm2", tmp_path / "same").weights_sha256 == digest
    assert (tmp_path / "same").stat().st_size == (tmp_path / "half").stat().st_size
    content["model"]["encoder.sentence_encoder.emb_layer_norm_after.bias"][0] = 1 + 2**-20
    torch.save(content, pt)
    assert next(prepared(pt, "esm2", tmp_path / "other")[1].parameters()).dtype == torch.float32


def test_two_jobs_that_prepare_at_once_do_not_clash(pt, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)

    def prepare():
        barrier.wait()
        prepare_encoder(pt, "esm2", tmp_path / "out" / "model.safetensors")

    jobs = [context.Process(target=prepare) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 4
    assert verify_encoder(tmp_path / "out" / "model.safetensors").name == "esm2_t2_tiny"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_prepared_file_is_taken_as_it_is(dnabert, tmp_path):
    spec = prepare_encoder(dnabert, "dnabert_s", tmp_path / "a")
    assert prepare_encoder(tmp_path / "a", "dnabert_s", tmp_path / "b") == spec
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert prepare_encoder(tmp_path / "b", "dnabert_s", tmp_path / "b") == spec
    with pytest.raises(ModelError, match="holds a dnabert_s encoder where esm2"):
        prepare_encoder(tmp_path / "a", "esm2", tmp_path / "d")
    content = bytearray((tmp_path / "a").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        prepare_encoder(tmp_path / "a", "dnabert_s", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_prepared_file_needs_no_torch(dnabert, tmp_path):
    spec = prepare_encoder(dnabert, "dnabert_s", tmp_path / "a")
    code = (
        "import sys; from pathlib import Path; from virnucpro.encoders.prepare import prepare_encoder;"
        "spec = prepare_encoder(Path(sys.argv[1]), 'dnabert_s', Path(sys.argv[2]));"
        "print(spec.weights_sha256, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == [spec.weights_sha256, "False"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_storage_computes_close_to_fp32(pt, tmp_path):
    _, exact = prepared(pt, "esm2", tmp_path / "a")
    write_encoder(load_encoder(tmp_path / "a", dtype=torch.float16), tmp_path / "b", name="half")
    rounded = load_encoder(tmp_path / "b", dtype=torch.float32)
    assert 0 < relative(forward(rounded, proteins([50]))[1], forward(exact, proteins([50]))[1]) < 1e-2


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def refuse(source, architecture, match, tmp_path):
    with pytest.raises(ModelError, match=match) as caught:
        prepare_encoder(source, architecture, tmp_path / "out")
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_pickle_with_code_is_refused(tmp_path, dnabert):
    torch.save({"cfg": {"model": Evil()}, "model": {}}, tmp_path / "evil.pt")
    refuse(tmp_path / "evil.pt", "esm2", r"refused: its pickle asks for \S*system", tmp_path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    refuse(tmp_path / "plain.pt", "esm2", r"refused|can't be read", tmp_path)
    torch.save({"x": Evil()}, dnabert / "pytorch_model.bin")
    refuse(dnabert, "dnabert_s", "refused", tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    refuse(tmp_path / "a.pt", "esm2", "or damaged: it can't be read", tmp_path)


def test_a_truncated_checkpoint_is_refused(pt, hf, tmp_path):
    pt.write_bytes(pt.read_bytes()[:-3000])
    refuse(pt, "esm2", "or damaged: it can't be read", tmp_path)
    weights = hf / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refuse(hf, "esm2", "can't be read as a safetensors file", tmp_path)


def test_other_paths_are_refused(tmp_path, dnabert, pt):
    refuse(tmp_path / "nowhere", "esm2", "does not exist", tmp_path)
    refuse(pt, "dnabert_s", "is a file; DNABERT-S is a folder", tmp_path)
    refuse(dnabert, "esm2", "model_type is 'bert', but this encoder needs 'esm'", tmp_path)
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "esm2", "config.json is missing", tmp_path)
    torch.save({"x": torch.zeros(2)}, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "esm2", "not a fair-esm ESM-2 checkpoint", tmp_path)
    with pytest.raises(ModelError, match="not an encoder's architecture"):
        prepare_encoder(pt, "bert", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"encoder_layers": 3}, "has 2 layers but its configuration says 3"),
        ({"encoder_embed_dim": 64}, "disagree|heads of 16"),
        ({"encoder_attention_heads": 4}, "has heads of 16, but its configuration says 4 heads of 8"),
        ({"encoder_attention_heads": 5}, "5 heads don't divide a width of 32"),
    ],
)
def test_settings_that_disagree_with_the_weights_are_refused(settings, match, tmp_path):
    refuse(fair_esm_checkpoint(fair_esm(2, 32, 2), tmp_path / "m.pt", **settings), "esm2", match, tmp_path)


@pytest.mark.parametrize(
    ("drop", "add", "match"),
    [
        ("layers.1.self_attn.k_proj.bias", None, r"has no layers.1.self_attn.k_proj.bias"),
        ("layers.0.fc2.weight", None, r"disagree, first at layers.0.fc2.weight: shape missing"),
        ("embed_tokens.weight", None, r"first at embed_tokens.weight: shape missing"),
        (None, "embed_positions.weight", "learned positions"),
        (None, "layers.0.adapter.weight", r"holds layers.0.adapter.weight, which this architecture doesn't have"),
    ],
)
def test_missing_and_foreign_tensors_are_refused(pt, drop, add, match, tmp_path):
    content = read_pt(pt)
    if drop:
        del content["model"]["encoder.sentence_encoder." + drop]
    if add:
        content["model"]["encoder.sentence_encoder." + add] = torch.zeros(4, 4)
    torch.save(content, pt)
    refuse(pt, "esm2", match, tmp_path)


def test_settings_in_another_form_are_refused(pt, tmp_path):
    content = read_pt(pt)
    torch.save({"cfg": {"model": Namespace(arch="x")}, "model": content["model"]}, pt)
    refuse(pt, "esm2", r"not a fair-esm ESM-2 checkpoint .'encoder_layers'", tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"position_embedding_type": "absolute"},
            "position_embedding_type is 'absolute', but this encoder needs 'rotary'",
        ),
        ({"emb_layer_norm_before": True}, "emb_layer_norm_before"),
        ({"num_hidden_layers": 3}, "has 2 layers but"),
        ({"num_attention_heads": 4}, "heads"),
        ({"intermediate_size": 64}, "disagree, first at layers.0.fc1"),
        ({"hidden_size": None}, "hidden_size should be a positive integer"),
        ({"hidden_size": 64}, "heads of|disagree"),
        ({"num_hidden_layers": 1}, "has 2 layers but its configuration says 1"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps"),
    ],
)
def test_a_hugging_face_configuration_that_does_not_fit_is_refused(hf, changes, match, tmp_path):
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, **changes}))
    refuse(hf, "esm2", match, tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_hidden_layers": 3}, "has 2 layers but its configuration says 3; fetch both again"),
        ({"hidden_size": 96}, "disagree, first at embed_norm.bias"),
        ({"intermediate_size": 32}, "disagree, first at layers.0.down.weight"),
        ({"vocab_size": 300}, "disagree, first at embed_tokens.weight"),
        ({"num_attention_heads": 5}, "5 heads don't divide a width of 48"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05, but this encoder needs 1e-12"),
    ],
)
def test_a_dnabert_configuration_that_does_not_fit_is_refused(dnabert, changes, match, tmp_path):
    config = json.loads((dnabert / "config.json").read_text())
    (dnabert / "config.json").write_text(json.dumps({**config, **changes}))
    refuse(dnabert, "dnabert_s", match, tmp_path)


def test_incomplete_dnabert_folders_are_refused(dnabert, tmp_path):
    text = (dnabert / "tokenizer.json").read_text()
    (dnabert / "tokenizer.json").unlink()
    refuse(dnabert, "dnabert_s", r"tokenizer.json is missing", tmp_path)
    (dnabert / "tokenizer.json").write_text(text)
    (dnabert / "config.json").write_text("{")
    refuse(dnabert, "dnabert_s", "can't be read as JSON", tmp_path)
    shutil.move(dnabert / "pytorch_model.bin", tmp_path / "kept")
    (dnabert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refuse(dnabert, "dnabert_s", "num_hidden_layers should be", tmp_path)
    other = dnabert_folder(random_dnabert(), tmp_path / "other", text)
    (other / "pytorch_model.bin").unlink()
    refuse(other, "dnabert_s", "has no weights", tmp_path)
    torch.save({"encoder.layer.0.attention.self.query.weight": torch.zeros(1)}, other / "pytorch_model.bin")
    refuse(other, "dnabert_s", "no fused Wqkv", tmp_path)


def test_a_tokenizer_of_another_model_is_refused(dnabert, tmp_path):
    (dnabert / "tokenizer.json").write_text(bpe_json(400))
    with pytest.raises(ModelError, match="embeds only 256"):
        prepare_encoder(dnabert, "dnabert_s", tmp_path / "out")


def test_neither_transformers_nor_esm_is_imported():
    folder = Path(load_encoder.__code__.co_filename).parent
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    assert "import esm" not in text and "import transformers" not in text and "from transformers" not in text


def test_names_of_published_layouts_survive(tmp_path, pt):
    prepare_encoder(pt, "esm2", tmp_path / "m.safetensors")
    spec = read_spec(tmp_path / "m.safetensors")
    again = write_encoder(load_encoder(tmp_path / "m.safetensors"), tmp_path / "n", name=spec.name, source=spec.source)
    assert again == spec and (tmp_path / "n").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
