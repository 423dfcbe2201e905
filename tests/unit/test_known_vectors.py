"""A shard job embeds each sequence once, and takes from former results what they hold."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.unit.encoder_fixtures import ROOT, bpe_json, dna, proteins, random_dnabert, random_esm2
from virnucpro.classifier.scoring import load_scorer
from virnucpro.embeddings import shard as shard_job
from virnucpro.embeddings.distinct import DistinctSequences
from virnucpro.embeddings.key import embedding_key
from virnucpro.embeddings.merge import merge
from virnucpro.embeddings.shard import compute, embed_shard
from virnucpro.embeddings.store import MergedEmbeddings, open_shard, write_shard
from virnucpro.encoders.loading import write_encoder
from virnucpro.encoders.spec import read_spec
from virnucpro.sequences.split import read_manifest, read_shard, split_samples
from virnucpro.settings.options import Settings

SETTINGS = Settings(device="cpu", batching="single")  # no vector depends on its neighbours
KINDS = {"dna": "fna", "protein": "faa"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_encoder(random_dnabert(tokenizer=bpe_json()), folder / "dna.st", name="d")
    write_encoder(random_esm2(), folder / "protein.st", name="p")
    return {role: folder / f"{role}.st" for role in KINDS}


class Run:
    """A sample, shard by shard."""

    def __init__(self, folder: Path, models: dict[str, Path], records: list[bytes], settings: Settings = SETTINGS):
        self.folder, self.models, self.settings = folder, models, settings
        folder.mkdir(parents=True)
        (folder / "in.fa").write_bytes(b"".join(b">r%d\n%s\n" % pair for pair in enumerate(records)))
        split_samples({"s": [folder / "in.fa"]}, folder / "shards", chunk_length=300, shard_frames=10_000)
        self.shas = [each["sha"] for each in read_manifest(folder / "shards")["shards"]]

    def text(self, role: str, sha: str) -> Path:
        return self.folder / "shards" / f"{sha}.{KINDS[role]}"

    def vectors(self, role: str, sha: str) -> Path:
        key = embedding_key(read_spec(self.models[role]), self.settings.precision, self.settings.batching)
        return self.folder / "embeddings" / role / key / f"{sha}.h5"

    def embed(self, known=(), settings: Settings | None = None) -> list[bool]:
        return [
            embed_shard(self.text(role, sha), self.models[role], self.vectors(role, sha), settings or self.settings, 1,
                        known=known)
            for role in KINDS for sha in self.shas
        ]  # fmt: skip

    def merge(self, **options) -> Path:
        output = self.folder / "embeddings.h5"
        files = ([self.vectors(role, sha) for sha in self.shas] for role in KINDS)
        merge(self.folder / "shards", "s", *files, *self.models.values(), output, **options)
        return output


def bits(path: Path) -> dict[bytes, bytes]:
    """Digest → vector, of a shard's file."""
    with open_shard(path) as file:
        return {
            key.tobytes(): row.tobytes() for key, row in zip(file["digests"][:], file["embeddings"][:], strict=True)
        }


RECORDS = dna([600] * 5, seed=3, letters=b"ACG")  # no T, so no stop on the forward strand


def test_equal_sequences_are_embedded_once(tmp_path, models, caplog):
    caplog.set_level(logging.INFO)
    run = Run(tmp_path / "s", models, [*RECORDS, *RECORDS[1:4], RECORDS[2]])
    assert run.embed() == [True] * 2
    for role in KINDS:
        (sha,) = run.shas
        ids, sequences = read_shard(run.text(role, sha))
        expected = compute(models[role], ids, sequences, SETTINGS, "cpu").vectors
        with open_shard(run.vectors(role, sha)) as file:
            assert np.array_equal(file["embeddings"], expected)
            assert file["ids"].asstr()[:].tolist() == ids
            assert np.array_equal(file["digests"], DistinctSequences(sequences).digests)
            distinct = len(set(sequences))
            assert file.attrs["distinct"] == file.attrs["computed"] == distinct < len(ids) == file.attrs["count"]
            assert file.attrs["packs"] == distinct
        assert f"{len(ids)} frames, {distinct} distinct, vectors of 0 known" in caplog.text


def test_rows_and_distinct_sequences():
    found = DistinctSequences([b"A", b"C", b"A", b"G", b"C", b"A"])
    assert found.first.tolist() == [0, 1, 3] and len(found) == 3
    assert [part.tolist() for part in found.rows(np.array([2, 0]))] == [[0, 2, 3, 5], [1, 1, 0, 1]]
    assert found.find(DistinctSequences([b"G", b"T", b"A"]).digests).tolist() == [2, -1, 0]
    nothing = DistinctSequences([])
    assert len(nothing) == 0 and nothing.digests.shape == (0, 16)
    assert nothing.find(found.digests).tolist() == [-1] * 6


