"""After a kill, and beside other runs: only what is missing is computed, and the results are an undisturbed run's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.workflow.project import NONE, Project
from tests.workflow.runner import command, environment


def test_kill_and_the_same_command_again(reference, tmp_path, tiny):
    project = Project(tmp_path, tiny)
    started = subprocess.Popen(
        command(config=project.config()), cwd=tmp_path, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    finished: list[Path] = []
    deadline = time.monotonic() + 120
    while len(finished) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        finished = list((tmp_path / "results" / "s").glob("embeddings/*/*/*.h5"))
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert len(finished) >= 2
    # The models are prepared now; a second run is killed too.
    started = subprocess.Popen(
        command(config=project.config()), cwd=tmp_path, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(4)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    finished = list((tmp_path / "results" / "s").glob("embeddings/*/*/*.h5"))
    again = project.run()
    shards = project.shards()
    # Of a file that appeared just before the kill Snakemake had no word yet: at most the running two.
    assert sum(again.computed.values()) <= 2 * shards - len(finished) + 2
    assert not list((tmp_path / "results").rglob("*.tmp"))
    assert project.tables() == reference.tables()


def test_samples_and_runs_share_the_cache(tmp_path, tiny):
    cache = tmp_path / "cache"
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    first = Project(one, tiny)
    (one / "copy.fa").write_bytes(first.fasta.read_bytes())
    (one / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\nt\tcopy.fa\n")
    killed = subprocess.Popen(
        command(config=first.config(cache_dir=cache)), cwd=one, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(cache.rglob("*.h5"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = len(list(cache.rglob("*.h5")))

    second = Project(two, tiny)
    run = second.run(cache_dir=cache)
    shards = second.shards()
    assert run.cache_hits == kept
    assert sum(run.computed.values()) == 2 * shards - kept

    rest = first.run(cache_dir=cache)
    assert rest.computed == NONE, "two samples with the same shards, all in the cache"
    assert first.tables() == second.tables()
    assert (one / "results" / "t" / "predictions.tsv").read_bytes() == first.tables()["predictions.tsv"]
    assert first.run(cache_dir=cache).nothing_to_do
