"""Every published ESM-2 size up to 650M, with random weights: fetch → prepare → embed → check, in both formats."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from argparse import Namespace
from pathlib import Path

import esm
import pytest
import torch
from safetensors.torch import save_file

from tests.hub import serving
from tests.unit.encoder_fixtures import dna, proteins, relative
from virnucpro import installation
from virnucpro.check.run import measure
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.downloads import obtain
from virnucpro.encoders.embed import embed
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.prepare import prepare_encoder
from virnucpro.encoders.spec import read_spec, verify_encoder
from virnucpro.models.sources import find
from virnucpro.sequences.split import split_samples
from virnucpro.settings.options import Settings

SHAPES = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20), "650M": (33, 1280, 20)}
HUGGING_FACE = {
    "embed_tokens": "embeddings.word_embeddings",
    "emb_layer_norm_after": "encoder.emb_layer_norm_after",
    "self_attn_layer_norm": "attention.LayerNorm",
    "final_layer_norm": "LayerNorm",
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn.rot_emb": "attention.self.rotary_embeddings",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}


def reference(layers: int, width: int, heads: int) -> torch.nn.Module:
    """fair-esm's module with random weights, made from one small buffer again and again."""
    with torch.device("meta"):
        model = esm.model.esm2.ESM2(layers, width, heads, "ESM-1b").eval()
    noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(width)) * 0.02
    state = {}
    for key, value in model.state_dict().items():
        copies = noise.repeat(value.numel() // len(noise) + 1)[: value.numel()].clone()
        state[key] = copies.view(value.shape) + float("norm" in key and key.endswith("weight"))
        if key.endswith("inv_freq"):
            state[key] = 1.0 / 10000 ** (torch.arange(0, width // heads, 2) / (width // heads))
    model.load_state_dict(state, assign=True)
    return model


def publish(model: torch.nn.Module, name: str, hub: Path) -> None:
    """The published files, in both formats and without the contact head that neither needs."""
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("contact_head")}
    settings = {"encoder_layers": model.num_layers, "encoder_embed_dim": model.embed_dim}
    settings |= {"encoder_attention_heads": model.attention_heads, "token_dropout": True}
    (hub / "fair-esm").mkdir(parents=True)
    keys = {key: f"encoder.{'' if key.startswith('lm_head') else 'sentence_encoder.'}{key}" for key in state}
    content = {"cfg": {"model": Namespace(**settings)}, "model": {keys[key]: value for key, value in state.items()}}
    torch.save(content, hub / "fair-esm" / f"{name}.pt")

    repository = hub / "facebook" / name
    repository.mkdir(parents=True)
    for file in ("vocab.txt", "modeling.py"):
        (repository / file).write_text("not wanted")
    tensors = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(layers\.\d+\.)?(.+)\.(weight|bias|inv_freq)", key):
            layer = f"encoder.{match[1].replace('layers', 'layer')}" if match[1] else ""
            tensors[f"esm.{layer}{HUGGING_FACE.get(match[2], match[2])}.{match[3]}"] = value
    tensors = {key.replace("esm.lm_head", "lm_head"): value for key, value in tensors.items()}
    tensors.pop("lm_head.weight", None)  # is the embedding's, and not saved twice
    save_file(tensors, repository / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "esm",
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "layer_norm_eps": 1e-5,
        "token_dropout": True,
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.embed_dim,
        "num_attention_heads": model.attention_heads,
        "intermediate_size": 4 * model.embed_dim,
    }
    (repository / "config.json").write_text(json.dumps(config))


class PeakMemory(threading.Thread):
    """The most anonymous memory (not that of mapped files) that this process gains in a block, in MB."""

    def __enter__(self) -> PeakMemory:
        self.before, self.peak, self.done = self.anonymous(), 0, False
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done = True
        self.join()

    def run(self) -> None:
        while not self.done:
            self.peak = max(self.peak, self.anonymous() - self.before)
            time.sleep(0.01)

    @staticmethod
    def anonymous() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) // 1024


def checked(model: Path, folder: Path) -> None:
    """`check` with the bundled DNABERT-S and a random classifier, on two frames."""
    folder.mkdir(exist_ok=True)
    bundled = installation.root() / "resources" / "models" / "mini-dnabert-s.safetensors"
    width = read_spec(bundled).width + read_spec(model).width
    write_classifier(folder / "classifier", Classifier(width, 8).eval(), ClassifierSpec("c", width=width, hidden=8))
    (folder / "in.fa").write_text(">r\n" + dna([90], letters=b"ACG")[0].decode() + "\n")  # no T, so no stop
    split_samples({"s": [folder / "in.fa"]}, folder / "shards", chunk_length=90, shard_frames=100)
    models = {"dna": bundled, "protein": model}
    result = measure([folder / "shards"], models, folder / "classifier", folder, Settings(device="cpu"), frames=2)
    assert result["passed"] and result["frames"] == 2
    assert [row["reference"] for row in result["rows"] if row["encoder"] == "protein"] == ["fair-esm"]


@pytest.mark.parametrize(
    "size", ["8M", "35M", *(pytest.param(size, marks=pytest.mark.soak) for size in ("150M", "650M"))]
)
def test_from_the_hub_to_vectors(size, tmp_path, monkeypatch):
    model = reference(*SHAPES[size])
    short = find("protein", size, tmp_path / "models")
    publish(model, short.path.stem, tmp_path / "hub")
    sequences = proteins([30, 7])
    ids = ["a", "b"]
    expected = []
    for sequence in sequences:
        tokens = torch.tensor(
            [[0, *(esm.Alphabet.from_architecture("ESM-1b").get_idx(chr(letter)) for letter in sequence), 2]]
        )
        with torch.inference_mode():
            hidden = model(tokens, repr_layers=[model.num_layers])["representations"][model.num_layers]
        expected.append(hidden[0, 1:-1].mean(0))

    vectors, digests = [], set()
    with serving(tmp_path / "hub") as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        for name in (size, f"facebook/{short.path.stem}"):
            source = find("protein", name, tmp_path / "models" / name)  # a folder each, so that both are fetched
            obtain(source)
            megabytes = source.megabytes
            prepared = tmp_path / "prepared.safetensors"
            with PeakMemory() as memory:
                spec = prepare_encoder(source.path, "esm2", prepared)
            assert verify_encoder(prepared) == spec and spec.width == SHAPES[size][1]
            assert memory.peak < 100 + 0.5 * megabytes, f"{memory.peak} MB for a model of {megabytes} MB"
            digests.add(spec.weights_sha256)
            with PeakMemory() as memory:
                encoder = load_encoder(prepared)
            assert memory.peak < 50, "mapped, not read"
            vectors.append(embed(encoder, ids, sequences).vectors)
            checked(prepared, tmp_path / "check")
            shutil.rmtree(source.path.parent)
    assert len(digests) == 1, "both formats are one model"
    assert (vectors[0] == vectors[1]).all()
    for found, vector in zip(vectors[0], expected, strict=True):
        assert relative(torch.from_numpy(found), vector) < 1e-5
