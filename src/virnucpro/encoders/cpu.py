"""A CPU's share of an encoder: operations that write in place, and a core for each packed batch.

Small encoders spend as much time beside their matrix products as in them, moving numbers from one tensor to the next. So
products are accumulated into the residual stream, and nothing is written twice that nobody reads again. And one
thread computes a batch from beginning to end: two threads that share every operation wait for each other at each of its
ends, and where other programs use the cores, too, for as long as the slower one isn't running.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from virnucpro.encoders.ops import Activation, Ops, gated_gelu, gated_silu
from virnucpro.encoders.packing import PackedBatch


def _gated_gelu(x: torch.Tensor) -> torch.Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(gate).mul_(value)


def _gated_silu(x: torch.Tensor) -> torch.Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(value)


# mallopt's, of <malloc.h>: memory at the heap's end that is given back, size from which on an allocation is mapped alone
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

ROWS_MULTIPLE = 64  # of tokens in a batch of HalfCpuOps: oneDNN makes a program for each size, in the time of a batch

_IN_PLACE: dict[Activation, Activation] = {gated_gelu: _gated_gelu, gated_silu: _gated_silu}


class CpuOps(Ops):
    """PyTorch in place, for inference: the residual stream (T, d) that an operation is given is the one it gives back."""

    name = "cpu"

    def gated(self, x: torch.Tensor, linear: Any, activation: Activation) -> torch.Tensor:
        return _IN_PLACE[activation](linear(x))

    def add_bias(self, x: Any, bias: torch.Tensor) -> torch.Tensor:
        return x.add_(bias)

    def add_linear(
        self, x: Any, hidden: torch.Tensor, linear: Any, activation: Activation | None = None, scale: float = 1.0
    ) -> torch.Tensor:
        hidden = activation(hidden) if activation else hidden
        x.addmm_(hidden, linear.weight.t(), alpha=scale)
        return x if linear.bias is None else x.add_(linear.bias)

    def mean(self, hidden: torch.Tensor, batch: PackedBatch, skip: int = 0, limit: int = 0) -> torch.Tensor:
        means = []
        for start, sequences, length in batch.runs:
            end = min(length - skip, skip + limit) if limit else length - skip
            tokens = hidden[start : start + sequences * length].unflatten(0, (sequences, length))
            means.append(tokens[:, skip:end].float().mean(1))
        return torch.cat(means)


class HalfCpuOps(CpuOps):
    """The same with layers in bf16: products, q, k, v, ALiBi's bias, GELU. Stream, LayerNorm and means stay fp32.

    One for each job: it keeps the weights, in the order in which oneDNN multiplies; PyTorch has no public name for that.
    With the bundled encoders its own linear layer takes a tenth of a batch's time to put them into it again.
    """

    def __init__(self) -> None:
        self._packed: dict[nn.Module, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def linear(self, x: torch.Tensor, linear: Any) -> torch.Tensor:
        if linear not in self._packed:  # not before the first batch comes: by then features are in their order
            weight, bias = (None if each is None else each.to(torch.bfloat16) for each in (linear.weight, linear.bias))
            self._packed[linear] = torch.ops.mkldnn._reorder_linear_weight(weight, len(x)), bias
        return torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), *self._packed[linear], "none", [], "")

    def gated(self, x: torch.Tensor, linear: Any, activation: Activation) -> torch.Tensor:
        return _IN_PLACE[activation](self.linear(x, linear))

    def add_linear(
        self, x: Any, hidden: torch.Tensor, linear: Any, activation: Activation | None = None, scale: float = 1.0
    ) -> torch.Tensor:
        hidden = activation(hidden) if activation else hidden
        return x.add_(self.linear(hidden, linear), alpha=scale)


def keep_freed_memory() -> None:
    """Have glibc keep what tensors give back, for the rest of the process; nothing elsewhere.

    Otherwise it returns it to the system at the end of each batch, and the next one's first touch of every page is a fault:
    with the bundled encoders a quarter of the processor's time.
    """
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that it takes


@contextmanager
def cores() -> Iterator[ThreadPoolExecutor | None]:
    """As many workers as PyTorch has threads, which compute with one thread each; None if it has only one."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    if threads == 1:
        yield None
        return
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, "core", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
