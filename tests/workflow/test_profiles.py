"""The profiles: complete, and the cluster's where there is no cluster."""

from __future__ import annotations

import re

import yaml

from tests.workflow.project import copy_of
from tests.workflow.runner import ROOT, snakemake

PROFILES = ROOT / "workflow" / "profiles"


def test_the_slurm_profile_limits_no_gpus_and_keeps_the_defaults():
    settings = yaml.safe_load((PROFILES / "slurm" / "config.yaml").read_text())
    assert settings["executor"] == "slurm" and settings["retries"]
    assert "resources" not in settings  # a limit for the whole run: one shard after the other
    assert "gpu" not in settings["default-resources"]  # every job would ask for a GPU
    assert yaml.safe_load((PROFILES / "default" / "config.yaml").read_text()).items() <= settings.items()


def test_the_workstation_profile_runs_as_it_is_and_with_its_limits(tmp_path):
    text = (PROFILES / "workstation" / "config.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings["cores"] == "all" and settings["retries"] and "resources" not in settings
    assert yaml.safe_load((PROFILES / "default" / "config.yaml").read_text()).items() <= settings.items()
    run = snakemake(tmp_path, "--workflow-profile", str(PROFILES / "workstation"), "--dry-run")
    assert "rule merge:" in run.ok().text
    (tmp_path / "mine").mkdir()
    limited = text.replace("# resources:\n#   gpu: 2\n", "resources:\n  gpu: 0\n")
    (tmp_path / "mine" / "config.yaml").write_text(limited)
    run = snakemake(tmp_path, "all_esm2", "--workflow-profile", "mine", config={"device": "cuda"})
    assert run.status != 0 and "gpu=0 leaves no GPU" in run.text, "the limit holds"


def test_embedding_jobs_ask_slurm_for_a_gpu_time_and_memory(tmp_path, reference):
    project = copy_of(reference, tmp_path, ("--workflow-profile", str(PROFILES / "slurm"), "--dry-run"))
    text = project.run(extra=("--forcerun", "embed_esm2")).text
    requests = re.findall(r"rule embed_esm2:.*?resources: ([^\n]*)", text, re.DOTALL)
    assert len(requests) == project.shards()
    assert all("gpu=1" in line and "runtime=30" in line and "mem_mb=3000" in line for line in requests)


def test_partition_and_time_of_the_slurm_profile_can_depend_on_attempt_and_size(tmp_path, reference):
    """The profile's examples."""
    text = (PROFILES / "slurm" / "config.yaml").read_text()
    examples = re.findall(r"^# ( +\w+: \"[^\"]*(?:attempt|size_mb)[^\"]*\")$", text, re.MULTILINE)
    assert len(examples) == 2
    for name, limit, partition in (("as-it-is", "20000", "gpu"), ("small", "0", "gpu-long")):
        (tmp_path / name).mkdir()
        lines = "\n".join(["set-resources:", "  embed_esm2:", *examples]).replace("20000", limit)
        (tmp_path / name / "config.yaml").write_text(f"{text}\n{lines}\n")
        project = copy_of(
            reference, tmp_path / f"run-{name}", ("--workflow-profile", str(tmp_path / name), "--dry-run")
        )
        run = project.run(extra=("--forcerun", "embed_esm2"))
        (request, *_) = re.findall(r"rule embed_esm2:.*?resources: ([^\n]*)", run.text, re.DOTALL)
        assert f"slurm_partition={partition}" in request.split(", ") and "runtime=30" in request