@pytest.fixture(scope="module")
def former(tmp_path_factory, models):
    """Finished results of some of the records."""
    run = Run(tmp_path_factory.mktemp("former") / "old", models, RECORDS[:3])
    run.embed()
    return run, run.merge()


@pytest.mark.parametrize("keep", ["shards", "merged"])
def test_known_vectors_are_copied_bit_for_bit(tmp_path, models, former, keep):
    before, _ = former
    run = Run(tmp_path / "s", models, [RECORDS[4], *RECORDS[1:3], RECORDS[2]])
    known = [tmp_path / "not there.h5", before.merge(keep=keep)]
    assert run.embed(known) == [True] * 2
    for role in KINDS:
        old, new = bits(before.vectors(role, before.shas[0])), bits(run.vectors(role, run.shas[0]))
        assert len(new.keys() & old.keys()) > 5 and len(new.keys() - old.keys()) > 1
        assert all(new[digest] == old[digest] for digest in new.keys() & old.keys())
        with open_shard(run.vectors(role, run.shas[0])) as file:
            assert file.attrs["computed"] == len(new.keys() - old.keys()) == file.attrs["packs"]
            assert file.attrs["distinct"] == len(new)
    provenance = MergedEmbeddings(run.merge()).provenance
    assert provenance["computed"]["dna"] == MergedEmbeddings(before.merge()).provenance["computed"]["dna"]


def test_where_all_is_known_neither_pytorch_nor_a_gpu_is_needed(tmp_path, models, former):
    _, known = former
    run = Run(tmp_path / "s", models, RECORDS[1:3])
    script = (
        "import sys; from pathlib import Path; from virnucpro.embeddings.shard import embed_shard\n"
        "from virnucpro.settings.options import Settings\n"
        "settings = Settings(device='cuda', batching='single', gpu_lease_dir='/nowhere', gpu_lease_timeout=0)\n"
        "text, model, output, known = map(Path, sys.argv[1:])\n"
        "print(embed_shard(text, model, output, settings, 1, known=[known]), 'torch' in sys.modules)"
    )
    for role in KINDS:
        given = map(str, (run.text(role, run.shas[0]), models[role], run.vectors(role, run.shas[0]), known))
        said = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True)
        assert said.stdout.strip() == "False False", said.stderr
    provenance = MergedEmbeddings(run.merge()).provenance
    assert provenance["computed"] == MergedEmbeddings(known).provenance["computed"], "how they were computed then"
    assert [(shard["device"], shard["computed"], shard["seconds"]) for shard in provenance["shards"]] == [
        ("none", 0, 0.0)
    ] * 2


def test_a_file_that_knew_can_go_and_its_successor_knows(tmp_path, models, former):
    _, known = former
    one, two = Run(tmp_path / "a", models, RECORDS[:2]), Run(tmp_path / "b", models, RECORDS[1:2])
    assert one.embed([known]) == [False] * 2
    assert two.embed([one.merge()]) == [False] * 2


@pytest.mark.parametrize("how", ["no HDF5", "foreign", "missing", "made anew", "not finite", "no sources"])
def test_what_cannot_be_used_is_passed_over_with_a_warning(tmp_path, models, caplog, how):
    before = Run(tmp_path / "old", models, RECORDS[:3])
    before.embed()
    known, shards = before.merge(), [before.vectors(role, before.shas[0]) for role in KINDS]
    if how == "no HDF5":
        known.write_bytes(b"no HDF5")
    elif how == "foreign":
        with h5py.File(known, "w") as file:
            file["x"] = [1]
    elif how == "missing":
        shards[0].unlink(), shards[1].unlink()
    elif how == "made anew":
        before.embed()
    elif how == "not finite":
        for path in shards:
            with h5py.File(path, "r+") as file:
                file["embeddings"][:] = np.nan
    else:
        with h5py.File(known, "r+") as file:
            del file["provenance"]
            file["provenance"] = "[]"
    run = Run(tmp_path / "s", models, RECORDS[1:3])
    assert run.embed([known]) == [True] * 2
    assert f"can't take vectors from {known}" in caplog.text
    run.merge()


@pytest.mark.parametrize("other", [{"precision": "fp32"}, {"batching": "packed"}, {"vectors": "float16"}])
def test_vectors_of_another_key_are_not_taken(tmp_path, models, former, other, caplog):
    run = Run(tmp_path / "s", models, RECORDS[1:3])
    assert run.embed([former[1]], replace(SETTINGS, **other)) == [True] * 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_vectors_of_version_0_1_are_computed_again(tmp_path, models, caplog):
    before = Run(tmp_path / "old", models, RECORDS[:3])
    before.embed()
    for role in KINDS:
        with h5py.File(before.vectors(role, before.shas[0]), "r+") as file:
            del file["digests"], file.attrs["id"], file.attrs["key"]
    known = before.merge()
    assert MergedEmbeddings(known).provenance["keys"]["dna"].endswith("-single"), "as their folder is called"
    assert Run(tmp_path / "s", models, RECORDS[1:3]).embed([tmp_path / "none.h5", known]) == [True] * 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], (
        "nothing is wrong with that, nor with a first run"
    )


