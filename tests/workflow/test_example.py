"""The default run: no configuration file, no GPU, the bundled example and models."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections import Counter

import h5py
import pytest

from tests.workflow.runner import ROOT, environment, snakemake
from virnucpro.sequences.read import read_fasta

OTHERS = {"non-viral": 14, "ambiguous": 1}  # of the contigs that aren't viral
HAS_BF16 = "from virnucpro.encoders.device import Device; print(Device('cpu').has_bf16_products)"


def test_default_run_gives_every_result(tmp_path):
    run = snakemake(tmp_path).ok()
    folder = tmp_path / "results" / "example"
    summary = json.loads((folder / "summary.json").read_text())
    table = {
        name: list(csv.DictReader(open(folder / f"{name}.tsv"), delimiter="\t"))
        for name in ("contigs", "chunks", "predictions")
    }
    headers = [
        line[1:].split()[0]
        for line in (ROOT / "resources/example/contigs.fa").read_text().splitlines()
        if line[0] == ">"
    ]
    assert [row["record"] for row in table["contigs"]] == headers
    assert len(table["chunks"]) == summary["chunks"] == sum(int(row["chunks"]) for row in table["contigs"])
    assert len(table["predictions"]) == summary["frames"] == sum(int(row["open_frames"]) for row in table["chunks"])
    embedded = summary["frames"] + summary["partial_chunks"]
    assert f"embedded {embedded} of {embedded} frames (100 %), " in run.text
    kinds = [row["kind"] for row in table["chunks"]]
    assert summary["scored_chunks"] == len(kinds) - kinds.count("") and kinds.count("") == 1
    assert kinds.count("partial") == summary["partial_chunks"] > summary["chunks"] / 2
    calls = {row["record"]: row["call"] for row in table["contigs"]}
    with open(ROOT / "resources/example/labels.tsv") as file:
        labels = {row["id"]: row["label"] for row in csv.DictReader(file, delimiter="\t")}
    assert {calls[record] for record, label in labels.items() if label == "viral"} == {"viral"}
    assert Counter(calls[record] for record, label in labels.items() if label == "non-viral") == OTHERS
    assert all((row["reason"] == "between_thresholds") == (row["call"] == "ambiguous") for row in table["contigs"])
    assert all(0 <= float(row["probability"]) <= 1 for row in table["contigs"])
    assert summary["prevalence"]["reason"], "20 contigs tell no prevalence"
    viral = [row["record"] for row in table["contigs"] if row["call"] == "viral"]
    found = [line[1:].split()[0] for line in gzip.open(folder / "viral.fasta.gz", "rt") if line[0] == ">"]
    assert found == viral
    assert_regions(folder, table["contigs"], summary["regions"])
    assert "VirNucPro: example" in (folder / "report.html").read_text()
    for name in ("prediction_results.txt", "prediction_results_highestscore.csv", "embeddings.h5"):
        assert (folder / name).stat().st_size > 0
    logs = [path.relative_to(tmp_path / "results/logs").parts[0] for path in (tmp_path / "results/logs").rglob("*.log")]
    assert {"split", "merge", "predict", "embed_dnabert_s", "embed_esm2"} <= set(logs)
    with h5py.File(folder / "embeddings.h5") as file:
        provenance = json.loads(file["provenance"].asstr()[()])
    jobs = provenance["shards"]
    assert all(provenance["jobs"][rule]["job_seconds"] > 0 for rule in ("split", "merge"))
    assert all(job["seconds"] < job["job_seconds"] < 600 and 100 < job["max_rss"] < 4000 for job in jobs)


@pytest.mark.ci  # time
def test_calls_are_the_same_in_bf16(tmp_path):
    """With the processor's own instructions, where it multiplies bf16 numbers."""
    said = subprocess.run([sys.executable, "-c", HAS_BF16], capture_output=True, text=True, check=True).stdout
    if said.strip() != "True":
        pytest.skip("this processor doesn't multiply bf16 numbers")
    calls, ways = {}, {}
    for precision, used in (("fp32", "avx2"), ("auto", "avx512")):
        folder = tmp_path / precision
        folder.mkdir()
        snakemake(folder, config={"precision": precision}, ATEN_CPU_CAPABILITY=used).ok()
        with open(folder / "results/example/contigs.tsv") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        calls[precision] = {row["record"]: row["call"] for row in rows}
        made = json.loads((folder / "results/example/summary.json").read_text())["computed"]
        ways[precision] = {way["precision"] for role in made.values() for way in role}
    assert ways == {"fp32": {"fp32"}, "auto": {"bf16"}} and calls["auto"] == calls["fp32"]


def assert_regions(folder, contigs, counts):
    """The four files of regions and the summary say the same, of the sequences in the input."""
    with open(folder / "regions.tsv") as file:
        regions = list(csv.DictReader(file, delimiter="\t"))
    assert counts["regions"] == len(regions) > 0 and counts["records"] == len({row["record"] for row in regions})
    lengths, calls = ({row["record"]: row[name] for row in contigs} for name in ("length", "call"))
    for row in regions:
        assert row["call"] == calls[row["record"]] and float(row["lowest_posterior"]) >= 0.5
        assert (row["extent"] == "whole") == ((row["start"], row["end"]) == ("1", lengths[row["record"]]))
    assert "viral" in {row["call"] for row in regions}
    places = [(row["record"], row["start"], row["end"]) for row in regions]
    lines = (folder / "regions.gff3").read_text().splitlines()
    assert [(cells[0], *cells[3:5]) for line in lines if line[0] != "#" for cells in [line.split("\t")]] == places
    bed = [line.split("\t") for line in (folder / "regions.bed").read_text().splitlines()]
    assert [(record, str(int(start) + 1), end) for record, start, end, *_ in bed] == places
    inputs = {each.id: each.sequence for each in read_fasta(ROOT / "resources/example/contigs.fa")}
    sequences = list(read_fasta(folder / "viral_regions.fasta.gz"))
    assert [each.id for each in sequences] == [row["region"] for row in regions]
    for each, (record, start, end) in zip(sequences, places, strict=True):
        assert each.sequence == inputs[record][int(start) - 1 : int(end)]
        assert each.header.split()[1] == f"{record}:{start}-{end}"
    assert f"{len(regions)} viral regions in" in (folder / "report.html").read_text()


def test_the_catalogues_test():
    """What the Snakemake workflow catalog looks for."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", ".test", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and "prepare_encoder" in done.stdout + done.stderr, done.stderr
