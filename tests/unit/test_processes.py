"""Processes beside a job: the order of their answers, and that none outlives it or leaves it waiting."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from virnucpro.errors import VirNucProError
from virnucpro.processes import Processes


@pytest.mark.parametrize(
    ("work", "task", "said"),
    [
        (os._exit, 3, "a process that works for this job ended with status 3"),
        (signal.raise_signal, 9, "was killed by signal 9.*give the job more and run again"),
    ],
)
def test_a_process_that_is_gone_is_an_error(work, task, said):
    with pytest.raises(VirNucProError, match=said), Processes(work, 2, 0) as processes:
        list(processes.map([task] * 20))


def test_an_error_of_the_system_is_raised_here():
    """Such as a full disk, which the job's log names in one message."""
    with pytest.raises(FileNotFoundError, match="nowhere"), Processes(os.stat, 2, 0) as processes:
        list(processes.map(["/nowhere"] * 3))


def test_tasks_are_taken_ahead_in_bounds_and_answered_in_order():
    taken = []
    with Processes(abs, 2, 3) as processes:
        for given, result in enumerate(processes.map(map(lambda task: taken.append(task) or -task, range(50)))):
            assert result == given and len(taken) <= given + 7


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 500), (signal.SIGKILL, 0)])
def test_processes_end_with_their_job(number, seconds):
    """At once if it is interrupted, after their task if it is killed."""
    program = (
        "import sys, time; from virnucpro.processes import Processes\n"
        "with Processes(time.sleep, 2, 0) as processes:\n"
        "    print(next(processes.map([0] * 9)), flush=True)\n"
        "    print(*(process._process.pid for process in processes._processes), flush=True)\n"
        "    list(processes.map([int(sys.argv[1])] * 9))\n"
        "    time.sleep(500)\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", program, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    job.stdout.readline()
    pids = job.stdout.readline().split()
    job.send_signal(number)
    assert job.wait(timeout=30)
    job.communicate()
    for _ in range(300):
        if not any(map(runs, pids)):
            break
        time.sleep(0.1)
    assert len(pids) == 2 and not any(map(runs, pids))


def runs(pid):
    """Whether there is such a process; one that ended may wait for its new parent."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
