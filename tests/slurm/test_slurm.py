"""The bundled example on a real SLURM, with the workflow's own SLURM profile."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.workflow.runner import ROOT, Run, command, environment

pytestmark = pytest.mark.ci

SAMPLE = Path("results", "example")
OUTPUT = "snakemake.txt"
TABLES = ("predictions.tsv", "chunks.tsv", "contigs.tsv", "prediction_results.txt")
# The test's SLURM has no accounting database, and nobody waits for a queue.
HERE = ("--slurm-no-account", "--slurm-status-command=squeue", "--slurm-init-seconds-before-status-checks=2")
HERE += ("--seconds-between-status-checks=1", "--latency-wait=10")


def profile(folder: Path, *lines: str) -> Path:
    """A copy of the SLURM profile with the lines that hold ``lines`` brought in, as its comments tell a site to do."""
    text = (ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text()
    for line in lines:
        text, changed = re.subn(rf"^( *)# ( *{re.escape(line)})", r"\1\2", text, flags=re.MULTILINE)
        assert changed == 1, line
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return folder


GPU = ("set-resources:", "embed_dnabert_s: &gpu", "slurm_partition: gpu", "embed_esm2: *gpu")


def start(folder: Path, profile: Path, *arguments: str) -> subprocess.Popen:
    words = command(
        "--workflow-profile", str(profile), *HERE, *arguments, config={"shard_frames": 120, "partial_frames": "false"}
    )
    cores = words.index("--cores")
    del words[cores : cores + 2]
    with open(folder / OUTPUT, "w") as output:
        return subprocess.Popen(words, cwd=folder, stdout=output, stderr=output, env=environment())


def finish(started: subprocess.Popen, folder: Path) -> Run:
    return Run(started.wait(600), (folder / OUTPUT).read_text()).ok()


def tables(folder: Path) -> list[bytes]:
    return [(folder / SAMPLE / name).read_bytes() for name in TABLES]


def devices(folder: Path, architecture: str) -> list[str]:
    """The CUDA_VISIBLE_DEVICES that the jobs of an encoder saw, by their logs."""
    logs = (folder / "results" / "logs" / f"embed_{architecture}").rglob("*.log")
    return [re.search(r"SLURM_JOB_ID=\d+, CUDA_VISIBLE_DEVICES=(\S*)$", log.read_text(), re.M)[1] for log in logs]


@pytest.fixture(scope="module")
def example(cluster: Cluster, tmp_path_factory) -> Path:
    """The working directory of an undisturbed run."""
    folder = tmp_path_factory.mktemp("example")
    site = profile(folder / "profile", "slurm_partition: cpu", *GPU, "gpu_model: h200", "constraint:") / "config.yaml"
    by_gres = '{slurm_partition: gpu, gres: "gpu:1", gpu: 0}'
    site.write_text(site.read_text().replace("*gpu", by_gres))
    finish(start(folder, site.parent), folder)
    return folder


def again(example: Path, folder: Path) -> Path:
    """The same run before its embedding."""
    shutil.copytree(example, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("profile", "logs"))
    shutil.rmtree(folder / "results" / "embeddings")
    (folder / SAMPLE / "embeddings.h5").unlink()
    return folder


def test_the_example_runs_with_a_gpu_for_each_embedding_job(cluster, example):
    done = cluster.finished()
    assert {job.state for job in done} == {"COMPLETED"}
    shards = len(list((example / SAMPLE / "shards").glob("*.fna")))
    assert shards > 1
    for architecture in ("dnabert_s", "esm2"):
        assert len(devices(example, architecture)) == shards
    assert set(devices(example, "dnabert_s") + devices(example, "esm2")) == {"0", "1"}
    assert sum(job.partition == "gpu" for job in done) == 2 * shards
    single = ("split", "merge", "predict")
    assert sum(job.partition == "cpu" for job in done) == 3 + len(single), "three models prepared, and these"


def test_jobs_that_slurm_kills_run_again(cluster, example, tmp_path):
    before = len(cluster.finished())
    again(example, tmp_path)
    memory = "embed_esm2:mem_mb=100 if attempt == 1 else 3000"
    run = start(tmp_path, profile(tmp_path / "profile"), "--set-resources", memory)
    try:
        cancelled = running_job(cluster, run, "embed_dnabert_s")
        cluster.command("scancel", str(cancelled))
        hung = running_job(cluster, run, "embed_dnabert_s", other_than=cancelled)
        cluster.command("scontrol", "update", f"JobId={hung}", "TimeLimit=1")
        for _ in range(10):  # also what SLURM is only starting for it
            cluster.command("scancel", "--full", "--signal=STOP", str(hung), check=False)
            time.sleep(0.2)
        finish(run, tmp_path)
    finally:
        run.kill()
    states = {job.number: job.state for job in cluster.finished()[before:]}
    assert states[cancelled] == "CANCELLED"
    assert states[hung] == "TIMEOUT"
    slurm_logs = (tmp_path / ".snakemake" / "slurm_logs").rglob("*.log")
    killed = [log for log in slurm_logs if "exceeded memory limit" in log.read_text()]
    assert len(killed) == len(devices(tmp_path, "esm2"))
    assert tables(tmp_path) == tables(example)


def test_the_command_says_what_is_submitted_and_why_a_job_failed(cluster, tmp_path):
    site = profile(tmp_path / "profile")
    words = [sys.executable, "-m", "virnucpro", "predict", str(ROOT / "resources" / "example" / "contigs.fa")]
    words += [
        "--output=out",
        f"--profile={site}",
        "--",
        *HERE,
        "--retries=0",
        "--set-resources",
        "embed_esm2:mem_mb=100",
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 3, done.stderr
    assert re.search(r"^\d\d:\d\d:\d\d  submitted: computing embeddings$", done.stderr, re.M)
    (failed, *_) = re.findall(r"^a job of embed_esm2 failed: SLURM-job '\d+' failed, .*", done.stderr, re.M)
    log = Path(re.search(r"[^ ,]*/slurm_logs/[^;,]*", failed)[0])
    assert "exceeded memory limit" in log.read_text()


def running_job(cluster: Cluster, run: subprocess.Popen, rule: str, other_than: int = 0) -> int:
    """Wait until a job of the rule runs."""
    while run.poll() is None:
        for number in cluster.running(rule).values():
            if number != other_than:
                return number
        time.sleep(0.2)
    raise AssertionError(f"Snakemake ended with {run.returncode} before such a job ran")
