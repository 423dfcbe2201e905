"""Real runs with an nvidia-smi that lists two GPUs: jobs side by side, never two on one.

PyTorch sees no GPU there, so the jobs compute on the CPU, holding their leases.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from datetime import datetime

import h5py
import pytest

from tests.workflow.project import Project
from tests.workflow.runner import command, environment, snakemake

UUIDS = {"GPU-aaaa", "GPU-bbbb"}
TARGET = "results/s/embeddings.h5"
LEASED = re.compile(r"^(.{23}) INFO leased GPU: (\S+), after", re.MULTILINE)
COMPUTED = re.compile(r"^(.{23}) INFO computed \d+ embeddings", re.MULTILINE)


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n" + "".join(f"echo 'GPU {i}: Fake (UUID: {u})'\n" for i, u in enumerate(sorted(UUIDS)))
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


class GPUProject(Project):
    """Runs with 8 cores and 2 GPUs, and tells who computed when on which."""

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            command(TARGET, "--cores", "8", "--resources", "gpu=2", config=self.settings()), cwd=self.folder,
            env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def settings(self) -> dict:
        return self.config(gpu_lease_dir=self.folder.parent / "locks", shard_frames=24)

    def logs(self) -> list[str]:
        return [path.read_text() for path in self.folder.glob("results/logs/embed_*/**/*.log*")]

    def leased(self) -> int:
        return sum(len(LEASED.findall(log)) for log in self.logs())

    def intervals(self) -> list[tuple[str, datetime, datetime]]:
        """(GPU, from, to) of each job that ended."""
        found = []
        for log in self.logs():
            if (leased := LEASED.search(log)) and (computed := COMPUTED.search(log)):
                start, stop = (datetime.fromisoformat(match[1]) for match in (leased, computed))
                found.append((leased[2], start, stop))
        return found


def overlaps(jobs: list[tuple[str, datetime, datetime]], same_gpu: bool) -> int:
    """Pairs of jobs at the same time, by their logs, to a millisecond."""
    return sum(
        (a[0] == b[0]) == same_gpu and a[1] < b[2] and b[1] < a[2]
        for place, a in enumerate(jobs)
        for b in jobs[:place]
    )  # fmt: skip


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_workflows_on_two_gpus(tmp_path, tiny, two_gpus):
    projects = []
    for name, count in (("one", 3), ("two", 1)):
        tiny.prepare(tmp_path / name / "results")
        projects.append(GPUProject(tmp_path / name, tiny, count=count))
    one, two = projects
    killed = one.start()
    wait_for(lambda: one.leased() == 2)
    other = two.start()
    wait_for(lambda: one.intervals() or two.leased())
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    one.unlock()
    again = one.start()
    assert (other.wait(timeout=300), again.wait(timeout=300)) == (0, 0)
    jobs = [job for project in projects for job in project.intervals()]
    files = [path for project in projects for path in project.folder.glob("results/embeddings/*/*/*.h5")]
    # The two jobs that were killed may have finished their file and not said so yet.
    assert {gpu for gpu, *_ in jobs} == UUIDS and len(files) >= 6 and len(jobs) >= len(files) - 2
    assert overlaps(jobs, same_gpu=True) == 0
    assert overlaps(jobs, same_gpu=False) > 0
    for path in one.folder.glob("results/embeddings/*/*/*.h5"):
        with h5py.File(path) as file:
            assert file.attrs["gpu"] in UUIDS and file.attrs["device"] == "cpu"
    assert any("computes on the CPU, which is much slower" in log for log in one.logs())


def test_without_a_gpu_for_the_jobs(tmp_path, tiny, two_gpus):
    tiny.prepare(tmp_path / "one" / "results")
    project = GPUProject(tmp_path / "one", tiny, count=1)
    snakemake(project.folder, TARGET, "--resources", "gpu=0", config=project.settings()).ok()
    assert all(" on cpu, " in log and not LEASED.search(log) for log in project.logs())
    assert project.logs() and not (tmp_path / "locks").exists()
    next(project.folder.glob("results/embeddings/*/*/*.h5")).unlink()
    (project.folder / TARGET).unlink()
    run = snakemake(project.folder, TARGET, "--resources", "gpu=0", config=project.settings() | {"device": "cuda"})
    assert run.status != 0 and "--resources gpu=0 leaves no GPU" in run.text


@pytest.mark.parametrize(("cores", "embedding"), [(2, 1), (8, 3), (32, 14), (64, 30)])
def test_jobs_side_by_side_leave_cores_to_others(tmp_path, tiny, two_gpus, cores, embedding):
    tiny.prepare(tmp_path / "one" / "results")
    project = GPUProject(tmp_path / "one", tiny, count=1)
    given = "--dry-run", "--cores", str(cores), "--resources", "gpu=2"
    run = snakemake(project.folder, "check", "results/s/contigs.tsv", *given, config=project.settings()).ok()
    threads = {
        rule: int(found[1]) if (found := re.search(r"threads: (\d+)", told)) else 1
        for rule, told in re.findall(r"^rule (\w+):\n(.*?)^    resources:", run.text, re.MULTILINE | re.DOTALL)
    }
    assert (threads["measure"], threads["predict"]) == (embedding, 1), "small files take one"
