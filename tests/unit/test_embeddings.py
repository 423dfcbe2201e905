"""HDF5 layout, the cache and the merge: what is complete, what belongs together, and what is refused."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.workflow.conftest import bpe
from virnucpro.cli import cli
from virnucpro.embeddings.cache import CacheEntry, list_cache, prune_cache
from virnucpro.embeddings.merge import merge
from virnucpro.embeddings.shard import compute
from virnucpro.embeddings.store import MergedEmbeddings, create_shard, open_shard, write_shard
from virnucpro.encoders import loading
from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.loading import write_encoder
from virnucpro.errors import ConfigError, StorageError
from virnucpro.settings.options import Settings

IDS = [f"r_chunk_{i}F1" for i in range(1, 6)]


def vectors(width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(IDS), width)).astype(np.float32)


def test_a_shard_comes_back(tmp_path):
    write_shard(tmp_path / "x.h5", IDS, vectors(4), {"model": "m", "options": {"a": 1}})
    with open_shard(tmp_path / "x.h5") as file:
        assert file["ids"].asstr()[:].tolist() == IDS
        assert np.array_equal(file["embeddings"], vectors(4))
        assert json.loads(file.attrs["options"]) == {"a": 1}


def test_an_empty_shard_comes_back(tmp_path):
    write_shard(tmp_path / "x.h5", [], np.empty((0, 4), np.float32), {})
    with open_shard(tmp_path / "x.h5") as file:
        assert file["embeddings"].shape == (0, 4)


@pytest.mark.parametrize("damage", ["absent", "cut", "incomplete", "rows", "digests"])
def test_what_is_not_whole_is_refused(tmp_path, damage):
    path = tmp_path / "x.h5"
    if damage != "absent":
        write_shard(path, IDS, vectors(4), {})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif damage != "absent":
        with h5py.File(path, "r+") as file:
            if damage == "digests":
                file["digests"] = np.zeros((len(IDS) - 1, 16), np.uint8)
            file.attrs.update({"incomplete": {"complete": False}, "rows": {"count": 9}}.get(damage, {}))
    with pytest.raises(StorageError, match=r"x\.h5"), open_shard(path):
        pass


def test_the_cache_gives_what_it_got(tmp_path):
    made, output = tmp_path / "made.h5", tmp_path / "run" / "output.h5"
    write_shard(made, IDS, vectors(4), {})
    entry = CacheEntry.of(tmp_path / "cache", "esm2", "key", "abc")
    assert not entry.fetch(output)
    with entry.claimed():
        entry.keep(made)
    assert entry.fetch(output)
    assert output.read_bytes() == made.read_bytes()
    assert entry.fetch(output), "again, over the same file"
    os.utime(output, (0, 0))
    assert made.stat().st_mtime > 0, "another run's date is its own: else Snakemake would go over that run again"
    assert not list(tmp_path.rglob("*.tmp"))
    listed = CliRunner().invoke(cli, ["cache", "list", str(tmp_path / "cache")])
    assert listed.output.splitlines()[1].split("\t")[:3] == ["esm2", "key", "1"]
    assert [group.shards for group in list_cache(tmp_path / "cache")] == [1]


def test_a_damaged_entry_is_not_given(tmp_path):
    entry = CacheEntry.of(tmp_path, "esm2", "key", "abc")
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"half of an HDF5 file")
    assert not entry.fetch(tmp_path / "output.h5")
    assert not entry.path.exists() and not (tmp_path / "output.h5").exists()


def test_pruning_keeps_what_was_used_lately(tmp_path):
    made = tmp_path / "made.h5"
    write_shard(made, IDS, vectors(4), {})
    entry = CacheEntry.of(tmp_path / "cache", "esm2", "key", "0a" * 16)
    with entry.claimed():
        entry.keep(made)
    assert prune_cache(tmp_path / "cache", 1) == (0, 0)
    time.sleep(0.05)
    assert prune_cache(tmp_path / "cache", 0)[0] == 1
    assert made.exists() and not entry.fetch(tmp_path / "x.h5")


def test_the_second_waits_for_the_first(tmp_path):
    entry = CacheEntry.of(tmp_path, "esm2", "key", "abc")
    order = []

    def second():
        with entry.claimed():
            order.append("second")

    with entry.claimed():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.fixture
def parts(tmp_path):
    """A shard folder's manifest, both encoders and their vectors of one shard."""
    shards = tmp_path / "shards"
    shards.mkdir()
    entry = {"sha": "abc", "frames": len(IDS), "bases": 1, "residues": 1, "fna_sha256": "", "faa_sha256": ""}
    manifest = {"format": 2, "chunk_length": 500, "shard_frames": 9, "rna_as_dna": True, "frames": len(IDS)}
    place = {"first": {"frames": 0, "partial": 0}, "frames": len(IDS), "partial": 0}
    manifest |= {"partial": 0, "samples": {"s": place}, "shards": [entry], "partial_shards": []}
    (shards / "samples" / "s").mkdir(parents=True)
    (shards / "manifest.json").write_text(json.dumps(manifest))
    own = {"chunk_length": 500, "records": 1, "bases": 1, "chunks": 5, "frames": len(IDS), "partial": 0, "files": []}
    (shards / "samples" / "s" / "manifest.json").write_text(json.dumps(own))
    dna = write_encoder(
        DNABERT(DNABERTConfig(1, 16, 1, 16), tokenizer_json=bpe(["ACGT"])), tmp_path / "dna.st", name="d"
    )
    protein = write_encoder(ESM2(ESM2Config(1, 32, 1, 16)), tmp_path / "protein.st", name="p")
    for role, spec in (("dna", dna), ("protein", protein)):
        (tmp_path / role).mkdir()
        attributes = {"weights_sha256": spec.weights_sha256, "seconds": 1.0, "gpu_seconds": 0.5}
        attributes |= {"job_seconds": 2.0, "cpu_seconds": 3.0, "max_rss": 4.0}
        write_shard(tmp_path / role / "abc.h5", IDS, vectors(spec.width), attributes)
    return tmp_path


