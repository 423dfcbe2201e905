"""Files that appear whole or not at all."""

import errno
import fcntl
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from virnucpro.io import atomic_directory, atomic_file, sha256_file
from virnucpro.logging import job


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_directory(path) as temporary:
            (temporary / content).write_text(content)
    assert [entry.name for entry in path.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_writer_waits_for_another_and_removes_what_it_leaves_when_killed(tmp_path, kind, caplog):
    code = (
        f"import sys, time; from virnucpro.io import atomic_{kind}\n"
        "with atomic_" + kind + "(sys.argv[1]) as t: print(t, flush=True); time.sleep(60)"
    )
    path, atomic = tmp_path / "target", atomic_file if kind == "file" else atomic_directory
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        left = Path(writer.stdout.readline().strip())
        killer = threading.Timer(0.5, writer.kill)
        killer.start()
        with caplog.at_level("INFO"), atomic(path) as temporary:
            assert writer.wait() == -signal.SIGKILL, "it waited"
            assert not left.exists() and temporary not in (left, path)
    assert f"waiting for process {writer.pid} on {socket.gethostname()} for writing {path}" in caplog.text
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_removes_nothing_of_another_files(tmp_path):
    others = {tmp_path / name for name in (".target.tsv.01234567.tmp", ".target.01234567.01234567.tmp", ".target.mine")}
    for other in others:
        other.touch()
    with atomic_file(tmp_path / "target"):
        pass
    assert set(tmp_path.iterdir()) == others | {tmp_path / "target"}


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """There nobody can tell what a living writer's is, so nothing is removed."""
    left = tmp_path / ".target.01234567.tmp"
    left.touch()

    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with atomic_file(tmp_path / "target") as temporary:
        temporary.write_text("written")
    assert (tmp_path / "target").read_text() == "written" and set(tmp_path.iterdir()) == {tmp_path / "target", left}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_many_writers_of_one_path(tmp_path, kind):
    """All succeed, and what stays is one of theirs, whole."""
    code = (
        f"import sys, time; from virnucpro.io import atomic_{kind}\n"
        f"end = time.monotonic() + 2\nwhile time.monotonic() < end:\n  with atomic_{kind}(sys.argv[1]) as t:\n"
        "    for name in 'abcdefgh': (t / name if t.is_dir() else t).write_text(sys.argv[2])"
    )
    path = tmp_path / "target"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    texts = {(path / name).read_text() for name in "abcdefgh"} if path.is_dir() else {path.read_text()}
    assert len(texts) == 1 and texts <= set("012345")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_working_directory_that_is_gone(tmp_path, kind):
    code = f"import os; from virnucpro.io import *\nos.rmdir(os.getcwd())\nwith atomic_{kind}('x'): pass"
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "FileNotFoundError" in done.stderr


def test_digest(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize(("call", "status", "says"), [
    ("print('printed', end='')", 0, "done"),
    ("raise VirNucProError('a reason')", 1, "ERROR a reason"),
    ("raise ValueError('a fault')", 1, "ValueError: a fault"),
    ("raise KeyboardInterrupt", 130, "ERROR interrupted"),
])  # fmt: skip
def test_a_job_ends_with_the_status_and_the_log_of_what_happened(tmp_path, call, status, says):
    script = (
        "import sys\nfrom virnucpro.errors import VirNucProError\nfrom virnucpro.logging import job\n"
        f"with job(sys.argv[1]):\n    {call}\n"
    )
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "job.log"], capture_output=True, text=True)
    assert run.returncode == status and says in (tmp_path / "job.log").read_text() and says in run.stderr
    assert run.stdout == ("printed" if status == 0 else "")
    closed = 'exec "$0" -c "$1" "$2" >&- 2>&-'
    run = subprocess.run(["sh", "-c", closed, sys.executable, script, tmp_path / "closed.log"])
    assert run.returncode == status and says in (tmp_path / "closed.log").read_text()


def test_a_folder_that_vanishes_meanwhile_is_one_message(tmp_path):
    gone, log = tmp_path / "scratch", tmp_path / "job.log"
    for make in (atomic_file, atomic_directory):
        with pytest.raises(SystemExit) as stopped, job(log), make(gone / "x"):
            shutil.rmtree(gone)
        assert stopped.value.code == 1 and not gone.exists()
        text = log.read_text()
        assert f"ERROR No such file or directory: {gone}/" in text and "Traceback" not in text
    with pytest.raises(FileNotFoundError), job(log):
        (tmp_path / "absent").read_text()  # the folder is there: a fault of the program, perhaps
    assert "Traceback" in log.read_text()
