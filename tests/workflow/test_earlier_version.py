"""The output folder of a run of version 0.1 goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.workflow.project import NONE
from tests.workflow.runner import snakemake

EARLIER = Path(__file__).parents[1] / "data" / "v0.1"
TABLES = ("predictions.tsv", "chunks.tsv", "contigs.tsv")


def columns(table: str) -> list[list[str]]:
    """Rows without their scores, which another machine's arithmetic may change in the last digit."""
    return [[cell for cell in line.split("\t") if not cell.startswith("0.")] for line in table.splitlines()]


def test_an_output_folder_of_an_earlier_version_goes_on(tmp_path):
    for name in ("input.fa", "samples.tsv", "config.yaml"):
        shutil.copy(EARLIER / name, tmp_path)
    shutil.copytree(EARLIER / "models", tmp_path / "models")
    shutil.copytree(EARLIER / "output", tmp_path / "results")
    run = snakemake(tmp_path, "--configfile", "config.yaml").ok()
    assert run.computed == NONE, "the vectors are there"
    for name in TABLES:
        before, now = (folder / "s" / name for folder in (EARLIER / "output", tmp_path / "results"))
        assert columns(now.read_text()) == columns(before.read_text())
    assert (tmp_path / "results" / "s" / "report.html").is_file()
    again = snakemake(tmp_path, "--configfile", "config.yaml").ok()
    assert again.nothing_to_do
