"""Regions in an evaluation: measured on implants of its tables, or why they aren't."""

import csv

from tests.unit.tables import tables_of
from virnucpro.classifier.evaluation import evaluate
from virnucpro.classifier.labels import Label, Labelled
from virnucpro.classifier.region_evaluation import IMPLANT_COLUMNS, REGION_COLUMNS
from virnucpro.classifier.region_model import DEFAULT, RegionModel

CHUNKS = 20


def sample(folder, hosts=6, phages=6):
    """Contigs of 10 kb whose chunks have a frame each, with a score that tells the class: three of each group."""
    names = [
        f"{kind}{group}_{number}"
        for kind, count in (("h", hosts), ("p", phages))
        for group in range(count)
        for number in "abc"
    ]
    frames = [
        (f"{name}_chunk_{chunk}F1", 0.97 if name[0] == "p" else 0.03)
        for name in names
        for chunk in range(1, CHUNKS + 1)
    ]
    tables_of(folder, [(name, 500 * CHUNKS) for name in names], frames, ending=".tsv")
    labels = {
        name: Label(name[0] == "p", "phage" if name[0] == "p" else "bacterium", name.partition("_")[0])
        for name in names
    }
    return Labelled("s", folder, records=labels)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_regions_are_measured_on_implants(tmp_path):
    found = evaluate([sample(tmp_path / "s")], tmp_path / "out", regions=RegionModel(fitted_on={"seed": 0}))["regions"]
    assert found["model"] == "fitted" and found["reason"] == ""
    low, high = found["metrics"]
    assert (low["posterior"], high["posterior"]) == (0.5, 0.9) and low["implants"] == low["implants_found"] > 5
    assert low["bases_found"] == 1 and low["precision"] > 0.95 and low["false_per_mb"] == 0 == low["boundary_kb"]
    rows = rows_of(tmp_path / "out" / "implants.tsv")
    assert tuple(rows[0]) == IMPLANT_COLUMNS and len(rows) == low["contigs"]
    for row in rows:
        assert row["seed"] == "0" and row["host"][0] == "h" and row["length"] in ("60000", "70000")
        assert (row["kind"] == "implant") == bool(row["phage"]) == bool(row["regions"])
        if row["phage"]:
            first, last = map(int, row["regions"].split("-"))  # a single chunk of the host at its end may be in, too
            assert first <= int(row["start"]) and last >= int(row["end"]) == int(row["start"]) + 9999
    assert tuple(rows_of(tmp_path / "out" / "region_metrics.tsv")[0]) == REGION_COLUMNS
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "## Regions of implants" in page and "the classifier's own" in page and "| 0.5 " in page


def test_too_few_groups_are_said(tmp_path):
    found = evaluate([sample(tmp_path / "s", hosts=3)], tmp_path / "out", regions=DEFAULT)["regions"]
    assert found["model"] == "default" and found["metrics"] == [] and "there are 3" in found["reason"]
    assert rows_of(tmp_path / "out" / "implants.tsv") == []
    assert "Not measured: implants need 5 groups of non-viral" in (tmp_path / "out" / "evaluation.md").read_text()
