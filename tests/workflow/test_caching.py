"""What is computed again after which change: the table in docs/caching.md."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace

import pytest

from tests.workflow.conftest import coding
from tests.workflow.project import NONE, Project, copy_of, records
from tests.workflow.runner import ROOT
from virnucpro.outputs import REGIONS

EMBEDDINGS = ("results/s/embeddings.h5",)  # as a target, where nothing is asked of the tables


@pytest.mark.soak
def test_small_files_too(reference, tmp_path):
    """Snakemake compares what is below 1 MB by content."""
    project = copy_of(reference, tmp_path)
    os.utime(project.fasta)
    assert project.run().computed == NONE
    assert project.run().nothing_to_do
    project.write({"inserted": coding(98, 900)} | records())
    assert 1 <= sum(project.run(extra=EMBEDDINGS).computed.values()) <= 2


def test_only_what_changed_is_computed(reference, tmp_path, tiny):
    """With times alone, as for real shards, which are larger."""
    project = copy_of(reference, tmp_path, ("--max-checksum-file-size", "0"))
    tables, shards = project.tables(), project.shards()

    again = project.run()
    assert again.nothing_to_do and "results/s/report.html  what was found" in again.text, "the end is said, too"

    os.utime(project.fasta)
    os.utime(ROOT / "workflow" / "scripts" / "embed.py")
    assert project.run().computed == NONE, "touch of the input and of a script"
    assert project.run().nothing_to_do

    changed = project.run(tokens_per_batch=64, device="cpu", cache_dir=tmp_path / "cache", compile="true")
    assert changed.computed == NONE, "batch size, device, compile"
    assert project.tables() == tables

    assert project.run(threshold=0.3).computed == NONE, "threshold"
    assert project.run("esm_a", "classifier_b").computed == NONE, "classifier"
    assert project.tables()["prediction_results.txt"] != tables["prediction_results.txt"]

    other = project.run("esm_b")
    assert other.computed == {"embed_dnabert_s": 0, "embed_esm2": shards}, "ESM-2 model"
    assert project.tables()["prediction_results.txt"] != tables["prediction_results.txt"]
    assert project.run().computed == NONE, "back to the earlier model"
    assert project.tables() == tables

    for content in (
        records() | {"appended": coding(99, 900)},
        {"inserted": coding(98, 900)} | records(),
        {name: sequence for name, sequence in records().items() if name != "r3"},
    ):
        project.write(content)
        again = project.run(extra=EMBEDDINGS)
        assert all(count <= 1 for count in again.computed.values()), again.computed
        assert (sum(again.computed.values()) > 0) == ("r3" in content), "without one, all others' vectors are known"


@pytest.mark.soak
def test_models_that_were_moved(reference, tmp_path):
    """As with a clone in another place, or another folder of published models: the same content, another path."""
    project = copy_of(reference, tmp_path)
    tables, shards = project.tables(), project.shards()
    shutil.copytree(project.models.folder, tmp_path / "moved")
    moved = Project(tmp_path, replace(project.models, folder=tmp_path / "moved"))
    assert moved.run().computed == NONE
    assert moved.tables() == tables
    assert moved.run("esm_b").computed == {"embed_dnabert_s": 0, "embed_esm2": shards}
    assert project.run().computed == NONE
    assert project.tables() == tables
    assert project.run().nothing_to_do


@pytest.mark.soak
def test_another_model_after_the_shards_were_deleted(reference, tmp_path):
    project = copy_of(reference, tmp_path)
    tables, shards = project.tables(), project.shards()
    shutil.rmtree(tmp_path / "results" / "s" / "shards")
    assert project.run().computed == NONE, "finished results need no shards"
    assert project.run("esm_b").computed == {"embed_dnabert_s": 0, "embed_esm2": shards}
    assert project.tables() != tables


def test_what_follows_from_the_tables_is_made_again(reference, tmp_path):
    project = copy_of(reference, tmp_path)
    folder = tmp_path / "results" / "s"
    viral = (folder / "viral.fasta.gz").read_bytes()
    regions = {name: (folder / name).read_bytes() for name in REGIONS.values()}
    for name in ("viral.fasta.gz", "regions.bed"):
        (folder / name).unlink()
    again = project.run()
    assert set(re.findall(r"^(?:local)?rule (\w+):", again.text, flags=re.M)) == {"predict", "all"}
    assert (folder / "viral.fasta.gz").read_bytes() == viral
    assert {name: (folder / name).read_bytes() for name in REGIONS.values()} == regions

    assert project.run(threshold=0.99).computed == NONE
    assert (folder / "viral.fasta.gz").read_bytes() != viral


@pytest.mark.soak
def test_one_encoder_alone(reference, tmp_path):
    project = copy_of(reference, tmp_path)
    shards = project.shards()
    for name in ("s", "embeddings"):
        shutil.rmtree(tmp_path / "results" / name)
    assert project.run(extra=("all_esm2",)).computed == {"embed_dnabert_s": 0, "embed_esm2": shards}
    assert project.run(extra=("all_esm2",)).nothing_to_do
    assert project.run(extra=("all_dnabert_s",)).computed == {"embed_dnabert_s": shards, "embed_esm2": 0}
    assert not (tmp_path / "results" / "s" / "embeddings.h5").exists()
    assert project.run(extra=("all_embeddings",)).computed == NONE
    assert (tmp_path / "results" / "s" / "embeddings.h5").exists()
