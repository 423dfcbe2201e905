"""A shard's sequences as tokens, slice after slice, made ahead by a thread, or for byte pairs in a subprocess.

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
from virnucpro.encoders.spec import EncoderSpec

SLICE_SIZE = 16384  # sequences that are tokenized and planned together
FIRST_SLICE_SIZE = 2048  # in the first slice, where somebody waits for it
SLICES_AHEAD = 2  # in the making beside the one that is asked for
SUBPROCESS_SEQUENCES = 4096  # for more than so many a subprocess starts

Tokenize = Callable[[Sequence[bytes], Sequence[str]], tuple[np.ndarray, np.ndarray]]


class TokenSlices:
    """(first sequence, flat tokens, token counts) of each slice, in order; to be iterated over once.

    ``tokenize`` is called in a thread of its own, from the iteration's beginning on, or from ``begin``. If it is a
    subprocess, that ends with the iteration, or with the ``with`` block around it. The first slice may be smaller, where
    somebody waits for it; the next ones are each twice as large.
    """

    def __init__(
        self,
        tokenize: Tokenize | TokenizerProcess,
        ids: Sequence[str],
        sequences: Sequence[bytes],
        first: int = SLICE_SIZE,
    ) -> None:
        self.tokenize, self.ids, self.sequences = tokenize, ids, sequences
        self._thread = ThreadPoolExecutor(1, "tokenize")
        self._made: deque[tuple[int, Future]] = deque()
        edges = [0]
        while edges[-1] < len(sequences):
            edges.append(min(edges[-1] + min(first, SLICE_SIZE), len(sequences)))
            first *= 2
        self._slices = pairwise(edges)

    def begin(self) -> TokenSlices:
        for start, stop in islice(self._slices, SLICES_AHEAD + 1 - len(self._made)):
            future = self._thread.submit(self.tokenize, self.sequences[start:stop], self.ids[start:stop])
            self._made.append((start, future))
        return self

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        with self.begin():
            while self._made:
                first, tokens = self._made.popleft()
                self.begin()
                yield first, *tokens.result()

    def __enter__(self) -> TokenSlices:
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
) -> Iterator[TokenSlices | None]:
    """A shard's slices, already in the making by a subprocess, where that pays: for many byte pairs."""
    if spec.tokenizer is None or not wanted or len(sequences) <= SUBPROCESS_SEQUENCES:
        yield None
        return
    process = TokenizerProcess(spec.tokenizer, int(spec.config["vocabulary"]))
    with TokenSlices(process, ids, sequences).begin() as slices:
        yield slices
