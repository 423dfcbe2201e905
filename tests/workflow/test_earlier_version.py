"""The output folder of a run of version 0.1 goes on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from tests.workflow.project import NONE
from tests.workflow.runner import snakemake

EARLIER = Path(__file__).parents[1] / "data" / "v0.1"
TABLES = ("predictions.tsv", "chunks.tsv", "contigs.tsv")


def cells(table: Path) -> list[set[tuple[str, str]]]:
    """Columns and values of each row, without scores, which another machine's arithmetic may change in the last digit."""
    rows = csv.DictReader(table.read_text().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [{(column, cell) for column, cell in row.items() if not cell.startswith("0.")} for row in rows]


def test_an_output_folder_of_an_earlier_version_goes_on(tmp_path):
    for name in ("input.fa", "samples.tsv", "config.yaml"):
        shutil.copy(EARLIER / name, tmp_path)
    shutil.copytree(EARLIER / "models", tmp_path / "models")
    shutil.copytree(EARLIER / "output", tmp_path / "results")
    run = snakemake(tmp_path, "--configfile", "config.yaml").ok()
    assert run.computed == NONE, "the vectors are there"
    for name in TABLES:
        before, now = (cells(folder / "s" / name) for folder in (EARLIER / "output", tmp_path / "results"))
        assert len(before) == len(now) and all(old <= new for old, new in zip(before, now, strict=True))
    assert (tmp_path / "results" / "s" / "report.html").is_file()
    assert (tmp_path / "results" / "s" / "regions.tsv").read_text().startswith("record\tregion\tstart\t")
    again = snakemake(tmp_path, "--configfile", "config.yaml").ok()
    assert again.nothing_to_do
