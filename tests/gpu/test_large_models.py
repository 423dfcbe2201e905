"""ESM-2 3B from a published file to a passed check on one GPU, and the 15B shape there; random weights.

A tiny shape goes the same way on a CPU, in every tier.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.hub import serving
from virnucpro import installation
from virnucpro.check.measure import compare_vectors
from virnucpro.check.reference import reference_vectors
from virnucpro.check.run import measure
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.embeddings.shard import embed_shard
from virnucpro.encoders.checkpoints import export_state
from virnucpro.encoders.embed import embed
from virnucpro.encoders.esm2 import ESM2, FAIR_ESM, ESM2Config
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.ops import PYTORCH
from virnucpro.encoders.original import padded_hidden, pool_padded
from virnucpro.encoders.precision import choose_precision
from virnucpro.encoders.prepare import prepare_encoder
from virnucpro.encoders.spec import read_spec, verify_encoder
from virnucpro.models.sources import find
from virnucpro.sequences.split import read_shard, split_samples
from virnucpro.settings.options import Settings

CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
OUTLIER = 11  # the dimension that is made an outlier, as one of the real 3B is
Steps = Callable[[str], AbstractContextManager[None]]


def large(size: str, *shape: int):
    """A size for `make soak` on a GPU."""
    return pytest.param(size, *shape, "cuda", marks=[pytest.mark.gpu, pytest.mark.soak], id=size)


def require_memory(device: str, gigabytes: int) -> None:
    if device == "cuda" and (total := torch.cuda.get_device_properties(0).total_memory / 1e9) < gigabytes:
        pytest.skip(f"NOT RUN: needs a GPU with {gigabytes} GB of memory, this one has {total:.0f} GB")


@pytest.fixture
def say(record_property) -> Callable[[str, str], None]:
    """Prints (pytest -s shows it), and writes to --junitxml."""

    def said(name: str, text: str) -> None:
        record_property(name, text)
        print(f"{name}: {text}", flush=True)

    return said


@pytest.fixture
def step(say) -> Steps:
    """Times a block, and tells how much of the GPU's memory was allocated at its peak."""

    @contextmanager
    def measured(name: str) -> Iterator[None]:
        gpu = torch.cuda.is_initialized()
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        yield
        peak = f", at most {torch.cuda.max_memory_allocated() / 1e9:.2f} GB on the GPU" if gpu else ""
        say(name, f"{time.perf_counter() - began:.1f} s{peak}")

    return measured


def random_esm2(layers: int, width: int, heads: int, device: str, dtype: torch.dtype) -> ESM2:
    """Weights that come into being on the device; one dimension of the vectors is an outlier."""
    with torch.device("meta"):
        encoder = ESM2(ESM2Config(layers, width, heads, 4 * width)).to(dtype)
    encoder = encoder.to_empty(device=device).requires_grad_(False).eval()
    torch.manual_seed(width)
    for parameter in encoder.parameters():
        parameter.normal_(std=0.1 if parameter.ndim == 1 else width**-0.5)
    for module in encoder.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight += 1
    encoder.final_norm.bias[OUTLIER] += 60
    return encoder


