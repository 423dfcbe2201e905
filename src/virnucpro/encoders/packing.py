"""Which sequences share a forward pass, and the index tensors of such a packed batch.

A packed batch is a flat stream of tokens, one sequence after the other, without padding. Planning needs
NumPy only; PyTorch is imported when the first batch is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


def plan_batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Divide sequences, of (n,) token counts ``lengths``, over batches of at most ``max_tokens`` tokens.

    Returns arrays of sequence indices, each index in exactly one of them: longest first (memory runs out at
    once or never), equal lengths side by side, all full but the last one. A sequence longer than that has a batch
    of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches = []
    start, used = 0, 0
    while start < len(order):
        stop = max(int(ends.searchsorted(used + max_tokens, side="right")), start + 1)
        batches.append(order[start:stop])
        start, used = stop, int(ends[stop - 1])
    return batches


def gather_sequences(tokens: np.ndarray, lengths: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The tokens of sequences ``indices`` (m,), one after the other, from the flat stream of all n ``lengths``."""
    chosen = lengths[indices]
    shift = (np.cumsum(lengths) - lengths)[indices] - (np.cumsum(chosen) - chosen)
    return tokens[np.repeat(shift, chosen) + np.arange(int(chosen.sum()))]


class Run(NamedTuple):
    """Neighbouring sequences of equal length: a dense (sequences, length) block of the stream."""

    start: int  # first token
    sequences: int
    length: int


@dataclass(frozen=True)
class PackedBatch:
    """The shape of a flat token stream; n sequences, T tokens. Its tensors are parts of one buffer."""

    runs: tuple[Run, ...]
    total: int  # T
    min_length: int
    max_length: int
    buffer: torch.Tensor  # int32
    lengths: torch.Tensor  # (n,)
    cu_seqlens: torch.Tensor  # (n + 1,): first token of each sequence, then T
    positions: torch.Tensor  # (T,): 0 for the first token of each sequence
    tokens: torch.Tensor | None = None  # (T,), if they were given

    @classmethod
    def build(
        cls,
        lengths: np.ndarray,
        tokens: np.ndarray | None = None,
        pad_to: tuple[int, int] = (0, 0),
        pinned: bool = False,
    ) -> PackedBatch:
        """Make the index tensors, on the host.

        ``pad_to`` is the least n and T of the tensors: further sequences are empty, further tokens belong to none.
        ``pinned`` is memory that a GPU can read by itself. NumPy fills it, since waking PyTorch's threads for so little
        takes longer than the work.
        """
        import torch

        lengths = np.asarray(lengths, dtype=np.int64)
        if lengths.size == 0 or lengths.min() < 1:
            raise ValueError("a batch needs at least one sequence, and no sequence without tokens")
        ends = np.cumsum(lengths)
        total = int(ends[-1])
        if tokens is not None and len(tokens) != total:
            raise ValueError(f"{len(tokens)} tokens for lengths that add up to {total}")
        n, t = max(len(lengths), pad_to[0]), max(total, pad_to[1])
        sizes = [n, n + 1, t] + [t] * (tokens is not None)
        buffer = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=pinned)
        buffer.numpy().fill(0)
        parts = [part.numpy() for part in buffer.split(sizes)]
        parts[0][: len(lengths)] = lengths
        parts[1][1 : len(ends) + 1] = ends
        parts[1][len(ends) + 1 :] = total
        parts[2][:total] = np.arange(total) - np.repeat(ends - lengths, lengths)
        if tokens is not None:
            parts[3][:total] = tokens
        first = np.flatnonzero(np.diff(lengths, prepend=-1))  # sequence of each run
        starts = zip((ends - lengths)[first], np.diff(first, append=len(lengths)), lengths[first], strict=True)
        runs = tuple(Run(*map(int, run)) for run in starts)
        return cls(runs, total, int(lengths.min()), int(lengths.max()), buffer, *buffer.split(sizes))

    def to(self, device: str | torch.device) -> PackedBatch:
        """The same on a device, sent in one transfer for which the host doesn't wait."""
        import torch

        buffer = self.buffer.pin_memory() if torch.device(device).type == "cuda" else self.buffer
        buffer = buffer.to(device, non_blocking=True)
        parts = (self.lengths, self.cu_seqlens, self.positions, self.tokens)
        sizes = [len(part) for part in parts if part is not None]
        return PackedBatch(self.runs, self.total, self.min_length, self.max_length, buffer, *buffer.split(sizes))

    def per_token(self, values: torch.Tensor) -> torch.Tensor:
        """(n,) one value a sequence -> (T,) the same value at each of its tokens."""
        return values.repeat_interleave(self.lengths, output_size=self.total)

    def segment_sum(self, values: torch.Tensor) -> torch.Tensor:
        """(T, ...) floating -> (n, ...): the sum over each sequence, accumulated in that dtype."""
        import torch

        return torch.segment_reduce(values, "sum", lengths=self.lengths, axis=0, unsafe=True)
