"""A job's sequences as tokens, window after window, made ahead of whoever computes: by a thread, byte pairs in a process.

Nothing here needs PyTorch, so a job can begin with it while that is still being imported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, pairwise

import numpy as np

from virnucpro.encoders.bpe import TokenizerProcess
from virnucpro.encoders.canonical import EncoderSpec

WINDOW = 16384  # sequences that are tokenized and planned together
FIRST = 2048  # of them in the first window, where somebody waits for it
AHEAD = 2  # windows in the making beside the one that is asked for
APART = 4096  # sequences for which a process starts, if there are more

Tokenize = Callable[[Sequence[bytes], Sequence[str]], tuple[np.ndarray, np.ndarray]]


class TokenWindows:
    """(first sequence, flat tokens, token counts) of each window, in order; to be iterated over once.

    ``tokenize`` is called in a thread of its own, from the iteration's beginning on, or from ``begin``. If it is a
    process, that ends with the iteration, or with the ``with`` block around it. The first window may be smaller, where
    somebody waits for it; the next ones are each twice as large.
    """

    def __init__(
        self, tokenize: Tokenize | TokenizerProcess, ids: Sequence[str], sequences: Sequence[bytes], first: int = WINDOW
    ) -> None:
        self.tokenize, self.ids, self.sequences = tokenize, ids, sequences
        self._thread = ThreadPoolExecutor(1, "tokenize")
        self._made: deque[tuple[int, Future]] = deque()
        edges = [0]
        while edges[-1] < len(sequences):
            edges.append(min(edges[-1] + min(first, WINDOW), len(sequences)))
            first *= 2
        self._windows = pairwise(edges)

    def begin(self) -> TokenWindows:
        for start, stop in islice(self._windows, AHEAD + 1 - len(self._made)):
            future = self._thread.submit(self.tokenize, self.sequences[start:stop], self.ids[start:stop])
            self._made.append((start, future))
        return self

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        with self.begin():
            while self._made:
                first, tokens = self._made.popleft()
                self.begin()
                yield first, *tokens.result()

    def __enter__(self) -> TokenWindows:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if isinstance(self.tokenize, TokenizerProcess):
            self.tokenize.end()


@contextmanager
def tokens_ahead(
    spec: EncoderSpec, ids: Sequence[str], sequences: Sequence[bytes], wanted: bool = True
) -> Iterator[TokenWindows | None]:
    """A shard's windows, already in the making by a process, where that pays: for many byte pairs."""
    if spec.tokenizer is None or not wanted or len(sequences) <= APART:
        yield None
        return
    process = TokenizerProcess(spec.tokenizer, int(spec.config["vocabulary"]))
    with TokenWindows(process, ids, sequences).begin() as windows:
        yield windows
