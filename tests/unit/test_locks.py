"""Locks on files: one holder, named to who waits, also across users."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from virnucpro.locks import describe_holder, read_holder, try_lock, write_holder

TAKE = """
import os, sys
from pathlib import Path
from virnucpro.locks import describe_holder, try_lock
os.setuid(65534)
path = Path(sys.argv[1])
lock = try_lock(path, "another user's")
print("taken" if lock else describe_holder(path))
"""


def test_a_lock_has_one_holder_and_says_which(tmp_path):
    path = tmp_path / "x.lock"
    lock = try_lock(path, "a purpose much longer than the next one")
    assert describe_holder(path).startswith(f"process {os.getpid()} on {socket.gethostname()} for a purpose")
    assert try_lock(path, "another") is None and "for a purpose" in describe_holder(path), (
        "who fails leaves it as it is"
    )
    lock.release()
    again = try_lock(path, "b")
    write_holder(path, "b", child=7)
    assert read_holder(path) == {
        "process": os.getpid(), "host": socket.gethostname(), "purpose": "b", "child": 7,
    }  # fmt: skip
    again.release()


@pytest.mark.parametrize("text", ["", "{", "[1]", "process 3"])
def test_a_holder_that_says_nothing(tmp_path, text):
    (tmp_path / "x.lock").write_text(text)
    assert (
        read_holder(tmp_path / "x.lock") == {} and describe_holder(tmp_path / "x.lock") == "a process that just started"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_users_lock_in_a_folder_for_all():
    """Where fs.protected_regular is on, opening such a file as if to create it is refused."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o1777)
        path = Path(name, "x.lock")

        def other() -> str:
            return subprocess.run([sys.executable, "-c", TAKE, path], capture_output=True, text=True).stdout.strip()

        lock = try_lock(path, "root's")
        assert other() == f"process {os.getpid()} on {socket.gethostname()} for root's"
        lock.release()
        assert other() == "taken"
        assert read_holder(path)["purpose"] == "another user's"
