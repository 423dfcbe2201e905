"""CUDA graphs: the kernels of a whole pack, recorded once, are launched in one call ever after.

DNABERT-S has a hundred kernels of some 0.2 ms each in a pack. Launched one by one from an interpreter that threads
share, they come too slowly for the GPU. A graph has fixed shapes and addresses, so packs are padded up to a few sizes with
empty sequences, and with tokens that belong to none: what becomes of these is never looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from virnucpro.encoders.attention import Backend
from virnucpro.encoders.packing import Pack

logger = logging.getLogger(__name__)

SEQUENCES, TOKENS = 256, 1024  # multiples that packs are padded to
MOST = 32  # graphs; packs of further shapes are launched kernel by kernel


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    pack: Pack  # its buffer is what the graph reads
    pooled: torch.Tensor  # (n, d) fp32, what it writes


class Graphs:
    """Pooled vectors of packs through an encoder on the current GPU, all in the current stream's order."""

    def __init__(self, encoder: Any, backend: Backend) -> None:
        self.encoder, self.backend = encoder, backend
        self.device = encoder.embed_tokens.weight.device
        self.recorded: dict[Hashable, _Graph] = {}
        self.replayed = 0
        self._seen: set[Hashable] = set()
        # Of all graphs, which never run at the same time; memory is shared by what is recorded on one stream.
        self._memory, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        self._most = MOST

    def room(self, lengths: np.ndarray) -> tuple[int, int]:
        """The least n and T of a pack of these (n,) lengths."""
        return -(-len(lengths) // SEQUENCES) * SEQUENCES, -(-int(lengths.sum()) // TOKENS) * TOKENS

    def prepare(self, host: Pack) -> None:
        """Record a graph for packs of this shape, if one was computed before and left compiled kernels."""
        key = self._key(host)
        if key in self._seen and key not in self.recorded and len(self.recorded) < self._most:
            self._record(key, host)
        self._seen.add(key)

    def pooled(self, host: Pack) -> torch.Tensor:
        """A pack with room on the host -> (at least n, d) fp32, to be copied before the next call."""
        graph = self.recorded.get(self._key(host))
        if graph is None:
            return self._compute(host.to(self.device))
        graph.pack.buffer.copy_(host.buffer.pin_memory(), non_blocking=True)
        graph.graph.replay()
        self.replayed += 1
        return graph.pooled

    def _key(self, host: Pack) -> Hashable:
        """What a graph has fixed."""
        from virnucpro.encoders.kernels.attention import launch

        weight = self.encoder.embed_tokens.weight
        shape = launch(self.encoder.config.head_dim, weight.dtype, host.min_length, host.max_length)
        return len(host.lengths), len(host.positions), shape.blocks, tuple(shape.constants.items())

    def _compute(self, pack: Pack) -> torch.Tensor:
        return self.encoder.pool(self.encoder(pack.tokens, pack, self.backend), pack)

    def release(self) -> None:
        """Give back their memory, and make no more."""
        self.recorded.clear()
        self._most = 0

    def _record(self, key: Hashable, host: Pack) -> None:
        pack = host.to(self.device)
        for again in (True, False):
            graph = torch.cuda.CUDAGraph()
            try:
                self.recorded[key] = _Graph(graph, pack, self._captured(graph, pack))
                return
            except torch.OutOfMemoryError:
                if not self.recorded:  # without any graph the name of their memory is used up
                    self._memory = torch.cuda.graph_pool_handle()
                if again:  # memory that PyTorch keeps for later can't be given back within
                    torch.cuda.empty_cache()
        logger.warning("no memory for graphs: packs are launched kernel by kernel")
        self.release()

    def _captured(self, graph: torch.cuda.CUDAGraph, pack: Pack) -> torch.Tensor:
        # Not ``torch.cuda.graph``, which waits for the GPU: that goes on with the packs before this one.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            try:
                return self._compute(pack)
            finally:
                graph.capture_end()
