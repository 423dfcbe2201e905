"""One line for all embedding jobs of a run, from their files."""

import os
import time
from types import SimpleNamespace

import pytest

from virnucpro.embeddings import run_progress as module
from virnucpro.embeddings.run_progress import RunProgress


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of two encoders, the second thrice the work, over two shards; the first shard's DNA is there already."""
    said = []
    progress = RunProgress(said.append, bases={"s": 3_000_000})
    (tmp_path / "dna-1.h5").touch()
    for shard, frames in ((1, 100), (2, 300)):
        for encoder, work in (("dna", 1), ("protein", 3)):
            name = f"{encoder}-{shard}"
            progress.expect(str(tmp_path / f"{name}.h5"), str(tmp_path / f"{name}.log"), frames, frames * work)
    return progress, said, tmp_path


def at(progress, seconds):
    """As if it had begun so long ago."""
    progress._began = time.time() - seconds
    return progress.line()


def log(folder, name, done):
    path = folder / f"{name}.log"
    path.write_text(
        f"2026-01-01 INFO {name}.faa (5 frames): 1 of 1000 bases (0 %)\n{name}.faa: {done} of 1000 residues (x"
    )
    return path


def test_what_is_there_and_what_logs_say(run):
    progress, _, folder = run
    assert at(progress, 60) == "", "nothing was embedded by this run yet"
    log(folder, "protein-2", 500)
    # 450 of 1,600 units of work, 100 there before; 3 Mbp · 450 / 1,600 in a minute.
    line = at(progress, 60)
    assert line == "embedded 125 of 400 frames (34 %), 0.8 Mbp/min, 02:20 left"
    for name in ("protein-1", "dna-2", "protein-2"):
        (folder / f"{name}.h5").touch()
    assert at(progress, 90) == "embedded 400 of 400 frames (100 %), 1.9 Mbp/min in 01:30"


def test_logs_of_former_runs_say_nothing(run):
    progress, _, folder = run
    os.utime(log(folder, "protein-2", 900), (1, 1))
    (folder / "dna-2.log").write_bytes(b"\xff" * 9000)
    assert at(progress, 60) == ""


def test_vectors_that_went_after_use_are_done(run):
    progress, _, folder = run
    (folder / "dna-1.h5").unlink()  # as a run with keep: none does, here of what an earlier run made
    for name in ("protein-1", "dna-2"):
        (folder / f"{name}.log").write_text("2026-01-01 INFO 0.1 s with loading and writing\n2026-01-01 INFO done\n")
    # 700 of 1,600 units of work, 100 there before.
    assert at(progress, 60) == "embedded 250 of 400 frames (44 %), 1.1 Mbp/min, 01:30 left"
    (folder / "dna-1.log").write_text("2026-01-01 INFO begun again\n")
    assert at(progress, 60).startswith("embedded 200 of 400 frames (38 %)")
    (folder / "dna-1.log").write_text("2026-01-01 ERROR done\n")
    assert at(progress, 60).startswith("embedded 200 of 400 frames (38 %)")


def test_what_former_runs_made_and_removed_is_no_work_of_this_one(tmp_path):
    progress = RunProgress(lambda line: None)
    for name in ("old", "new"):
        (tmp_path / "old.log").write_text("2026-01-01 INFO done\n")
        os.utime(tmp_path / "old.log", (1, 1))
        progress.expect(str(tmp_path / f"{name}.h5"), str(tmp_path / f"{name}.log"), 100, 100)
    assert at(progress, 60) == ""
    (tmp_path / "new.h5").touch()
    assert at(progress, 60) == "embedded 100 of 100 frames (100 %) in 01:00"


def test_it_is_said_now_and_then_and_at_the_end(run, monkeypatch):
    progress, said, folder = run
    monkeypatch.setattr(module, "FIRST", 0.01)
    monkeypatch.setattr(module, "EVERY", 0.01)
    progress.start()
    (folder / "dna-2.h5").touch()
    while len(said) < 2:
        time.sleep(0.01)
    (folder / "protein-1.h5").touch()
    (folder / "protein-2.h5").touch()
    time.sleep(0.1)  # many looks, none of which is the last word
    progress.stop()
    assert said[0].startswith("embedded 200 of 400 frames (25 %), ") and said[-1].startswith("embedded 400 of 400")
    assert sum("(100 %)" in line for line in said) == 1
    count = len(said)
    progress.stop()
    assert len(said) == count


def test_a_run_that_embeds_nothing_says_nothing(tmp_path):
    said = []
    progress = RunProgress(said.append)
    (tmp_path / "a.h5").touch()
    progress.expect(str(tmp_path / "a.h5"), str(tmp_path / "a.log"), 10, 10)
    progress.start()
    progress.stop()
    assert not said


def test_slow_file_systems_are_asked_rarely(monkeypatch):
    waits = []
    progress = RunProgress(print)
    now = iter([0.0, 40.0, 900.0, 900.1])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(progress, "line", lambda: "")
    monkeypatch.setattr(progress, "_ended", SimpleNamespace(wait=lambda wait: waits.append(wait) or len(waits) > 2))
    progress._watch()
    assert waits == [module.FIRST, pytest.approx(800), module.EVERY]
