"""CUDA graphs: the kernels of a whole batch, recorded once, are launched in one call ever after.

DNABERT-S has a hundred kernels of some 0.2 ms each in a batch. Launched one by one from an interpreter that threads
share, they come too slowly for the GPU. A graph has fixed shapes and addresses, so batches are padded up to a few sizes
with empty sequences, and with tokens that belong to none: what becomes of these is never looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import torch

from virnucpro.encoders.attention import Backend
from virnucpro.encoders.encoder import Encoder
from virnucpro.encoders.packing import PackedBatch

logger = logging.getLogger(__name__)

SEQUENCE_MULTIPLE, TOKEN_MULTIPLE = 256, 1024  # that batches are padded to
MAX_GRAPHS = 32  # batches of further shapes are launched kernel by kernel


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: PackedBatch  # its buffer is what the graph reads
    vectors: torch.Tensor  # (n, d) fp32, what it writes


class Graphs:
    """Vectors of batches through an encoder on the current GPU, all in the current stream's order."""

    def __init__(self, encoder: Encoder, backend: Backend) -> None:
        self.encoder, self.backend = encoder, backend
        self.recorded: dict[Hashable, _Graph] = {}
        self.replayed = 0
        self._seen: set[Hashable] = set()
        # Of all graphs, which never run at the same time; memory is shared by what is recorded on one stream.
        self._memory, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        self._max_graphs = MAX_GRAPHS

    def pad_to(self, lengths: np.ndarray) -> tuple[int, int]:
        """The n and T to which a batch of these (n,) lengths is padded."""
        return (
            -(-len(lengths) // SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE,
            -(-int(lengths.sum()) // TOKEN_MULTIPLE) * TOKEN_MULTIPLE,
        )

    def prepare(self, host: PackedBatch) -> None:
        """Record a graph for batches of this shape, if one was computed before and left compiled kernels."""
        key = self._key(host)
        if key in self._seen and key not in self.recorded and len(self.recorded) < self._max_graphs:
            self._record(key, host.to(self.encoder.embed_tokens.weight.device))
        self._seen.add(key)

    def vectors(self, host: PackedBatch) -> torch.Tensor:
        """A padded batch on the host -> (at least n, d) fp32, to be copied before the next call."""
        graph = self.recorded.get(self._key(host))
        if graph is None:
            return self.encoder.vectors(host.to(self.encoder.embed_tokens.weight.device), self.backend)
        graph.batch.buffer.copy_(host.buffer.pin_memory(), non_blocking=True)
        graph.graph.replay()
        self.replayed += 1
        return graph.vectors

    def release(self) -> None:
        """Give back their memory, and make no more."""
        self.recorded.clear()
        self._max_graphs = 0

    def _key(self, host: PackedBatch) -> Hashable:
        """What a graph has fixed."""
        from virnucpro.encoders.kernels.attention import launch

        dtype = self.encoder.embed_tokens.weight.dtype
        shape = launch(self.encoder.config.head_dim, dtype, host.min_length, host.max_length)
        return len(host.lengths), len(host.positions), shape.blocks, tuple(shape.constants.items())

    def _record(self, key: Hashable, batch: PackedBatch) -> None:
        for again in (True, False):
            graph = torch.cuda.CUDAGraph()
            # Not ``torch.cuda.graph``, which waits for the GPU: that goes on with the batches before this one.
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):
                    graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
                    try:
                        vectors = self.encoder.vectors(batch, self.backend)
                    finally:
                        graph.capture_end()
                self.recorded[key] = _Graph(graph, batch, vectors)
                return
            except torch.OutOfMemoryError:
                if not self.recorded:  # without any graph the name of their memory is used up
                    self._memory = torch.cuda.graph_pool_handle()
                if again:  # memory that PyTorch keeps for later can't be given back within
                    torch.cuda.empty_cache()
        logger.warning("no memory for graphs: batches are launched kernel by kernel")
        self.release()
