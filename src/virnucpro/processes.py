"""Processes that do some work on many tasks side by side: ``python -m virnucpro.processes``.

Not multiprocessing, whose processes would run the script again that Snakemake made of the job's, and, waiting for each other,
outlive a job that was killed. These end when their pipes do.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from virnucpro.errors import VirNucProError

PIPE_BYTES = 1 << 20


class Processes:
    """A context manager that calls ``work`` on tasks, here until there is enough to do for several processes.

    Args:
        work: a callable that can be pickled.
        count: processes; with one, all is done here.
        after: tasks that are done here first, as few don't pay for the start of processes.
        environment: variables that the processes have, besides this one's.
    """

    def __init__(
        self, work: Callable[[Any], Any], count: int, after: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._work, self._count, self._after, self._environment = work, count, after, environment or {}
        self._processes: list[_Process] = []
        self._idle = queue.SimpleQueue[_Process]()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.end()
        if self._threads:
            self._threads.shutdown(cancel_futures=True)

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the tasks, of which few are taken ahead.

        An error of the tasks themselves is raised once all results before it were given.
        """
        running: deque[Future[Any]] = deque()
        tasks, done, failed = iter(tasks), 0, None
        while not failed:
            try:
                task = next(tasks)
            except StopIteration:
                break
            except Exception as error:
                failed = error
                break
            done += 1
            if self._count == 1 or done <= self._after:
                yield self._work(task)
                continue
            if not self._threads:
                self._start()
            if len(running) > 2 * self._count:
                yield running.popleft().result()
            assert self._threads
            running.append(self._threads.submit(self._run, task))
            del task
        while running:
            yield running.popleft().result()
        if failed:
            raise failed

    def _start(self) -> None:
        self._threads = ThreadPoolExecutor(self._count, "process")
        for _ in range(self._count):
            self._processes.append(_Process(self._work, self._environment))
            self._idle.put(self._processes[-1])

    def _run(self, task: Any) -> Any:
        process = self._idle.get()
        try:
            return process(task)
        finally:
            self._idle.put(process)


class _Process:
    """One of them; ended by ``end`` or with its parent."""

    def __init__(self, work: Callable[[Any], Any], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError, AttributeError):  # this user's pipes hold all they may, or it isn't Linux
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[arg-type]
        self._send(work)

    def __call__(self, task: Any) -> Any:
        """The result; raises what the work raises that a user can cause, and VirNucProError if the process is gone."""
        self._send(task)
        assert self._process.stdout is not None
        try:
            result = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._lost() from None
        if isinstance(result, Exception):
            raise result
        return result

    def end(self) -> None:
        """Stop it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def _lost(self) -> VirNucProError:
        status = self._process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return VirNucProError(
            f"a process that works for this job {how} (its own message, if any, is above); if memory was short, "
            "give the job more and run again"
        )


def main() -> None:
    """Receive the work, then tasks; answer each with its result or the error that a user can cause."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    receive, answer = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):  # the parent is gone
        work = pickle.load(receive)
        while True:
            task = pickle.load(receive)
            try:
                result = work(task)
            except (VirNucProError, OSError) as error:  # also a full disk
                result = error
            pickle.dump(result, answer, protocol=5)
            answer.flush()


if __name__ == "__main__":
    main()
