"""A function of many arguments computed by several processes, with the results in order.

A process is ``python -m virnucpro.calls.processes``: not forked, so that it has one BLAS thread whatever its parent has,
and ends with its parent, whose pipe it reads.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from virnucpro.calls import ONE_BLAS_THREAD
from virnucpro.errors import VirNucProError

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@contextmanager
def in_order(
    function: Callable[[Argument], Result], arguments: Iterable[Argument], processes: int
) -> Iterator[Iterator[Result]]:
    """Results of ``function`` for all arguments, in their order; at most two for each process are in the making or wait.

    Args:
        function: can be pickled, as can its arguments, results and errors. With one process it is called here.
        arguments: read as results are taken.
        processes: that compute side by side; they end with the block.

    Raises:
        VirNucProError: a process is gone; and, where its result is taken, what the function raises.
    """
    if processes <= 1:
        yield map(function, arguments)
        return
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        idle = SimpleQueue[_Process]()
        for _ in range(processes):
            process = _Process(function)
            stack.callback(process.end)
            idle.put(process)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # first of all, in the end

        def call(argument: Argument) -> Result:
            process = idle.get()
            try:
                return process(argument)
            finally:
                idle.put(process)

        def results() -> Iterator[Result]:
            ahead = deque[Future[Result]]()
            for argument in arguments:
                ahead.append(pool.submit(call, argument))
                if len(ahead) >= 2 * processes:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        yield results()


class _Process:
    """One process, which calls the function for one argument after the other."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_BLAS_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._function: Callable[[Any], Any] | None = function  # not sent yet

    def __call__(self, argument: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            if self._function is not None:
                _send(self._function, self._process.stdin)
                self._function = None
            _send(argument, self._process.stdin)
            result, error = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError, BrokenPipeError):
            status = self._process.wait()
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise VirNucProError(
                f"a process that scores frames for this job {how} (its own message, if any, is above); if memory was "
                "short, give the job more and run again"
            ) from None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()


def _send(message: Any, pipe: Any) -> None:
    pickle.dump(message, pipe, protocol=5)
    pipe.flush()


def main() -> None:
    """Read a function and its arguments from the standard input, and write its results until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):  # the parent is gone
        function = pickle.load(incoming)
        while True:
            argument = pickle.load(incoming)
            answer: tuple[Any, Exception | None]
            try:
                answer = function(argument), None
            except Exception as error:
                answer = None, error
            _send(answer, outgoing)


if __name__ == "__main__":
    main()
