"""One complete run of the original, reproduced by the real command in every way to run it."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.workflow.runner import PARITY, ROOT, environment, snakemake
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.encoders.embed import EMBEDDING_VERSION
from virnucpro.provenance import read_provenance
from virnucpro.sequences.split import read_manifest, read_shard

EXPECTED = PARITY / "expected"
TOLERANCE = 1e-4


def original_models(folder: Path) -> dict[str, object]:
    """Configuration with the run's three models, copied into a folder; DNABERT-S's own tokenizer isn't part of this repository."""
    tokenizer = Path(
        os.environ.get("VIRNUCPRO_TEST_TOKENIZER", ROOT.parent / "shared/parity/dnabert_tiny/tokenizer.json")
    )
    if not tokenizer.is_file():
        pytest.skip("needs DNABERT-S's tokenizer.json: set VIRNUCPRO_TEST_TOKENIZER to its path")
    shutil.copytree(PARITY / "dnabert_tiny", folder / "dnabert_tiny")
    shutil.copy(tokenizer, folder / "dnabert_tiny" / "tokenizer.json")
    for path in (PARITY / "esm2_t36_tiny" / "esm2_t36_tiny_UR50D.pt", PARITY / "tiny_model.pth"):
        shutil.copy(path, folder)
    return {
        "dnabert_model": folder / "dnabert_tiny",
        "esm_model": folder / "esm2_t36_tiny_UR50D.pt",
        "classifier": folder / "tiny_model.pth",
        "chunk_length": 500,
        "precision": "fp32",
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, object]:
    return original_models(tmp_path_factory.mktemp("parity"))


def check(result: Path) -> None:
    """All of the original's outputs against a sample's folder."""
    shards = result / "shards"
    for suffix, name in (("fna", "nucleotide"), ("faa", "protein")):
        text = b"".join((shards / f"{shard['sha']}.{suffix}").read_bytes() for shard in read_manifest(shards)["shards"])
        assert text == (EXPECTED / f"input_identified_{name}.f{'a' if suffix == 'fna' else 'aa'}").read_bytes()
        ids = [
            i for shard in read_manifest(shards)["shards"] for i in read_shard(shards / f"{shard['sha']}.{suffix}")[0]
        ]
    with np.load(EXPECTED / "merged.npz", allow_pickle=False) as expected:
        arrays = {expected[name].ndim: expected[name] for name in expected.files}
    merged = MergedEmbeddings(result / "embeddings.h5")
    batches = [merged.read(window) for window in merged.windows()]
    assert [i for batch, _ in batches for i in batch] == ids == arrays[1].tolist()
    features = np.concatenate([features for _, features in batches])
    assert np.abs(features - arrays[2]).max() < TOLERANCE  # false for NaN
    assert merged.provenance["dna_encoder"]["width"] == 96

    original = [line.split("\t") for line in (EXPECTED / "prediction_results.txt").read_text().splitlines()]
    ours = [line.split("\t") for line in (result / "prediction_results.txt").read_text().splitlines()]
    assert ours[0] == original[0]
    assert [row[0] for row in ours] == [row[0] for row in original]
    for mine, theirs in zip(ours[1:], original[1:], strict=True):
        scores = np.array([mine[2:], theirs[2:]], dtype=float)
        assert np.abs(scores[0] - scores[1]).max() < TOLERANCE
        assert mine[1] == theirs[1] or abs(scores[1, 1] - 0.5) < TOLERANCE
    name = "prediction_results_highestscore.csv"
    assert (result / name).read_bytes() == (EXPECTED / name).read_bytes()


def sheet(folder: Path, fasta: Path) -> Path:
    path = folder / "sheet.tsv"
    path.write_text(f"sample\tfasta\nparity\t{os.path.relpath(fasta, folder)}\n")
    return path


@pytest.mark.soak
def test_many_packs_gzip_and_another_directory(tmp_path, models):
    packed = tmp_path / "data" / "input.fa.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((PARITY / "input.fa").read_bytes()))
    elsewhere = tmp_path / "elsewhere"
    config = models | {"samples": sheet(tmp_path / "data", packed), "tokens_per_batch": 64}
    run = snakemake(tmp_path, "--directory", str(elsewhere), config=config).ok()
    assert run.computed == {"embed_dnabert_s": 1, "embed_esm2": 1}
    assert "Only its width (128 = 96 + 32) could be checked" in run.text
    check(elsewhere / "results" / "parity")


def test_small_shards_in_one_pack(tmp_path, models):
    config = models | {"samples": sheet(tmp_path, PARITY / "input.fa"), "shard_frames": 20, "tokens_per_batch": 100000}
    run = snakemake(tmp_path, config=config).ok()
    assert run.computed == {"embed_dnabert_s": 5, "embed_esm2": 5}
    check(tmp_path / "results" / "parity")


def check_switches(result: Path, on: dict[str, bool], batching: str, backend: str) -> None:
    """These switches took effect, and every output says so."""
    shards = list(result.parent.glob("embeddings/*/*/*.h5"))  # of small samples together
    assert {path.parts[-3] for path in shards} == {"dnabert_s", "esm2"}
    for path in shards:
        assert path.parent.name.endswith(f"-fp32-v{EMBEDDING_VERSION}-{batching}")
        made = read_provenance(path)
        how = {key: made[key] for key in ("precision", "backend", "batching", "compile", "switches")}
        assert how == {"precision": "fp32", "backend": backend, "batching": batching, "compile": False, "switches": on}
        batched = (batching, path.parts[-3]) == ("original", "esm2")
        assert made["packs"] < made["count"] if batched else made["packs"] == made["count"]
    for name in ("embeddings.h5", "summary.json", "viral.fasta.gz", "report.html"):
        made = read_provenance(result / name)
        assert made["run"]["switches"] == on
        assert all(made["run"]["versions"].values()) and len(made["run"]["configuration_sha256"]) == 64
        assert [ways[0]["batching"] for ways in made["computed"].values()] == [batching, batching]
        assert all(made[f"{role}_encoder"]["weights_sha256"] for role in ("dna", "protein"))


@pytest.mark.ci  # time
def test_the_originals_way_of_computing(tmp_path, models):
    config = models | {"samples": sheet(tmp_path, PARITY / "input.fa"), "tokens_per_batch": 64}
    config |= {"precision": "auto", "compile": "true"}  # which the switch overrides
    snakemake(tmp_path, config=config, VIRNUCPRO_V1_ATTENTION="1").ok()
    check(tmp_path / "results" / "parity")
    check_switches(tmp_path / "results" / "parity", {"VIRNUCPRO_V1_ATTENTION": True}, "original", "original")


def test_the_command_line_with_switches(tmp_path, models):
    options = [f"--{key.replace('_', '-')}={value}" for key, value in (models | {"precision": "auto"}).items()]
    switches = {"VIRNUCPRO_DISABLE_PACKING": "yes", "VIRNUCPRO_DISABLE_FP16": "1", "VIRNUCPRO_COMPILE_MODEL": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "virnucpro", "predict", str(PARITY / "input.fa"), "--output", "out", "--cores", "2", "--compile", *options],
        cwd=tmp_path, capture_output=True, text=True, env=environment() | switches,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / "input" / "report.html") in done.stdout
    check(tmp_path / "out" / "input")
    check_switches(
        tmp_path / "out" / "input", {name: value != "0" for name, value in switches.items()}, "single", "sdpa"
    )
