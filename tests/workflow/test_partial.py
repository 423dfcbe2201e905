"""Partial frames through the command that users type: scored if wanted, beside frames that stay what they are."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import h5py
import numpy as np

from tests.workflow.conftest import coding, fasta
from tests.workflow.runner import snakemake

NONE = {"embed_dnabert_s": 0, "embed_esm2": 0}
ONE = {"embed_dnabert_s": 1, "embed_esm2": 1}


def random_bases(seed: int, bases: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), bases))


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / "results" / "s" / name, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_they_are_scored_beside_the_frames(tmp_path, tiny):
    records = {"coding": coding(1, 700), **{f"r{seed}": random_bases(seed, 900) for seed in range(4)}, "n": "N" * 400}
    (tmp_path / "s.fa").write_text(fasta(records))
    (tmp_path / "sheet.tsv").write_text("sample\tfasta\ns\ts.fa\n")
    config = tiny.config() | {"samples": "sheet.tsv", "shard_frames": 1000}

    def run(**changes: object):
        return snakemake(tmp_path, config=config | changes).ok()

    assert run().computed == ONE, "the classifier isn't known to be for partial ones"
    frames, compatible = rows(tmp_path, "predictions.tsv"), rows(tmp_path, "prediction_results.txt")
    before = rows(tmp_path, "chunks.tsv")
    assert {row["reason"] for row in before if row["call"] == "unscored"} == {"no_stop_free_frame"}

    assert run(partial_frames="true").computed == ONE, "only theirs"
    chunks = rows(tmp_path, "chunks.tsv")
    partial = [row["kind"] for row in chunks].count("partial")
    logs = [path.read_text() for path in (tmp_path / "results" / "logs").rglob("*.log")]
    assert sum(f", {partial} partial frames, {partial} distinct" in log for log in logs) == 2, "a job per encoder"
    assert any(re.search(rf"merged \d+ frames and {partial} partial frames from", log) for log in logs)
    kinds = {row["chunk_id"]: row["kind"] for row in chunks}
    assert list(kinds.values()).count("partial") > 5
    assert [row for row in chunks if row["kind"] == "frame"] == [row for row in before if row["kind"] == "frame"]
    assert {row["reason"] for row in chunks if row["record"] == "n"} == {"no_stretch"}
    for row in (row for row in chunks if row["kind"] == "partial"):
        first, last = int(row["part_start"]), int(row["part_end"])
        assert int(row["start"]) <= first and last <= int(row["end"])
        assert (last - first + 1) % 3 == 0 and last - first + 1 >= 60
    assert rows(tmp_path, "predictions.tsv") == frames
    assert rows(tmp_path, "prediction_results.txt") == compatible
    with h5py.File(tmp_path / "results" / "s" / "embeddings.h5") as file:
        ids = file["partial/ids"].asstr()[:].tolist()
        assert [name.rpartition(":")[0][:-2] for name in ids] == [name for name in kinds if kinds[name] == "partial"]
        assert np.isfinite(file["partial/dna"][:]).all() and len(file["partial/protein"]) == len(ids)

    again = run(partial_frames="true")
    assert again.nothing_to_do
    assert run(partial_frames="false").computed == NONE
    assert rows(tmp_path, "chunks.tsv") == before
    assert run(partial_frames="true", keep="merged").computed == NONE, "their vectors are there"
    assert rows(tmp_path, "chunks.tsv") == chunks