def publish(path: Path, layers: int, width: int, heads: int, device: str) -> None:
    """A file as fair-esm has it of 3B: in half precision."""
    encoder = random_esm2(layers, width, heads, device, torch.float16)
    state = {
        f"encoder.sentence_encoder.{key}": tensor.cpu().clone()
        for key, tensor in export_state(encoder, FAIR_ESM).items()
    }
    for layer in range(layers):
        frequencies = torch.zeros(width // heads // 2, dtype=torch.float16)  # not read, but for its length
        state[f"encoder.sentence_encoder.layers.{layer}.self_attn.rot_emb.inv_freq"] = frequencies
    settings = {"encoder_layers": layers, "encoder_embed_dim": width, "encoder_attention_heads": heads}
    path.parent.mkdir(parents=True)
    torch.save({"cfg": {"model": Namespace(**settings, token_dropout=True)}, "model": state}, path)


@pytest.mark.parametrize(
    ("size", "layers", "width", "heads", "device"),
    [pytest.param("8M", 2, 64, 4, "cpu", id="tiny"), large("3B", 36, 2560, 40)],
)
def test_from_a_file_to_a_passed_check(size, layers, width, heads, device, tmp_path, step: Steps, say):
    require_memory(device, 20)
    pytest.importorskip("esm", reason="NOT RUN: fair-esm, the reference, isn't installed (pip install fair-esm)")
    source = find("protein", size, tmp_path / "models")
    published = tmp_path / "hub" / "fair-esm" / source.path.name
    with step(f"{size}, random weights to a file"):
        publish(published, layers, width, heads, device)
    if device == "cuda":
        assert published.stat().st_size == pytest.approx(source.megabytes * 1e6, rel=0.02), "the published file's size"

    with serving(tmp_path / "hub") as hub, step(f"{size}, fetch"):
        command = [sys.executable, "-m", "virnucpro", "models", "fetch", size, "--models-dir", str(source.path.parent)]
        online = {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        subprocess.run(command, check=True, env=os.environ | online | hub.environment, timeout=600)
        assert hub.downloads(source.path.name) == [None], "once, in one piece"
    published.unlink()

    model = tmp_path / "model.safetensors"
    with step(f"{size}, prepare"):
        spec = prepare_encoder(source.path, "esm2", model)
    assert (spec.config["layers"], spec.width, spec.config["heads"]) == (layers, width, heads)
    assert list(spec.source["files"]) == [source.path.name]
    with step(f"{size}, verify"):
        assert verify_encoder(model) == spec
    source.path.unlink()
    options = Settings(device=device, gpu_lease=False)
    precision = choose_precision(options.precision, device)
    with step(f"{size}, load in {precision.name} from a warm cache"):
        assert next(load_encoder(model, device, precision.dtype).parameters()).device.type == device

    records, frames = (300, 64) if device == "cuda" else (12, 8)
    rng = np.random.default_rng(0)
    contigs = ["".join(rng.choice(CODONS, 167))[:500] for _ in range(records)]
    (tmp_path / "in.fa").write_text("".join(f">r{at}\n{contig}\n" for at, contig in enumerate(contigs)))
    split_samples({"s": [tmp_path / "in.fa"]}, tmp_path / "shards", chunk_length=500, shard_frames=10_000)
    (shard,) = (tmp_path / "shards").glob("*.faa")
    ids, proteins = read_shard(shard)
    assert len(ids) >= records
    with step(f"{size}, embed {len(ids)} frames"):
        embed_shard(shard, model, tmp_path / "shard.h5", options, threads=2)
    with h5py.File(tmp_path / "shard.h5") as file:
        vectors, ran = file["embeddings"][:], dict(file.attrs)
    say(f"{size}, tokens a second once loaded", f"{ran['tokens_per_second']:,.0f}")
    assert ran["precision"] == precision.name and ran["redone_batches"] == 0
    assert ran["backend"] == ("triton" if device == "cuda" else "sdpa")
    with step(f"{size}, fair-esm's own module in fp32"):
        expected, module = reference_vectors(model, ids, proteins, device)
    measures, errors = compare_vectors(vectors, expected)
    assert module == "fair-esm" and measures["outlier_dimensions"] == [OUTLIER]
    assert errors.max() <= precision.gate.relative_l2
    say(
        f"{size} in {precision.name}, relative L2 without the outlier dimension",
        f"{errors.max():.1e} in the worst frame",
    )

    dna = installation.root() / "resources" / "models" / "mini-dnabert-s.safetensors"
    features = read_spec(dna).width + width
    write_classifier(
        tmp_path / "classifier", Classifier(features, 16).eval(), ClassifierSpec("random", width=features, hidden=16)
    )
    models = {"dna": dna, "protein": model}
    with step(f"{size}, check of {frames} frames"):
        result = measure(
            [tmp_path / "shards"],
            models,
            tmp_path / "classifier",
            tmp_path / "check",
            options,
            frames=frames,
            threads=2,
        )
    assert result["passed"] and result["frames"] == frames
    (row,) = (row for row in result["rows"] if row["chosen"] and row["encoder"] == "protein")
    assert (row["reference"], row["precision"], row["backend"]) == ("fair-esm", precision.name, ran["backend"])
    say(f"{size}, check", "\n" + (tmp_path / "check" / "check.txt").read_text())


@pytest.mark.parametrize(
    ("size", "layers", "width", "heads", "device"),
    [pytest.param("tiny", 3, 64, 2, "cpu", id="tiny"), large("15B", 48, 5120, 40)],
)
def test_a_model_that_is_created_on_the_device(size, layers, width, heads, device, step: Steps, say):
    """Its fp32 reference is computed with one block at a time in fp32: all of 15B would need 61 GB."""
    require_memory(device, 38)
    precision = choose_precision("auto", device)
    with step(f"{size}, weights in {precision.name}"):
        encoder = random_esm2(layers, width, heads, device, precision.dtype)
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8)
    proteins = [rng.choice(letters, 166).tobytes() for _ in range(512 if device == "cuda" else 16)]
    ids = [str(at) for at in range(len(proteins))]
    with step(f"{size}, embed {len(proteins)} frames, the first time"):
        found = embed(encoder, ids, proteins, device=device)
    with step(f"{size}, embed {len(proteins)} frames, again"):
        again = embed(encoder, ids, proteins, device=device)
    for vectors, ran in (found, again):
        assert np.isfinite(vectors).all() and ran["redone_batches"] == 0
        assert (ran["precision"], ran["backend"]) == (precision.name, "triton" if device == "cuda" else "sdpa")
    say(f"{size}, statistics", str(again.statistics))
    with step(f"{size}, 8 frames in fp32, block by block"):
        expected = vectors_by_block(encoder, proteins[:8])
    measures, errors = compare_vectors(found.vectors[:8], expected)
    assert measures["outlier_dimensions"] == [OUTLIER] and errors.max() <= precision.gate.relative_l2
    say(
        f"{size} in {precision.name}, relative L2 without the outlier dimension",
        f"{errors.max():.1e} in the worst frame",
    )


def vectors_by_block(encoder: ESM2, proteins: list[bytes]) -> np.ndarray:
    """(n, d) fp32 vectors of proteins of one length by the plain padded forward pass, a block in fp32 at a time."""

    def exact(module: torch.nn.Module) -> torch.nn.Module:
        return copy.deepcopy(module).float()

    tokens, lengths = encoder.tokenize(proteins)
    padded = torch.from_numpy(tokens.astype(np.int64)).view(len(proteins), -1).to(encoder.embed_tokens.weight.device)
    rows = ESM2.__new__(ESM2)  # with one block at a time in fp32
    torch.nn.Module.__init__(rows)
    rows.__dict__ |= {"config": encoder.config, "ops": PYTORCH, "_rotary": None, "layers": map(exact, encoder.layers)}
    rows.embed_tokens, rows.final_norm = exact(encoder.embed_tokens), exact(encoder.final_norm)
    with torch.inference_mode():
        return pool_padded(rows, padded_hidden(rows, padded), lengths).cpu().numpy()
