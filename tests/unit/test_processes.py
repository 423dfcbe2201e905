"""Processes that compute side by side: order, bounds, errors, ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from virnucpro.calls.processes import in_order
from virnucpro.errors import StorageError, VirNucProError


class Task:
    """Called in other processes, which import this module."""

    def __init__(self, what):
        self.what = what

    def __call__(self, number):
        if self.what == "wait":
            time.sleep(0.1 * (number % 3 == 0))
        elif self.what == "environment":
            return os.environ["OPENBLAS_NUM_THREADS"], os.getpid()
        elif number == 5:
            if self.what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"refuse": StorageError("five: Delete it."), "fail": OSError(28, "No space left", "five")}[self.what]
        return number, b"x" * 200_000  # more than a pipe holds


def run(what, processes, count=20):
    with in_order(Task(what), range(count), processes) as results:
        return list(results)


@pytest.mark.parametrize("processes", [1, 4])
def test_results_are_in_order(processes):
    assert [number for number, _ in run("wait", processes)] == list(range(20))


def test_a_process_has_one_blas_thread():
    found = set(run("environment", 2))
    assert {threads for threads, _ in found} == {"1"} and os.getpid() not in {process for _, process in found}


def test_few_arguments_are_read_ahead():
    read = []
    with in_order(Task("wait"), (read.append(number) or number for number in range(100)), 2) as results:
        for _ in range(10):
            next(results)
        assert len(read) <= 10 + 4


@pytest.mark.parametrize("processes", [1, 3])
def test_errors_are_those_of_the_function(processes):
    with pytest.raises(StorageError, match=r"^five: Delete it\.$"):
        run("refuse", processes)
    with pytest.raises(OSError, match="No space left") as raised:
        run("fail", processes)
    assert raised.value.filename == "five"


def test_a_process_that_is_killed_is_a_message():
    with pytest.raises(VirNucProError, match=r"was killed by signal 9 .* if memory was short"):
        run("die", 3)


def test_an_error_of_the_arguments_ends_the_processes():
    def arguments():
        yield from range(3)
        raise StorageError("no more")

    with pytest.raises(StorageError, match="no more"), in_order(Task("wait"), arguments(), 2) as results:
        list(results)


def test_processes_end_with_a_parent_that_is_killed():
    code = (
        "import os, sys\n"
        "from tests.unit.test_processes import Task\n"
        "from virnucpro.calls.processes import in_order\n"
        "with in_order(Task('environment'), iter(range(40)), 2) as results:\n"
        "    print(*{next(results)[1] for _ in range(20)}, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as parent:
        children = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert children
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if os.path.exists(f"/proc/{child}")]
