"""The cluster profile where there is no cluster."""

from __future__ import annotations

import re

import yaml

from tests.workflow.project import copy_of
from tests.workflow.runner import ROOT

PROFILES = ROOT / "workflow" / "profiles"


def test_the_slurm_profile_limits_no_gpus_and_keeps_the_defaults():
    settings = yaml.safe_load((PROFILES / "slurm" / "config.yaml").read_text())
    assert settings["executor"] == "slurm" and settings["retries"]
    assert "resources" not in settings  # a limit for the whole run: one shard after the other
    assert "gpu" not in settings["default-resources"]  # every job would ask for a GPU
    assert yaml.safe_load((PROFILES / "default" / "config.yaml").read_text()).items() <= settings.items()


def test_embedding_jobs_ask_slurm_for_a_gpu_time_and_memory(tmp_path, reference):
    project = copy_of(reference, tmp_path, ("--workflow-profile", str(PROFILES / "slurm"), "--dry-run"))
    text = project.run(extra=("--forcerun", "embed_esm2")).text
    requests = re.findall(r"rule embed_esm2:.*?resources: ([^\n]*)", text, re.DOTALL)
    assert len(requests) == project.shards()
    assert all("gpu=1" in line and "runtime=30" in line and "mem_mb=3000" in line for line in requests)
