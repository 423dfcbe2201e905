"""What version 0.1 wrote in each format is still read, and means the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.tables import read
from virnucpro.calls.predict import Outputs, predict
from virnucpro.calls.rules import Rules
from virnucpro.embeddings.key import embedding_key
from virnucpro.embeddings.merge import merge
from virnucpro.embeddings.shard import compute
from virnucpro.embeddings.store import MergedEmbeddings, open_shard
from virnucpro.encoders.spec import read_spec
from virnucpro.errors import StorageError
from virnucpro.provenance import read_provenance
from virnucpro.sequences.split import read_manifest, read_shard, split_samples
from virnucpro.settings.configfile import read_config
from virnucpro.settings.options import Settings
from virnucpro.settings.validation import resolve

EARLIER = Path(__file__).parents[1] / "data" / "v0.1"
SAMPLE = EARLIER / "output" / "s"
MODELS = {"dnabert_s": EARLIER / "models" / "dnabert.safetensors", "esm2": EARLIER / "models" / "esm_a.safetensors"}
LETTERS = {"dnabert_s": "fna", "esm2": "faa"}
MANIFEST = json.loads((SAMPLE / "shards" / "manifest.json").read_text())
SHARDS = [shard["sha"] for shard in MANIFEST["shards"]]


def vectors_of(encoder: str, sha: str) -> Path:
    """A shard's file under the name that today's code looks for."""
    return SAMPLE / "embeddings" / encoder / embedding_key(read_spec(MODELS[encoder]), "auto") / f"{sha}.h5"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The sample's shard folder, split anew."""
    folder = tmp_path_factory.mktemp("earlier") / "shards"
    split_samples({"s": [EARLIER / "input.fa"]}, folder, MANIFEST["chunk_length"], MANIFEST["shard_frames"])
    return folder


def test_shards_are_made_anew_and_have_the_same_names_so_that_vectors_are_found(shards):
    with pytest.raises(StorageError, match=r"not a manifest of format 2.*Delete the shard folder and run again"):
        read_manifest(SAMPLE / "shards")
    assert [shard["sha"] for shard in read_manifest(shards)["shards"]] == SHARDS
    for sha in SHARDS:
        for letters in ("fna", "faa"):
            assert (shards / f"{sha}.{letters}").read_bytes() == (SAMPLE / "shards" / f"{sha}.{letters}").read_bytes()


@pytest.mark.parametrize("encoder", MODELS)
def test_vectors_and_prepared_models(encoder, shards):
    for sha in SHARDS:
        ids, sequences = read_shard(shards / f"{sha}.{LETTERS[encoder]}")
        again = compute(MODELS[encoder], ids, sequences, Settings(), "cpu").vectors
        with open_shard(vectors_of(encoder, sha)) as file:
            assert file["ids"].asstr()[:].tolist() == ids
            assert file.attrs["weights_sha256"] == read_spec(MODELS[encoder]).weights_sha256
            assert np.abs(file["embeddings"][:] - again).max() < 1e-5


def test_merged_vectors(tmp_path, shards):
    files = ([vectors_of(encoder, sha) for sha in SHARDS] for encoder in MODELS)
    assert merge(shards, "s", *files, *MODELS.values(), tmp_path / "e.h5") == 9
    before, now = (MergedEmbeddings(path) for path in (SAMPLE / "embeddings.h5", tmp_path / "e.h5"))
    (ids, vectors), (same_ids, same) = (file.read(slice(0, 9)) for file in (before, now))
    assert ids == same_ids and np.array_equal(vectors, same)
    assert before.provenance["dna_encoder"]["weights_sha256"] == now.provenance["dna_encoder"]["weights_sha256"]


def test_the_classifier_and_the_tables(tmp_path, shards):
    names = {
        "predictions": "predictions.tsv",
        "chunks": "chunks.tsv",
        "contigs": "contigs.tsv",
        "summary": "summary.json",
    }
    names |= {"results": "prediction_results.txt", "highest": "prediction_results_highestscore.csv"}
    names |= {"chunk_scores": "chunk_scores.tsv"}
    predict(
        SAMPLE / "embeddings.h5", EARLIER / "models" / "classifier_a.safetensors", shards, "s",
        Outputs(**{name: tmp_path / file for name, file in names.items()}), Rules(chunk_length=300),
        encoders=tuple(MODELS.values()),
    )  # fmt: skip
    for file in set(names.values()) - {"summary.json", "chunk_scores.tsv"}:
        before, now = (read(folder / file) for folder in (SAMPLE, tmp_path))
        assert len(before) == len(now) > 0
        for old, new in zip(before, now, strict=True):
            assert old.keys() <= new.keys()
            for key, value in old.items():
                value = value.replace("no_open_frame", "unscored")  # as it was called
                assert new[key] == value or float(new[key]) == pytest.approx(float(value), abs=1e-6), f"{file}: {key}"


def test_the_configuration():
    settings = resolve(read_config(EARLIER / "config.yaml"))
    assert (settings.chunk_length, settings.shard_frames, settings.esm_model) == (300, 12, "models/esm_a.safetensors")


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("output/s/contigs.tsv", "run"),
        ("output/s/embeddings.h5", "run"),
        ("output/s/shards", "run"),
        ("models/esm_a.safetensors", "weights_sha256"),
        ("models/classifier_a.safetensors", "weights_sha256"),
    ],
)
def test_the_record_of_their_making(file, key):
    found = read_provenance(EARLIER / file)
    assert found[key] and (key != "run" or found["run"]["versions"]["virnucpro"] == "0.1.0")
    assert read_provenance(vectors_of("esm2", SHARDS[0]))["configuration_sha256"]