def test_float16(tmp_path, models):
    """Stored as such; the key says so; reading gives what was stored."""
    settings, (plain, half) = replace(SETTINGS, vectors="float16"), (tmp_path / "plain", tmp_path / "half")
    one, two = Run(plain, models, RECORDS), Run(half, models, RECORDS)
    one.embed(), two.embed(settings=settings)
    for role in KINDS:
        with open_shard(one.vectors(role, one.shas[0])) as exact, open_shard(two.vectors(role, two.shas[0])) as stored:
            assert stored["embeddings"].dtype == np.float16
            assert np.array_equal(stored["embeddings"], exact["embeddings"][:].astype(np.float16))
            assert stored.attrs["key"] == exact.attrs["key"] + "-float16"
    known = two.merge()
    assert MergedEmbeddings(known).read(slice(0, 4))[1].dtype == np.float32
    three = Run(tmp_path / "again", models, RECORDS[2:4])
    assert three.embed([known], settings) == [False] * 2, "known vectors are taken as they are stored"
    for role in KINDS:
        assert bits(three.vectors(role, three.shas[0])).items() <= bits(two.vectors(role, two.shas[0])).items()


@pytest.mark.parametrize("length", [300, 500])
def test_scores_of_the_bundled_models_hardly_change_with_float16(tmp_path, length):
    """All frames of the bundled example."""
    models = {role: ROOT / "resources" / "models" / f"mini-{name}.safetensors"
              for role, name in (("dna", "dnabert-s"), ("protein", "esm2"))}  # fmt: skip
    split_samples({"s": [ROOT / "resources" / "example" / "contigs.fa"]}, tmp_path / "shards", length, 10_000)
    (sha,) = [each["sha"] for each in read_manifest(tmp_path / "shards")["shards"]]
    score, _ = load_scorer(ROOT / "resources" / "models" / f"mini-{length}.safetensors")
    scores, largest, settings = {}, 0.0, Settings(device="cpu")
    for kind in ("float32", "float16"):
        files = {role: tmp_path / kind / role / f"{sha}.h5" for role in KINDS}
        for role, suffix in KINDS.items():
            if kind == "float32":
                embed_shard(tmp_path / "shards" / f"{sha}.{suffix}", models[role], files[role], settings, 2)
                continue
            with open_shard(tmp_path / "float32" / role / f"{sha}.h5") as file:
                rows, ids = file["embeddings"][:], file["ids"].asstr()[:].tolist()
                write_shard(files[role], ids, rows, {"weights_sha256": file.attrs["weights_sha256"]}, vectors=kind)
            largest = max(largest, float(np.abs(rows).max()))
        merged = tmp_path / f"{kind}.h5"
        merge(tmp_path / "shards", "s", [files["dna"]], [files["protein"]], *models.values(), merged)
        vectors = MergedEmbeddings(merged)
        scores[kind] = score(vectors.features(slice(0, vectors.count))).scores[:, 1]
    change = np.abs(scores["float16"] - scores["float32"]).max()
    print(f"{len(scores['float32'])} frames: scores change by up to {change:.1e}; vectors' largest value {largest:.1f}")
    assert 0 < change < 1e-3
    assert largest < 10, "float16 holds 65,504"


def test_the_cache_keeps_what_was_copied(tmp_path, models, former):
    settings = replace(SETTINGS, cache_dir=str(tmp_path / "cache"))
    one, two = (Run(tmp_path / name, models, RECORDS[:2]) for name in "ab")
    assert one.embed([former[1]], settings) == [False] * 2
    assert two.embed((), settings) == [False] * 2


def test_many_equal_sequences_in_any_order(tmp_path, models, monkeypatch):
    """In packed batches, over several slices of tokens."""
    rng = np.random.default_rng(1)
    kinds = proteins(rng.integers(20, 60, 300).tolist())
    sequences = [kinds[number] for number in rng.integers(0, 300, 2000)]
    ids = [f"s{number}" for number in range(len(sequences))]
    monkeypatch.setattr(shard_job, "read_shard", lambda path: (ids, sequences))
    embed_shard(tmp_path / "x.faa", models["protein"], tmp_path / "x.h5", Settings(device="cpu"), 1)
    with open_shard(tmp_path / "x.h5") as file:
        found = file["embeddings"][:]
    expected = compute(models["protein"], ids, sequences, Settings(), "cpu").vectors
    assert np.abs(found - expected).max() < 1e-5
    assert len(np.unique(found, axis=0)) == len(set(sequences))
