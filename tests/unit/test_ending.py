"""What a run says at its end."""

import json

from tests.unit.report_fixtures import write_sample
from virnucpro.report import ending as module
from virnucpro.report.ending import ending


def test_counts_cost_and_where_to_read_on(tmp_path, monkeypatch):
    viral = 0
    for sample, contigs in (("a", 20), ("b", 10)):
        folder = write_sample(tmp_path, contigs, sample=sample)
        viral += json.loads((folder / "summary.json").read_text())["viral_records"]
    *lines, total = ending(tmp_path, ["a", "b", "unfinished"]).splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == [str(tmp_path / sample / "report.html") for sample in "ab"]
    assert total.startswith(f"{viral} of 30 records viral; ")
    # Two shards a sample and encoder, 2 and 3 s each.
    assert f"embedded in {20 / 3600:.3f} CPU hours: " in total and 0 < viral < 30
    frames = sum(json.loads((tmp_path / sample / "summary.json").read_text())["frames"] for sample in "ab")
    assert total.endswith(f": {frames / 20:,.1f} frames/s on each")
    monkeypatch.setattr(module, "LISTED_SAMPLES", 1)
    assert ending(tmp_path, ["a", "b"]).splitlines()[1] == "and 1 samples more"


def test_nothing_finished_says_nothing(tmp_path):
    assert ending(tmp_path, ["a"]) == ""
    (write_sample(tmp_path, 5, sample="a") / "embeddings.h5").write_bytes(b"no HDF5")
    assert ending(tmp_path, ["a"]) == ""
