"""A run that is killed, and the same command again; tests/workflow/test_resilience.py kills at random moments."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.workflow.project import Project
from tests.workflow.runner import command, environment, snakemake


def test_kill_and_the_same_command_again(reference, tmp_path, tiny):
    tiny.prepare(tmp_path / "results")
    project = Project(tmp_path, tiny)
    started = subprocess.Popen(
        command(config=project.config()), cwd=tmp_path, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    finished: list[Path] = []
    deadline = time.monotonic() + 120
    while len(finished) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        finished = list((tmp_path / "results").glob("embeddings/*/*/*.h5"))
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert len(finished) >= 2
    locked = snakemake(tmp_path, config=project.config())
    assert locked.status == 1 and "Directory cannot be locked" in locked.text and "--unlock" in locked.text
    project.unlock()
    again = project.run()
    shards = project.shards()
    # Of a file that appeared just before the kill Snakemake had no word yet: at most the running two.
    assert sum(again.computed.values()) <= 2 * shards - len(finished) + 2
    assert not list((tmp_path / "results").rglob("*.tmp"))
    assert project.tables() == reference.tables()
