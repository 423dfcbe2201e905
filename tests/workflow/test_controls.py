"""Controls through the real workflow: scored beside the sample, and nowhere taken for one."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.unit.tables import read
from tests.workflow.conftest import coding, fasta
from tests.workflow.project import NONE, Project
from tests.workflow.runner import snakemake
from virnucpro.calls.controls import GIVEN
from virnucpro.sequences.controls import CODON, DINUCLEOTIDE


@pytest.fixture
def project(tmp_path, tiny):
    found = Project(tmp_path, tiny, count=3)
    tiny.prepare(tmp_path / "results")
    (tmp_path / "host.fa").write_text(fasta({"host": coding(90, 900), "other": coding(91, 900)}))
    return found


def jobs(run) -> set[str]:
    return set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", run.text, re.MULTILINE))


def test_controls_are_scored_beside_the_sample(project):
    results = project.folder / "results"
    first = project.run(controls=2, control_fasta="host.fa")
    rows = read(results / "s" / "controls.tsv")
    assert [(row["kind"], row["preset"], row["controls"]) for row in rows] == [
        (kind, "", "2") for kind in (CODON, DINUCLEOTIDE, GIVEN)
    ], "a classifier that isn't calibrated has no presets"
    page = (results / "s" / "report.html").read_text()
    assert 'id="controls"' in page and "your own controls" in page
    assert [row["record"] for row in read(results / "s" / "contigs.tsv")] == ["r0", "r1", "r2"]
    assert json.loads((results / "s" / "summary.json").read_text())["records"] == 3
    assert re.search(r"^\d+ of 3 sequences viral", first.text, re.MULTILINE), "the end counts the sample's alone"
    assert not (results / "report.html").exists(), "one sample"
    tables = project.tables()

    shutil.rmtree(results / "control_sets")
    assert project.run(controls=2, control_fasta="host.fa").nothing_to_do
    without = project.run()
    assert without.computed == NONE and jobs(without) == {"predict", "all"}
    assert not (results / "s" / "controls.tsv").exists() and project.tables() == tables
    assert 'id="controls"' not in (results / "s" / "report.html").read_text()


def test_shared_ids_are_refused_before_anything_is_embedded(project):
    (project.folder / "host.fa").write_text(fasta({"host": coding(90, 900), "r1": coding(91, 900)}))
    (project.folder / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\nt\tinput.fa\n")
    run = snakemake(project.folder, config=project.config(control_fasta="host.fa"))
    assert run.status and run.computed == NONE
    assert re.search("host.fa and sample [st] share the ids 'r1'. Controls are sequences from elsewhere", run.text)
    assert "Traceback" not in run.text


@pytest.mark.soak
def test_what_runs_again(project):
    results = project.folder / "results"
    project.run(controls=1)
    before = (results / "s" / "embeddings.h5").stat().st_mtime_ns
    more = project.run(controls=2)
    assert jobs(more) >= {"make_controls", "score_controls", "predict"}
    assert (results / "s" / "embeddings.h5").stat().st_mtime_ns == before
    assert {row["controls"] for row in read(results / "s" / "controls.tsv")} == {"2"}

    given = project.run(controls=2, control_fasta="host.fa")
    assert sum(given.computed.values()) == 2, "the user's own, by both encoders; equal controls have their vectors"
    (project.folder / "host.fa").write_text(fasta({"another": coding(92, 900)}))
    again = project.run(controls=2, control_fasta="host.fa")
    assert sum(again.computed.values()) == 2
    assert read(results / "s" / "controls.tsv")[-1]["controls"] == "1"
    assert project.run(controls=2, control_fasta="host.fa", threshold=0.3).computed == NONE

    project.write({"r0": coding(7, 900)})
    project.run(controls=2)
    assert {row["controls"] for row in read(results / "s" / "controls.tsv")} == {"1"}
    assert "All 1 contigs of this sample (2 were asked for)" in (results / "s" / "report.html").read_text()


@pytest.mark.soak
def test_a_missing_file_of_controls(project):
    run = snakemake(project.folder, config=project.config(control_fasta="hots.fa"))
    assert run.status and "hots.fa: no such file" in run.text and "Traceback" not in run.text
