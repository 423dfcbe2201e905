"""Samples at the edges of what answers can say, with the bundled models and the real command: one run for all of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.workflow.conftest import fasta
from tests.workflow.runner import ROOT, snakemake
from virnucpro.outputs import REGIONS

VIRAL, HOST = "NC_001422", "NM_001272973_up_2000_chr2L_2109879_r"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edges")
    texts = (ROOT / "resources/example/contigs.fa").read_text()[1:].split("\n>")
    contigs = {head.split()[0]: lines.replace("\n", "") for head, _, lines in (text.partition("\n") for text in texts)}
    samples = {
        "one": {"one": contigs[VIRAL]},
        "short": {f"s{start}": contigs[VIRAL][start : start + 400] for start in range(0, 1200, 400)},
        "none": {"none": contigs[HOST]},
        "every": {f"copy{number}": contigs[VIRAL] for number in range(35)},  # embedded once
        "blank": {"n": "N" * 800},
    }
    for name, records in samples.items():
        (folder / f"{name}.fa").write_text(fasta(records))
    (folder / "samples.tsv").write_text("sample\tfasta\n" + "".join(f"{name}\t{name}.fa\n" for name in samples))
    snakemake(folder, config={"samples": "samples.tsv"}).ok()
    return folder


def answers(folder: Path, sample: str) -> tuple[list[dict[str, str]], dict, str]:
    """Rows of contigs.tsv, summary.json, the page."""
    place = folder / "results" / sample
    with open(place / "contigs.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return rows, json.loads((place / "summary.json").read_text()), (place / "report.html").read_text()


def test_few_contigs_tell_no_prevalence(folder):
    for sample, calls in (("one", {"viral"}), ("short", {"viral", "ambiguous", "non-viral"}), ("none", {"non-viral"})):
        rows, summary, page = answers(folder, sample)
        assert {row["call"] for row in rows} <= calls and all(row["probability"] for row in rows)
        assert not any(row["q_value"] for row in rows)
        assert summary["prevalence"]["reason"] == "fewer than 30 contigs" and "can&#39;t be told (fewer than 30" in page
        for row in rows:
            assert row["chunks"] != "1" or row["call"] != "ambiguous" or "few_chunks" in row["reason"]


def test_all_viral(folder):
    rows, summary, page = answers(folder, "every")
    assert {row["call"] for row in rows} == {"viral"} and all(row["q_value"] for row in rows)
    assert summary["prevalence"]["value"] == 1 and "is at its bound, 100 %" in page
    assert summary["regions"]["records"] == 35 and summary["regions"]["extents"] == {"whole": 35}


def test_nothing_scored(folder):
    (row,), summary, page = answers(folder, "blank")
    assert (row["call"], row["reason"]) == ("unscored", "no_scored_chunk") and summary["prevalence"] is None
    assert "No contig has a score" in page and "<circle" not in page


def test_settings_that_leave_nothing_viral(folder):
    target = ("results/every/contigs.tsv", "results/one/contigs.tsv")
    snakemake(folder, *target, config={"samples": "samples.tsv", "fdr": 0}).ok()
    for sample in ("every", "one"):
        rows, _, page = answers(folder, sample)
        assert {row["call"] for row in rows} == {"ambiguous"} and "Nothing is called viral, since fdr is 0" in page
    snakemake(folder, *target, config={"samples": "samples.tsv", "min_length": 100_000, "regions": False}).ok()
    rows, summary, page = answers(folder, "every")
    assert {(row["call"], row["reason"]) for row in rows} == {("unscored", "short")}
    assert summary["regions"] is None and "Not looked for" in page
    made = {path.name for path in (folder / "results" / "every").iterdir()}
    assert not made & set(REGIONS.values()) and "regions.tsv" in {
        path.name for path in (folder / "results" / "short").iterdir()
    }
