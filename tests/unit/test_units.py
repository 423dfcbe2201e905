"""Which samples are split together, and what is known of each of them afterwards."""

from __future__ import annotations

import json
import logging
import os
import re
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflow.conftest import coding, fasta
from virnucpro.cli import cli, workflow
from virnucpro.cli.workflow import _changed as changed
from virnucpro.cli.workflow import _made_otherwise as made_otherwise
from virnucpro.errors import InputError
from virnucpro.outputs import GIVEN_CONTROLS
from virnucpro.provenance import other_options
from virnucpro.sequences.shards import KINDS
from virnucpro.sequences.split import (
    changed_inputs,
    iter_records,
    read_manifest,
    read_sample,
    read_shard,
    refusals,
    shard_folder,
    split_samples,
)
from virnucpro.sequences.units import units_of
from virnucpro.settings.options import Settings


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Files named by their size in hundreds of bytes."""
    folder = tmp_path_factory.mktemp("files")
    for size in range(60):
        (folder / f"{size}.fa").write_bytes(b"A" * 100 * size)
    (folder / "20.fa.gz").write_bytes(b"A" * 2000)
    return folder


def test_a_large_sample_is_alone_and_small_ones_share(files):
    sizes = {"b": "1.fa", "large": "50.fa", "a": "2.fa", "packed": "20.fa.gz", "c": "24.fa"}
    samples = {name: [files / size] for name, size in sizes.items()}
    units = units_of(samples, chunk_length=100, shard_frames=100)
    assert units == {"large": ("large",), "packed": ("packed",), "pooled/a": ("a", "b", "c")}
    assert units_of(dict(reversed(samples.items())), 100, 100) == units, "the order in the sheet plays no part"
    others = {"large": ("large",), "packed": ("packed",)}
    assert units_of(samples, 100, 100, unmade=["a"]) == others | {"a": ("a",), "pooled/b": ("b", "c")}


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=30, max_size=120), which=st.integers(0, 29))
def test_units_hold_each_sample_once_and_few_change_with_one(files, sizes, which):
    samples = {f"s{number:03d}": [files / f"{size}.fa"] for number, size in enumerate(sizes)}
    units = units_of(samples, 100, 100)
    assert sorted(name for members in units.values() for name in members) == sorted(samples)
    for members in units.values():
        frames = sum(os.stat(samples[name][0]).st_size // 100 for name in members)
        assert len(members) == 1 or frames <= 100
    fewer = units_of({name: path for name, path in samples.items() if name != f"s{which:03d}"}, 100, 100)
    assert len(set(units.values()) - set(fewer.values())) <= 4


@pytest.fixture
def shared(tmp_path):
    """A unit of three samples, one of which is refused."""
    content = {"a": {"r": coding(1, 1500)}, "b": {"r": coding(2, 900), "q": coding(3, 700)}, "bad": {"r": "ACGT!"}}
    samples = {name: [tmp_path / f"{name}.fa"] for name in content}
    for name, records in content.items():
        samples[name][0].write_text(fasta(records))
    return samples, tmp_path / "shards"


def test_a_sample_of_several_has_its_rows(shared):
    samples, folder = shared
    split_samples(samples, folder, 300, 4)
    found = read_manifest(folder)
    assert len(found["shards"]) > 2 and list(refusals(folder)) == ["bad"] and "bad.fa" in refusals(folder)["bad"]
    with pytest.raises(InputError, match=r"bad\.fa"):
        read_sample(folder, "bad")
    alone = folder.with_name("alone")
    for name in "ab":
        split_samples({name: samples[name]}, alone, 300, 4)
        rows = {}
        for place in (folder, alone):
            for kind, pieces in read_sample(place, name)["pieces"].items():
                texts = [read_shard(shard_folder(place, kind) / f"{piece['sha']}.fna") for piece in pieces]
                frames = [
                    list(zip(*text, strict=True))[piece["first"] :][: piece["frames"]]
                    for text, piece in zip(texts, pieces, strict=True)
                ]
                rows[place, kind] = [frame for part in frames for frame in part]
        for kind in KINDS:
            assert rows[folder, kind] == rows[alone, kind]
            assert len(rows[alone, kind]) == read_manifest(alone)[kind]
        assert list(iter_records(folder, name)) == list(iter_records(alone, name))
        own = [place / "samples" / name / "manifest.json" for place in (folder, alone)]
        assert own[0].read_bytes() == own[1].read_bytes(), "it depends on the sample alone"


def test_the_log_of_one_says_one(tmp_path, caplog):
    (tmp_path / "a.fa").write_text(fasta({"r": coding(1, 300)}))
    with caplog.at_level(logging.INFO):
        split_samples({"a": [tmp_path / "a.fa"]}, tmp_path / "shards", 300, 100)
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("1 record, 1 chunk, ")
    assert last.startswith("1 sample, ") and " in 1 shard and " in last
    assert not re.search(r"\b1 (partial )?\w+s\b", first + last)


def test_other_files_are_noticed_those_of_a_refused_sample_too(shared):
    samples, folder = shared
    split_samples(samples, folder, 300, 4)
    assert changed_inputs(folder, samples) == []
    for name in ("b", "bad"):
        os.utime(samples[name][0], (1e9, 1e9))
    assert changed_inputs(folder, samples) == ["b", "bad"]


def test_if_all_are_refused_there_is_no_folder(shared):
    samples, folder = shared
    for path, *_ in samples.values():
        path.write_text(">r\nACGT!\n")
    with pytest.raises(InputError, match="None of the samples can be read"):
        split_samples(samples, folder, 300, 4)
    assert not folder.exists()


def test_results_of_other_options_are_known_by_their_summary(tmp_path):
    now = {"threshold": 0.5, "classifier": "c", "chunk_length": 500, "device": "cpu"}
    assert other_options(tmp_path, now) == set()
    made = now | {"threshold": 0.7, "chunk_length": 300, "device": "cuda"}
    (tmp_path / "summary.json").write_text(json.dumps({"configuration": made}))
    assert other_options(tmp_path, now) == {"threshold", "chunk_length"}
    (tmp_path / "summary.json").write_text("{}")
    assert other_options(tmp_path, now) == set()


def sample_with_results(folder: Path, **configuration):
    (folder / "out" / "s").mkdir(parents=True)
    (folder / "out" / "s" / "summary.json").write_text(json.dumps({"configuration": configuration}))
    files = {name: folder / f"{name}.fa" for name in ("s", "host")}
    for name, path in files.items():
        path.write_text(fasta({name: coding(len(name), 900)}))
    split_samples({"s": [files["s"]]}, folder / "out" / "s" / "shards", 500, 100)
    split_samples({GIVEN_CONTROLS: [files["host"]]}, folder / "out" / GIVEN_CONTROLS / "shards", 500, 100)
    return files


def test_other_controls_are_noticed_where_snakemake_remembers_nothing(tmp_path):
    files = sample_with_results(tmp_path)
    samples, out = {"s": [files["s"]]}, tmp_path / "out"
    found = partial(changed, out, samples, Settings(chunk_length=500, control_fasta=str(files["host"])))
    assert found() == []
    os.utime(files["host"], (1, 1))
    assert found() == [f"{out}/{GIVEN_CONTROLS}/shards", "make_controls"]
    assert changed(out, samples, Settings(chunk_length=500)) == [], "they aren't wanted"
    os.utime(files["s"], (1, 1))
    with_shuffled = changed(out, samples, Settings(chunk_length=500, controls=3))
    assert with_shuffled == [f"{out}/s/shards", f"{out}/control_sets/s/controls.fasta"]


@pytest.mark.parametrize(
    "words", [["--forcerun", "predict", "merge", "--keep-going"], ["-k", "-R", "predict", "merge"]]
)
def test_what_the_user_makes_again_comes_to_what_has_to_be(tmp_path, monkeypatch, words):
    """Snakemake heeds the last of two lists alone."""
    files = sample_with_results(tmp_path)
    os.utime(files["s"], (1, 1))
    started = []
    monkeypatch.setattr(workflow, "run_workflow", lambda work, arguments: started.extend(arguments) or 0)
    command = ["predict", str(files["s"]), f"--output={tmp_path}/out", "--chunk-length=500"]
    assert CliRunner().invoke(cli, command, obj=words).exit_code == 0
    first = started.index("--forcerun") + 1
    assert started[first : first + 3] == [f"{tmp_path}/out/s/shards", "predict", "merge"]
    assert started.count("--forcerun") + started.count("-R") == 1 and started[-1] in ("--keep-going", "-k")


def test_controls_of_other_options_are_made_again_with_their_sample(tmp_path, monkeypatch):
    files = sample_with_results(tmp_path, min_length=0, precision="fp32", control_fasta="former.fa", controls=0)
    host, out = str(files["host"]), tmp_path / "out"
    tables = [f"{out}/{name}/contigs.tsv" for name in ("s", GIVEN_CONTROLS)]
    assert made_otherwise(out, ["s"], Settings(precision="fp32", control_fasta=host)) == tables
    tables = [f"{out}/{name}/contigs.tsv" for name in ("s", "control_sets/s")]
    again = [*tables, f"{out}/control_sets/s/controls.fasta"]
    assert made_otherwise(out, ["s"], Settings(precision="fp32", controls=2, control_fasta=None)) == again
    other = Settings(precision="fp16", control_fasta="former.fa")
    assert made_otherwise(out, ["s"], other) == [
        f"{out}/{name}/{file}" for name in ("s", GIVEN_CONTROLS) for file in ("contigs.tsv", "embeddings.h5")
    ]
    monkeypatch.setattr(workflow, "MOST_FORCED", 3)
    assert made_otherwise(out, ["s"], other) == ["merge", "predict", "score_controls"]
