"""The lines that a run prints at its end."""

import json

from tests.unit.report_fixtures import write_sample
from virnucpro.report import run_summary as module
from virnucpro.report.run_summary import run_summary


def test_counts_cost_and_where_to_read_on(tmp_path, monkeypatch):
    viral = 0
    for sample, contigs in (("a", 20), ("b", 10)):
        folder = write_sample(tmp_path, contigs, sample=sample)
        (folder / "report.html").touch()
        viral += json.loads((folder / "summary.json").read_text())["viral_records"]
    *lines, total = run_summary(tmp_path, ["a", "b", "unfinished"]).splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == [str(tmp_path / sample / "report.html") for sample in "ab"]
    assert total.startswith(f"{viral} of 30 sequences viral; ")
    assert "embedded, now or before, in 6.0 GPU seconds and 14.0 CPU seconds: " in total
    frames = sum(json.loads((tmp_path / sample / "summary.json").read_text())["frames"] for sample in "ab")
    assert total.endswith(f": {frames / 20:,.1f} frames/s per device")
    monkeypatch.setattr(module, "MAX_LISTED_SAMPLES", 1)
    assert run_summary(tmp_path, ["a", "b"]).splitlines()[1] == "and 1 samples more"


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
