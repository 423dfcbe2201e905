"""Environment switches: strict, recorded, each stands for an option and changes what runs."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import (
    bpe_json,
    dna,
    fair_esm,
    fair_esm_checkpoint,
    proteins,
    random_dnabert,
    random_esm2,
)
from virnucpro import installation
from virnucpro.embeddings.key import embedding_key
from virnucpro.embeddings.shard import embed_shard
from virnucpro.embeddings.store import open_shard
from virnucpro.encoders import embed, embedder, original
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.loading import load_encoder, write_encoder
from virnucpro.encoders.ops import CompiledOps
from virnucpro.encoders.precision import PRECISIONS
from virnucpro.encoders.prepare import prepare_encoder
from virnucpro.encoders.spec import read_spec
from virnucpro.errors import ConfigError
from virnucpro.provenance import RunRecord
from virnucpro.settings.environment import ALIASES, OTHERS, PREFIX, overrides, read_switches
from virnucpro.settings.options import defaults
from virnucpro.settings.validation import resolve

LENGTHS = [1, 7, 60, 60, 61, 150, 300, 1021, 1030, 1500]


def test_nothing_set_changes_nothing():
    switches = read_switches({"PATH": "/bin", "VIRNUCPRO_TEST_TOKENIZER": "x", "VIRNUCPRO_COMPILE_MODEL": ""})
    assert switches == {} and overrides(switches) == {}
    given = {"precision": "bf16", "compile": True, "batching": "single"}
    assert resolve(given, switches) == resolve(given)
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve(given).batching = "packed"


def test_each_stands_for_an_option():
    for alias in ALIASES.values():
        for value in (alias.on, *([] if alias.off is None else [alias.off])):
            assert getattr(resolve({alias.option: value}), alias.option) == value
            assert alias.option in defaults()


@pytest.mark.parametrize(
    ("name", "value", "batching", "precision", "compiled"),
    [
        ("V1_ATTENTION", "1", "original", "fp32", False),
        ("V1_ATTENTION", "off", "packed", "fp16", True),
        ("DISABLE_PACKING", "yes", "single", "fp16", True),
        ("DISABLE_FP16", "True", "packed", "fp32", True),
        ("COMPILE_MODEL", "off", "packed", "fp16", False),
        ("DISABLE_PACKING", "0", "packed", "fp16", True),
    ],
)
def test_each_overrides_the_configuration(name, value, batching, precision, compiled):
    switches = read_switches({PREFIX + name: value})
    settings = resolve({"precision": "fp16", "compile": True}, switches)
    assert (settings.batching, settings.precision, settings.compile) == (batching, precision, compiled)
    assert settings.rna_as_dna == (batching != "original")
    assert switches == {PREFIX + name: value in ("1", "yes", "True")}
    assert resolve({}, read_switches({"VIRNUCPRO_COMPILE_MODEL": "on"})).compile


def test_one_that_is_off_leaves_another():
    on = resolve({}, read_switches({"VIRNUCPRO_V1_ATTENTION": "1", "VIRNUCPRO_DISABLE_PACKING": "0"}))
    assert on == resolve({"batching": "original"})
    off = resolve({"batching": "original"}, read_switches({"VIRNUCPRO_DISABLE_PACKING": "1"}))
    assert off == resolve({"batching": "single"})


def test_a_configuration_is_validated_before_it_is_overridden():
    with pytest.raises(ConfigError, match="'precision' can't be 'fp61'"):
        resolve({"precision": "fp61"}, {"VIRNUCPRO_DISABLE_FP16": True})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"VIRNUCPRO_DISABLE_FP16": "ture"}, "VIRNUCPRO_DISABLE_FP16 can't be 'ture'"),
        ({"VIRNUCPRO_DISABLE_FP61": "1"}, "VIRNUCPRO_DISABLE_FP61; did you mean VIRNUCPRO_DISABLE_FP16"),
        ({"VIRNUCPRO_WHATEVER": "1"}, "known are VIRNUCPRO_V1_ATTENTION, "),
        ({"VIRNUCPRO_V1_ATTENTION": "1", "VIRNUCPRO_DISABLE_PACKING": "1"}, "DISABLE_PACKING are both on"),
        ({"VIRNUCPRO_V1_ATTENTION": "1", "VIRNUCPRO_COMPILE_MODEL": "1"}, "COMPILE_MODEL are both on"),
    ],
)
def test_mistakes_are_named(environment, message):
    with pytest.raises(ConfigError, match=message):
        read_switches(environment)


def test_the_manual_lists_them_all_and_no_other_module_reads_one():
    root = installation.root()
    manual = (root / "config" / "README.md").read_text()
    assert set(re.findall(r"^\| `(VIRNUCPRO_\w+)` \|", manual, flags=re.M)) == set(ALIASES)
    for file in [*root.glob("src/**/*.py"), *root.glob("workflow/**/*.*")]:
        text = file.read_text()
        unknown = set(re.findall(r"(?<!\w)VIRNUCPRO_\w+", text)) - set(ALIASES) - set(OTHERS)
        assert not unknown, f"{file} names {unknown}: add it to settings/environment.py"
        assert not re.findall(r"environ\W+(?:get\W+)?VIRNUCPRO_", text), f"{file} reads a switch itself"


def test_what_changes_numbers_changes_the_key(tmp_path):
    spec = write_encoder(random_esm2(), tmp_path / "m.safetensors", name="m")
    plain = embedding_key(spec, "fp16")
    assert plain == f"2x32-{spec.weights_sha256[:12]}-mean-of-the-first-1024-residues-fp16-v{embed.EMBEDDING_VERSION}"
    keys = {plain, *(embedding_key(spec, "fp16", batching) for batching in ("single", "original"))}
    assert keys == {plain, f"{plain}-single", f"{plain}-original"}


@pytest.fixture(params=["esm2", "dnabert_s"])
def shard(request, tmp_path) -> tuple[Path, Path, list[bytes]]:
    esm = request.param == "esm2"
    model, sequences = (
        (random_esm2(), proteins(LENGTHS)) if esm else (random_dnabert(tokenizer=bpe_json()), dna(LENGTHS))
    )
    write_encoder(model, tmp_path / "m.safetensors", name="m")
    return tmp_path / ("abc.faa" if esm else "abc.fna"), tmp_path / "m.safetensors", sequences


def run(shard, monkeypatch, **environment) -> tuple[np.ndarray, dict, list[int]]:
    """Vectors, attributes and rows per forward pass of a shard job under these switches."""
    fasta, model, sequences = shard
    ids = [f"s{number}" for number in range(len(sequences))]
    monkeypatch.setattr("virnucpro.embeddings.shard.read_shard", lambda path: (ids, sequences))
    rows: list[int] = []
    pack, padded = embedder.PackedBatch.build, original.attention
    switches = read_switches(environment)
    settings, record = resolve({}, switches), RunRecord(switches=switches)
    with monkeypatch.context() as patch:
        patch.setattr(
            embedder.PackedBatch, "build", lambda n, *more, **named: rows.append(len(n)) or pack(n, *more, **named)
        )
        patch.setattr(original, "attention", lambda q, *more: rows.append(-len(q)) or padded(q, *more))
        embed_shard(fasta, model, fasta.with_suffix(".h5"), settings, threads=1, run=record)
    with open_shard(fasta.with_suffix(".h5")) as file:
        return file["embeddings"][:], dict(file.attrs), rows


def test_each_path_is_taken_and_gives_the_same_vectors(shard, monkeypatch):
    packed, attributes, rows = run(shard, monkeypatch)
    assert rows and min(rows) > 0 and max(rows) > 1
    assert (attributes["batching"], attributes["backend"], attributes["switches"]) == ("packed", "sdpa", "{}")

    single, attributes, rows = run(shard, monkeypatch, VIRNUCPRO_DISABLE_PACKING="1")
    assert rows == [1] * len(LENGTHS)
    assert (attributes["batching"], attributes["fill"]) == ("single", 1.0)

    esm = attributes["architecture"] == "esm2"
    v1, attributes, rows = run(shard, monkeypatch, VIRNUCPRO_V1_ATTENTION="1")
    # What fits in 2,048 tokens with its padding; two layers each.
    assert [-n for n in rows if n < 0][::2] == ([6, 2, 1, 1] if esm else [1] * len(LENGTHS))
    assert (attributes["batching"], attributes["backend"], attributes["precision"]) == ("original", "original", "fp32")
    assert attributes["switches"] == '{"VIRNUCPRO_V1_ATTENTION": true}'

    scale = np.linalg.norm(packed, axis=1)
    assert (np.linalg.norm(single - packed, axis=1) / scale).max() < 1e-5
    assert (np.linalg.norm(v1 - packed, axis=1) / scale).max() < 1e-5
    assert read_spec(shard[1]).weights_sha256 == attributes["weights_sha256"]


def test_half_precision_and_compilation_change_what_runs(shard, monkeypatch):
    """On a CPU that is said to have half precision, as a GPU has."""
    choose, compiled = embedder.choose_precision, []
    monkeypatch.setattr(
        embedder,
        "choose_precision",
        lambda name, *on, **how: PRECISIONS["fp16"] if name == "auto" else choose(name, *on, **how),
    )
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    monkeypatch.setattr(embedder, "COMPILED", CompiledOps())
    half, attributes, _ = run(shard, monkeypatch)
    assert (attributes["precision"], attributes["kernels"], compiled) == ("fp16", "pytorch", [])
    full, attributes, _ = run(shard, monkeypatch, VIRNUCPRO_DISABLE_FP16="1", VIRNUCPRO_COMPILE_MODEL="1")
    assert (attributes["precision"], attributes["compile"]) == ("fp32", True) and len(compiled) == 2
    assert attributes["kernels"] == "compiled"
    assert 1e-5 < np.abs(half - full).max() < 0.1


def test_the_originals_path_is_fair_esms(tmp_path):
    """Batches and vectors of fair-esm's own extraction."""
    reference = fair_esm(2, 48, 2)
    prepare_encoder(fair_esm_checkpoint(reference, tmp_path / "m.pt"), "esm2", tmp_path / "m.safetensors")
    sequences = proteins(LENGTHS + [40] * 90)
    import esm

    dataset = esm.FastaBatchedDataset([str(i) for i in range(len(sequences))], [s.decode() for s in sequences])
    batches = dataset.get_batch_indices(original.TOKENS_PER_BATCH, extra_toks_per_seq=1)
    assert original.plan_padded(np.array([len(s) + 2 for s in sequences])) == batches
    found = original.embed_original(load_encoder(tmp_path / "m.safetensors"), [""] * len(sequences), sequences).vectors
    convert = reference.alphabet.get_batch_converter()
    for rows in batches:
        _, _, tokens = convert([dataset[row] for row in rows])
        with torch.inference_mode():
            hidden = reference(tokens, repr_layers=[2])["representations"][2]
        for row, states in zip(rows, hidden, strict=True):
            expected = states[1 : 1 + min(len(sequences[row]), 1024)].mean(0).numpy()
            assert np.linalg.norm(found[row] - expected) < 1e-6 * np.linalg.norm(expected)


def test_the_originals_path_scales_tokens_only_where_the_model_does():
    for dropout in (True, False):
        model = ESM2(ESM2Config(2, 32, 2, 128, token_dropout=dropout))
        sequences = proteins([30, 12])
        found = original.embed_original(model, ["a", "b"], sequences).vectors
        assert np.allclose(found, embed.embed(model, ["a", "b"], sequences).vectors, atol=1e-6)
