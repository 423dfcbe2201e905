"""Other engines than SLURM, as far as their plugins go without one: what docs/hpc.md says of them works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.workflow.project import Project, copy_of
from tests.workflow.runner import ROOT

MANUAL = (ROOT / "docs" / "hpc.md").read_text()
KEPT = ("jobs", "retries", "latency-wait", "rerun-incomplete", "rerun-triggers")


def profile(folder: Path, text: str) -> Path:
    """The SLURM profile's keys that the manual tells to keep, and those that it gives for an engine."""
    slurm = yaml.safe_load((ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({key: slurm[key] for key in KEPT}) + text)
    return folder


def given(engine: str) -> str:
    """The manual's lines for an engine."""
    return re.search(rf"```yaml\n(executor: {engine}\n.*?)```", MANUAL, re.DOTALL)[1]


def test_lsf_is_asked_for_a_gpu_by_embedding_jobs_alone(tmp_path, reference):
    folder = profile(tmp_path / "lsf", given("lsf"))
    project = copy_of(reference, tmp_path / "run", ("--workflow-profile", str(folder), "--dry-run"))
    text = project.run(extra=("--forcerun", "embed_esm2")).text
    requests = dict(re.findall(r"rule (\w+):.*?resources: ([^\n]*)", text, re.DOTALL))
    assert "lsf_extra=-gpu num=1" in requests["embed_esm2"] and "runtime=30" in requests["embed_esm2"]
    assert "lsf_queue=gpu" in requests["embed_esm2"] and "lsf_queue=normal" in requests["merge"]
    assert "lsf_extra" not in requests["merge"]


@pytest.mark.ci  # time
def test_a_submit_command_runs_it_all(tmp_path, tiny):
    """With a shell in place of qsub."""
    (tmp_path / "qsub").write_text(
        'echo "$@" >> submitted.txt\nfor script; do :; done\nsh "$script" > /dev/null 2>&1 &\necho $!\n'
    )
    text = given("cluster-generic").replace("qsub ", f"sh {tmp_path}/qsub ")
    text += "seconds-between-status-checks: 1\n"
    (tmp_path / "run").mkdir()
    folder = profile(tmp_path / "generic", text)
    project = Project(tmp_path / "run", tiny, ("--workflow-profile", str(folder)), count=2)
    project.run()
    lines = (tmp_path / "run" / "submitted.txt").read_text().splitlines()
    gpus = {
        re.search(r"snakejob\.(\w+)\.", line)[1]: re.search(r"ncpus=\d+:mem=\d+mb:ngpus=(\d)", line)[1]
        for line in lines
    }
    assert gpus["embed_dnabert_s"] == gpus["embed_esm2"] == "1"
    assert gpus["split"] == gpus["merge"] == gpus["predict"] == "0"
    assert set(project.tables()) and len(lines) >= 8
