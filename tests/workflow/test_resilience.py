"""Runs that are killed, again and again, at random moments: nothing is lost, nothing is damaged."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.unit.encoder_fixtures import fair_esm, fair_esm_checkpoint
from tests.workflow.conftest import Models
from tests.workflow.project import Project
from tests.workflow.runner import command, environment
from virnucpro.embeddings.store import open_shard, write_shard
from virnucpro.encoders.prepare import prepare_encoder
from virnucpro.io import atomic_file
from virnucpro.logging import job

OUTPUT = re.compile(r"^    output: (\S+/embeddings/\S+\.h5)$", re.MULTILINE)
VICTIMS = ("group", "snakemake", "job")


def is_job(process: psutil.Process, script: str = "") -> bool:
    try:
        return any(".snakemake/scripts" in word and word.endswith(script) for word in process.cmdline())
    except psutil.Error:
        return False


class Disturbed(Project):
    """A project whose runs are killed."""

    def __init__(self, folder: Path, models: Models):
        super().__init__(folder, models, count=6)
        self.orphans: list[psutil.Process] = []
        self.lines = self.run().text.count("\n")
        self.expected = self.tables()
        assert self.shards() >= 2
        shutil.rmtree(folder / "results")

    def vectors(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.glob("results/embeddings/*/*/*.h5")}

    def disturb(self, chance: random.Random, victim: str) -> bool:
        """Start a run and kill (a part of) it at some moment; whether it was still there to be killed."""
        finished, after = self.vectors(), chance.randrange(self.lines)
        log = self.folder / "run.log"
        with open(log, "w") as output:
            run = subprocess.Popen(
                command(config=self.config()), cwd=self.folder, env=environment(), start_new_session=True,
                stdout=output, stderr=output,
            )  # fmt: skip
        process, killed = psutil.Process(run.pid), False
        while run.poll() is None and not killed:
            time.sleep(0.02)
            if log.read_text().count("\n") < after:
                continue
            time.sleep(chance.uniform(0, 0.5))
            jobs = [child for child in process.children(recursive=True) if is_job(child)]
            if victim == "group":
                os.killpg(run.pid, signal.SIGKILL)
                killed = True
            elif victim == "snakemake":
                process.kill()
                self.orphans += jobs
                killed = True
            elif jobs:
                chance.choice(jobs).kill()
                killed = True
        status = run.wait(timeout=300)
        text = log.read_text()
        again = finished & set(OUTPUT.findall(text))
        assert not again, f"computed though finished: {again}\n{text}"
        if not killed:
            assert status == 0, text
        else:
            self.unlock()
        return killed

    def check(self) -> None:
        """The tables are those of the undisturbed run, and stay so when the last orphan has ended."""
        assert self.tables() == self.expected
        psutil.wait_procs(self.orphans, timeout=120)
        assert self.tables() == self.expected
        assert not list((self.folder / "results").rglob("*.tmp"))


@pytest.mark.parametrize(
    "kills", [pytest.param(1, marks=pytest.mark.ci), pytest.param(100, marks=pytest.mark.soak)], ids=["1", "100"]
)
def test_kill_at_random_moments(tmp_path, tiny, kills):
    seed = int(os.environ.get("VIRNUCPRO_TEST_SEED", random.randrange(10**6)))
    print(f"VIRNUCPRO_TEST_SEED={seed}")
    chance = random.Random(seed)
    project = Disturbed(tmp_path, tiny)
    done = completed = 0
    while done < kills:
        if project.disturb(chance, VICTIMS[(seed + done) % len(VICTIMS)]):
            done += 1
        else:
            project.check()
            completed += 1
            shutil.rmtree(tmp_path / "results")
    project.run()
    project.check()
    assert project.run().nothing_to_do
    print(f"{done} kills, {completed} runs that ended before theirs, {len(project.orphans)} orphans")


@pytest.mark.ci
def test_what_an_orphan_finished_is_kept(tmp_path, tiny):
    tiny.prepare(tmp_path / "results")
    project = Project(tmp_path, tiny, count=6)
    run = subprocess.Popen(
        command(config=project.config()), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    process, deadline = psutil.Process(run.pid), time.monotonic() + 300
    while not (jobs := [child for child in process.children(recursive=True) if is_job(child, "embed.py")]):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.02)
    process.kill()
    run.wait()
    psutil.wait_procs(jobs, timeout=120)
    project.unlock()
    finished = len(list(tmp_path.glob("results/embeddings/*/*/*.h5")))
    assert finished == len(jobs) > 0
    assert sum(project.run().computed.values()) == 2 * project.shards() - finished


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # HDF5 tries again when it closes
def test_a_disk_that_is_full_or_read_only(tmp_path):
    """A real one: a small file system in memory, where this process may mount such."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    write = partial(write_shard, folder / "x.h5", [f"f{i}" for i in range(1000)], np.ones((1000, 320), np.float32), {})
    try:
        for says in ("No space left on device", "Read-only file system"):
            with pytest.raises(SystemExit) as stopped, job(tmp_path / "job.log"):
                write()
            log = (tmp_path / "job.log").read_text()
            assert stopped.value.code == 1 and f"ERROR {says}: " in log and "x.h5" in log and "Traceback" not in log
            assert not list(folder.iterdir()), "nothing half-written"
            subprocess.run(["mount", "-o", "remount,ro,size=9m", str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        with job(tmp_path / "job.log"):
            write()
        with open_shard(folder / "x.h5") as file:
            assert len(file["ids"]) == 1000
        (folder / "x.h5").unlink()
        subprocess.run(["mount", "-o", "remount,size=400k", str(folder)], check=True)
        source = fair_esm_checkpoint(fair_esm(2, 128, 2), tmp_path / "large.pt")
        (tmp_path / "large.csv").write_text("row\n" * 200_000)
        for name, fill in (
            ("model.safetensors", lambda path: prepare_encoder(source, "esm2", path)),
            ("copied", partial(copy, tmp_path / "large.csv")),
            ("written", lambda path: write_text(path, "row\n" * 200_000)),
        ):
            with pytest.raises(SystemExit), job(tmp_path / "job.log"):
                fill(folder / name)
            log = (tmp_path / "job.log").read_text()
            assert f"ERROR No space left on device: {folder}/" in log and name in log and "Traceback" not in log
            assert not list(folder.iterdir()), "nothing half-written"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def copy(source: Path, path: Path) -> None:
    with atomic_file(path) as temporary:
        shutil.copyfile(source, temporary)


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text)
