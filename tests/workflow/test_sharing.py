"""Samples and runs that share a cache, one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.workflow.project import NONE, Project
from tests.workflow.runner import command, environment


@pytest.mark.soak
def test_samples_and_runs_share_the_cache(tmp_path, tiny):
    cache = tmp_path / "cache"
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    first = Project(one, tiny, count=6)
    (one / "copy.fa").write_bytes(first.fasta.read_bytes())
    (one / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\nt\tcopy.fa\n")
    killed = subprocess.Popen(
        command(config=first.config(cache_dir=cache)), cwd=one, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(cache.rglob("*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = len(list(cache.rglob("*.h5")))
    assert kept >= 2

    second = Project(two, tiny, count=6)
    run = second.run(cache_dir=cache)
    shards = second.shards()
    assert run.cache_hits == kept
    assert sum(run.computed.values()) == 2 * shards - kept

    first.unlock()
    rest = first.run(cache_dir=cache)
    assert rest.computed == NONE, "two samples with the same shards, all in the cache"
    assert first.tables() == second.tables()
    assert (one / "results" / "t" / "predictions.tsv").read_bytes() == first.tables()["predictions.tsv"]
    assert first.run(cache_dir=cache).nothing_to_do