def run_merge(folder) -> int:
    files = ([folder / role / "abc.h5"] for role in ("dna", "protein"))
    return merge(folder / "shards", "s", *files, folder / "dna.st", folder / "protein.st", folder / "merged.h5")


def test_merged_rows_are_dna_then_protein(parts):
    assert run_merge(parts) == len(IDS)
    merged = MergedEmbeddings(parts / "merged.h5")
    batches = [merged.read(window) for window in merged.windows(rows=2)]
    assert [name for ids, _ in batches for name in ids] == IDS
    assert np.array_equal(np.concatenate([rows for _, rows in batches]), np.hstack([vectors(16), vectors(32)]))
    with h5py.File(merged.path) as file:
        assert file["dna"].is_virtual and file["protein"].is_virtual, "no copy"
        assert np.array_equal(file["dna"], vectors(16)) and np.array_equal(file["protein"], vectors(32))
    shards = merged.provenance["shards"]
    kept = "encoder", "key", "gpu_seconds", "job_seconds", "cpu_seconds", "max_rss"
    assert [tuple(shard[name] for name in kept) for shard in shards] == [
        (role, role, 0.5, 2.0, 3.0, 4.0) for role in ("dna", "protein")
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda ids, rows, digest: (ids[::-1], rows, digest), "frame ids differ"),
        (lambda ids, rows, digest: (ids, rows, "0" * 64), "other weights"),
        (lambda ids, rows, digest: (ids[:-1], rows[:-1], digest), r"holds \(4, 32\), expected \(5, 32\)"),
    ],
    ids=["order", "weights", "count"],
)
def test_what_does_not_belong_together_is_refused(parts, change, says):
    path = parts / "protein" / "abc.h5"
    with open_shard(path) as file:
        digest = file.attrs["weights_sha256"]
    ids, rows, digest = change(IDS, vectors(32), digest)
    write_shard(path, ids, rows, {"weights_sha256": digest})
    with pytest.raises(StorageError, match=says):
        run_merge(parts)
    assert not (parts / "merged.h5").exists()


def test_an_encoder_too_large_for_the_gpu(tmp_path, monkeypatch):
    write_encoder(ESM2(ESM2Config(1, 32, 2, 64)), tmp_path / "m.safetensors", name="m")

    def too_large(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loading, "load_encoder", too_large)
    with pytest.raises(ConfigError, match=r"m\.safetensors doesn't fit in the memory of cpu .* smaller model"):
        compute(tmp_path / "m.safetensors", ["a"], [b"MK"], Settings(), "cpu")


def test_an_error_while_vectors_are_computed_is_not_blamed_on_their_file(tmp_path):
    with pytest.raises(OSError, match="No space") as elsewhere, create_shard(tmp_path / "x.h5", ["a"], 3):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert elsewhere.value.filename is None


def test_a_jobs_memory_is_not_that_of_who_started_it():
    job = "from virnucpro.provenance import resources_used as used; x = b'1' * {}; print(used(0.0).get('max_rss', 0))"
    parent = "import subprocess, sys; x = b'1' * {}; subprocess.run([sys.executable, '-c', {!r}])"
    for own, of_parent, least, most in ((0, 600_000_000, 0, 0), (300_000_000, 0, 300, 500)):
        command = [sys.executable, "-c", parent.format(of_parent, job.format(own))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert least <= float(said) <= most
