"""The lines that a run prints at its end."""

import csv
import json

import pytest

from tests.unit.report_fixtures import add_regions, change, write_sample
from virnucpro.report import run_summary as module
from virnucpro.report.run_summary import run_summary


def test_counts_cost_and_where_to_read_on(tmp_path, monkeypatch):
    viral = 0
    for sample, contigs in (("a", 20), ("b", 10)):
        folder = write_sample(tmp_path, contigs, sample=sample)
        (folder / "report.html").touch()
        viral += json.loads((folder / "summary.json").read_text())["viral_records"]
    *lines, total = run_summary(tmp_path, ["a", "b", "unfinished"]).splitlines()
    assert [line.rpartition(" ")[2] for line in lines[:2]] == [
        str(tmp_path / sample / "report.html") for sample in "ab"
    ]
    assert total.startswith(f"{viral} of 30 sequences viral, 3 unscored; ")
    assert "embedded, now or before, in 6.0 GPU seconds and 14.0 CPU seconds: " in total
    frames = sum(json.loads((tmp_path / sample / "summary.json").read_text())["frames"] for sample in "ab")
    assert total.endswith(f": {frames / 20:,.1f} frames/s per device")
    monkeypatch.setattr(module, "MAX_LISTED_SAMPLES", 1)
    assert run_summary(tmp_path, ["a", "b"]).splitlines()[1] == "and 1 sample more"


def test_ambiguous_and_unscored_sequences_are_counted_apart(tmp_path):
    for sample, viral, ambiguous, unscored in (("a", 5, 2, 3), ("b", 1, 0, 0)):
        folder = change(
            write_sample(tmp_path, 18, sample),
            viral_records=viral,
            ambiguous_records=ambiguous,
            unscored_records=unscored,
            partial_chunks=7,
            frames=100,
        )
        (folder / "report.html").touch()
    first, second, *_, total = run_summary(tmp_path, ["a", "b"]).splitlines()
    assert first.startswith("a: 5 of 18 sequences viral, 2 ambiguous, 3 unscored, ") and second.startswith(
        "b: 1 of 18 sequences viral, /"
    )
    assert total.startswith("6 of 36 sequences viral, 2 ambiguous, 3 unscored; 214 frames embedded"), (
        "partial ones, too"
    )
    summary = json.loads((folder / "summary.json").read_text())
    former = {key: value for key, value in summary.items() if key not in ("ambiguous_records", "partial_chunks")}
    (folder / "summary.json").write_text(json.dumps(former))
    assert "1 of 18 sequences viral; 100 frames" in run_summary(tmp_path, ["b"]), "of version 0.1"


def test_regions_are_counted_where_they_were_looked_for(tmp_path):
    for sample in "abc":
        (write_sample(tmp_path, 5, sample) / "report.html").touch()
    add_regions(tmp_path / "a", [("contig_0", 1, 2, "start"), ("contig_1", 1, 4, "whole")])
    add_regions(tmp_path / "b", [])
    a, b, c, *_, total = run_summary(tmp_path, ["a", "b", "c"]).splitlines()
    assert ", 2 viral regions, " in a and ", 0 viral regions, " in b and "viral regions" not in c
    assert "of 15 sequences viral, 2 viral regions; " in total
    add_regions(tmp_path / "c", [("contig_0", 1, 2, "start")])
    assert ", 1 viral region, /" in run_summary(tmp_path, ["c"]) and ", 1 viral region; " in run_summary(
        tmp_path, ["c"]
    )
    assert f"{tmp_path / 'a' / 'regions.tsv'}  viral parts of contigs" in run_summary(tmp_path, ["a"]).splitlines()


def test_a_run_with_controls_says_where_they_are(tmp_path):
    folder = write_sample(tmp_path, 5, sample="a")
    (folder / "report.html").touch()
    assert "controls.tsv" not in run_summary(tmp_path, ["a"])
    (folder / "controls.tsv").touch()
    assert f"{folder / 'controls.tsv'}  how many controls are called viral" in run_summary(tmp_path, ["a"]).splitlines()


def test_without_vectors_there_is_no_cost(tmp_path):
    folder = write_sample(tmp_path, 5, sample="a")
    (folder / "report.html").touch()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"embedding_seconds": {}}))
    assert run_summary(tmp_path, ["a"]).endswith(" frames embedded")


def test_nothing_finished_says_nothing(tmp_path):
    assert run_summary(tmp_path, ["a"]) == ""
    folder = write_sample(tmp_path, 5, sample="a")
    assert run_summary(tmp_path, ["a"]) == "", "its report isn't made"
    (folder / "report.html").touch()
    assert run_summary(tmp_path, ["a"]).startswith("a: ")
    (folder / "summary.json").unlink()
    assert run_summary(tmp_path, ["a"]) == ""


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_best_contigs_and_what_to_look_at(tmp_path, calibrated):
    folder = write_sample(tmp_path, 40, sample="a", calibrated=calibrated)
    (folder / "report.html").touch()
    _, empty, header, *rows, _, report, viral, contigs, _ = run_summary(tmp_path, ["a"]).splitlines()
    assert not empty and header.split() == ["contig", "bases", "call", "probability" if calibrated else "score"]
    with open(folder / "contigs.tsv") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    called = [row for row in table if row["call"] in ("viral", "ambiguous")]
    called.sort(key=lambda row: (row["call"] == "viral", float(row["logit"] or row["mean_score"])), reverse=True)
    assert [row.split()[0] for row in rows] == [row["record"] for row in called[:10]] and len(rows) == 10
    assert rows[0].split()[1:3] == ["2,000", "viral"]
    assert [line.split()[0] for line in (report, viral, contigs)] == [
        str(folder / name) for name in ("report.html", "viral.fasta.gz", "contigs.tsv")
    ]
    (folder.rename(tmp_path / "b"), write_sample(tmp_path, 7, sample="a", calibrated=calibrated))
    (folder / "report.html").touch()
    assert "sample  contig" in run_summary(tmp_path, ["a", "b"])


def test_no_table_where_nothing_is_viral_or_a_table_is_of_another_version(tmp_path):
    folder = write_sample(tmp_path, 40, sample="a")
    (folder / "report.html").touch()
    lines = (folder / "contigs.tsv").read_text().splitlines()
    (folder / "contigs.tsv").write_text("\n".join([lines[0], *(line for line in lines if "non-viral" in line)]) + "\n")
    assert len(run_summary(tmp_path, ["a"]).splitlines()) == 5
    (folder / "contigs.tsv").write_text("record\n")
    assert len(run_summary(tmp_path, ["a"]).splitlines()) == 5
