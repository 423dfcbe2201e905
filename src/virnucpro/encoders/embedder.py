"""Packed batches through an encoder: on a GPU several are queued, so that it never waits for the host.

While the GPU computes, the next slices of the sequences are tokenized (byte pairs in a subprocess), and the caller does
what it wants with the slices that are done. One stream holds everything in order: a batch's index tensors on their way
there (one transfer), its kernels, its vectors on their way back. On a CPU each core computes batches of its own.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from virnucpro.encoders.cpu import ROWS_MULTIPLE, CpuOps, HalfCpuOps, cores
from virnucpro.encoders.device import Device
from virnucpro.encoders.encoder import Encoder
from virnucpro.encoders.graphs import Graphs
from virnucpro.encoders.ops import COMPILED, PYTORCH, Kernels, Ops, compiled_graphs
from virnucpro.encoders.packing import PackedBatch, gather_sequences, plan_batches
from virnucpro.encoders.precision import PRECISIONS, Precision, choose_precision
from virnucpro.encoders.tokenizing import FIRST_SLICE_SIZE, SLICE_SIZE, SUBPROCESS_SEQUENCES, TokenSlices
from virnucpro.errors import ConfigError, ModelError
from virnucpro.models.registry import ARCHITECTURES

logger = logging.getLogger(__name__)

CPU_MAX_TOKENS = 1024  # in a packed batch, as auto: what a core's caches nearly hold of it; twice as many in bf16
MAX_QUEUED = 3  # batches on the device before the oldest one's vectors are waited for, and one more for each core
MIN_TOKENS = 1024  # of a batch, where memory is measured
MEMORY_SHARE = 0.85  # of what is free that a batch may take


@dataclass
class _Slice:
    """Neighbouring sequences, and their vectors as far as they are known."""

    start: int
    tokens: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray
    missing: int
    overflowed: list[np.ndarray]  # sequences (within the slice) of batches that weren't finite


@dataclass
class _Queued:
    """A batch whose vectors may still be on their way to the host."""

    slice: _Slice
    indices: np.ndarray
    pooled: torch.Tensor | Future[torch.Tensor]
    started: torch.cuda.Event | None
    copied: torch.cuda.Event | None


class Embedder:
    """All sequences of a shard through one encoder: ``vectors()``, whatever the order and size of the packed batches.

    The encoder is moved to the device and to the precision's dtype in place, as ``nn.Module.to`` does. A batch that runs
    out of memory is planned again at half its tokens; sequences whose vectors aren't finite are computed again in fp32.
    Without ``packing`` each sequence has a forward pass of its own. ``progress`` is told the rows of each batch when it is
    done. ``tokens`` of these sequences may be in the making already.
    Raises InputError for sequences that the encoder can't read, ConfigError for settings that don't fit, ModelError for
    vectors that aren't finite in fp32 either.
    """

    def __init__(
        self,
        encoder: Encoder,
        ids: Sequence[str],
        sequences: Sequence[bytes],
        *,
        tokens_per_batch: int | str = "auto",
        attention: str = "auto",
        precision: str = "auto",
        device: str | torch.device = "cpu",
        compile: bool = False,
        packing: bool = True,
        progress: Callable[[np.ndarray], object] | None = None,
        tokens: TokenSlices | None = None,
    ) -> None:
        if len(ids) != len(sequences):
            raise ValueError(f"{len(ids)} ids for {len(sequences)} sequences")
        self.architecture = ARCHITECTURES[encoder.architecture]
        self.precision = choose_precision(precision, device, self.architecture, compile=compile)
        max_tokens = resolve_max_tokens(tokens_per_batch, device, self.precision)
        self.began = time.perf_counter()
        if tokens is None:
            process = encoder.tokenizer_process() if len(sequences) > SUBPROCESS_SEQUENCES else None
            tokens = TokenSlices(
                process or encoder.tokenize, ids, sequences, FIRST_SLICE_SIZE if process else SLICE_SIZE
            )
        self.token_slices = tokens
        self.ids, self.sequences, self.progress = ids, sequences, progress
        self.attention, self.device = attention, torch.device(device)
        self.batching = "packed" if packing else "single"
        self.cuda = self.device.type == "cuda"
        self.int8_error: float | None = None
        self.tokens = self.batches = self.planned = self.redone = self.out_of_memory = 0
        self.gpu_milliseconds = 0.0
        self.queued: deque[_Queued] = deque()
        self.cores: ThreadPoolExecutor | None = None
        self.max_queued = MAX_QUEUED + (0 if self.cuda else torch.get_num_threads())
        try:
            self._prepare(encoder, compile, max_tokens)
        except BaseException:
            tokens.end()
            raise

    def _prepare(self, encoder: Encoder, compile: bool, max_tokens: int | None) -> None:
        self.encoder = encoder.to(device=self.device, dtype=self.precision.dtype).eval()
        if self.cuda:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.backend = self.encoder.backend(self.attention)
        self.backend_name = self.backend.name  # of the run; what redoes a batch in fp32 may be another
        with matmul_precision(self.precision):
            self.encoder.ops = self._chosen_ops(compile)
            self.kernels = self.encoder.ops.name
            self.graphs = Graphs(self.encoder, self.backend) if self._graphed() else None
            self.max_tokens = 1 if self.batching == "single" else max_tokens or self._measured_max_tokens()

    def _chosen_ops(self, compile: bool) -> Ops:
        reason = Device.of(self.device).kernels_unavailable_reason()
        if self.precision.job_gate is not None:
            from virnucpro.encoders import int8

            if compile:
                raise ConfigError("precision: int8 has kernels of its own; set compile to false with it")
            reason = self.precision.unavailable_reason(Device.of(self.device)) or reason
            if reason is not None:
                raise ConfigError(f"precision: int8 isn't available: {reason}. Use 'fp16' or 'auto'.")
            self.int8_error = int8.convert(self.encoder, self.ids, self.sequences)
            logger.info("int8 differs from half precision by %.3g on a sample", self.int8_error)
            return self.encoder.ops
        if compile:
            return COMPILED
        if not reason:
            return Kernels()
        if self.precision.product_dtype_name:
            return HalfCpuOps()
        return CpuOps() if not self.cuda and self.precision.name == "fp32" else PYTORCH

    def _graphed(self) -> bool:
        """Whether launching kernel after kernel takes the host so long that the GPU would wait for it."""
        kernels = self.kernels == Kernels.name and self.backend_name == "triton"
        return self.architecture.cuda_graphs and kernels and self.batching == "packed"

    def vectors(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sequence, vectors (m, d) float32) for runs of sequences that cover all; in any order."""
        held: list[_Slice] = []
        for done in self._slices():
            if done.overflowed:
                held.append(done)
            else:
                yield done.start, done.vectors
        if held:
            self._redo_in_fp32(held)
        for done in held:
            yield done.start, done.vectors

    def _slices(self) -> Iterator[_Slice]:
        """Slices with all of their batches done."""
        in_place = self.kernels == CpuOps.name
        with (
            matmul_precision(self.precision),
            self.encoder.paired_features() if in_place else nullcontext(),
            cores() if in_place else nullcontext() as self.cores,
        ):
            for start, tokens, lengths in self.token_slices:
                vectors = np.empty((len(lengths), self.encoder.config.width), np.float32)
                new = _Slice(start, tokens, lengths, vectors, len(lengths), [])
                for done in self._run(new, np.arange(len(lengths))):
                    if done.missing == 0:
                        yield done
            while self.queued:
                done = self._collect()
                if done.missing == 0:
                    yield done

    def _run(self, part: _Slice, indices: np.ndarray) -> Iterator[_Slice]:
        """Queue the batches of some of a slice's sequences; yield the slice of each older batch that is done."""
        lengths = part.lengths
        batches = deque(indices[batch] for batch in plan_batches(lengths[indices], self.max_tokens))
        while batches:
            chosen = batches.popleft()
            fits = True
            try:
                self._forward(part, chosen)
            except torch.OutOfMemoryError:
                fits = False  # go on outside: until here the traceback holds the batch's tensors
            if not fits and self.graphs is not None and self.graphs.recorded:
                self.graphs.release()  # what they hold may be all that is missing
                torch.cuda.empty_cache()
                batches.appendleft(chosen)
            elif not fits:
                total = int(lengths[chosen].sum())
                if len(chosen) == 1:
                    raise ConfigError(
                        f"sequence {self.ids[part.start + chosen[0]]} ({total:,} tokens) doesn't fit in the memory "
                        f"of {self.device}; use a device with more, or a smaller model"
                    )
                self.max_tokens = min(self.max_tokens, total) // 2
                self.out_of_memory += 1
                logger.warning("out of memory: going on with at most %d tokens in a batch", self.max_tokens)
                left = np.concatenate([chosen, *batches])
                batches = deque(left[batch] for batch in plan_batches(lengths[left], self.max_tokens))
                if self.cuda:
                    torch.cuda.empty_cache()
            while len(self.queued) > self.max_queued:
                yield self._collect()

    def _forward(self, part: _Slice, indices: np.ndarray) -> None:
        lengths = part.lengths[indices]
        tokens = gather_sequences(part.tokens, part.lengths, indices)
        pad_to = (0, 0)
        if self.graphs is not None:
            pad_to = self.graphs.pad_to(lengths)
        elif isinstance(self.encoder.ops, HalfCpuOps):
            pad_to = 0, -(-len(tokens) // ROWS_MULTIPLE) * ROWS_MULTIPLE
        host = PackedBatch.build(lengths, tokens, pad_to, pinned=self.cuda)
        started = copied = None
        if self.cores is not None:
            self._queue(_Queued(part, indices, self.cores.submit(self._vectors, host), None, None), len(tokens))
            return
        with torch.inference_mode():
            if self.graphs is not None:
                self.graphs.prepare(host)
            if self.cuda:
                started, copied = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                started.record()
            if self.graphs is None:
                pooled = self.encoder.vectors(host.to(self.device), self.backend)  # (n, d) fp32
            else:
                pooled = self.graphs.vectors(host)[: len(indices)]
            if copied is not None:
                landed = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
                pooled = landed.copy_(pooled, non_blocking=True)
                copied.record()
        self._queue(_Queued(part, indices, pooled, started, copied), len(tokens))

    def _vectors(self, batch: PackedBatch) -> torch.Tensor:
        """What a core of a CPU does with a batch."""
        with torch.inference_mode():
            return self.encoder.vectors(batch, self.backend)

    def _queue(self, batch: _Queued, tokens: int) -> None:
        self.queued.append(batch)
        self.tokens += tokens
        self.batches += 1
        self.planned += max(self.max_tokens, tokens)

    def _collect(self) -> _Slice:
        """Take over the oldest batch's vectors."""
        done = self.queued.popleft()
        if done.started is not None and done.copied is not None:
            done.copied.synchronize()
            self.gpu_milliseconds += done.started.elapsed_time(done.copied)
        part = done.slice
        pooled = done.pooled.result() if isinstance(done.pooled, Future) else done.pooled
        vectors = pooled.numpy()
        part.vectors[done.indices] = vectors
        part.missing -= len(done.indices)
        if not np.isfinite(vectors).all():
            part.overflowed.append(done.indices)
        if self.progress:
            self.progress(part.start + done.indices)
        return part

    def _redo_in_fp32(self, slices: list[_Slice]) -> None:
        """Compute batches again that overflowed; half-precision weights survive the way there and back."""
        overflowed = [(part, indices) for part in slices for indices in part.overflowed]
        self.progress = None
        if self.precision.job_gate is not None:
            self._fail(overflowed, "in int8; use 'fp16' or 'auto'")
        again = overflowed
        if self.precision.name != "fp32":
            self.redone = len(overflowed)
            logger.warning("%d batches had values that aren't finite: computing them again in fp32", len(overflowed))
            before, tokens = self.encoder.ops, self.tokens
            self.backend = self.encoder.float().backend(
                self.attention if self.attention in ("auto", "sdpa") else "auto"
            )
            self.encoder.ops = Kernels() if isinstance(before, Kernels) else PYTORCH  # it holds the weights' biases
            self.graphs = self.cores = None  # these hold the weights as they were, those have ended
            for part in slices:
                part.overflowed = []
            with matmul_precision(PRECISIONS["fp32"]):
                for part, indices in overflowed:
                    deque(self._run(part, indices), maxlen=0)
                while self.queued:
                    self._collect()
            self.encoder.to(self.precision.dtype).ops = before
            self.tokens = tokens  # of the sequences, each counted once
            again = [(part, indices) for part in slices for indices in part.overflowed]
        if again:
            self._fail(again, "in fp32 too; check these sequences and prepare the checkpoint again")

    def _fail(self, batches: list[tuple[_Slice, np.ndarray]], where: str) -> None:
        bad = [p.start + index for p, batch in batches for index in batch if not np.isfinite(p.vectors[index]).all()]
        names = ", ".join(str(self.ids[row]) for row in sorted(bad)[:10])
        raise ModelError(
            f"the encoder gave values that are not finite for {len(bad):,} sequences ({names}"
            f"{', ...' if len(bad) > 10 else ''}), {where}"
        )

    def _measured_max_tokens(self) -> int:
        """Tokens for which the memory that is free suffices, told from two small batches; they also warm up."""
        before, peaks, sizes = torch.cuda.memory_allocated(self.device), [], (2048, 6144)
        for size in sizes:
            torch.cuda.reset_peak_memory_stats(self.device)
            lengths = np.full(size // 128, 128)
            try:
                with torch.inference_mode():
                    batch = PackedBatch.build(lengths, np.full(size, 5)).to(self.device)
                    self.encoder.vectors(batch, self.backend)
            except torch.OutOfMemoryError:
                return MIN_TOKENS
            torch.cuda.synchronize(self.device)
            peaks.append(torch.cuda.max_memory_allocated(self.device) - before)
        per_token = max(1.0, (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]))
        if self.graphs is not None:
            per_token *= 2  # graphs have memory of their own
        fitting = int(MEMORY_SHARE * Device.of(self.device).free_memory() / per_token) // 256 * 256
        logger.info("%.0f bytes a token: %d tokens would fit", per_token, fitting)
        return max(MIN_TOKENS, min(self.architecture.max_tokens, fitting))

    def statistics(self) -> dict[str, Any]:
        """What ran, for the attributes of the file."""
        seconds = time.perf_counter() - self.began
        facts: dict[str, Any] = {
            "tokens": self.tokens,
            "packs": self.batches,
            "fill": self.tokens / self.planned if self.batches else 0.0,
            "batching": self.batching,
            "backend": self.backend_name,
            "kernels": self.kernels,
            "precision": self.precision.name,
            "tokens_per_batch": self.max_tokens,
            "seconds": seconds,
            "tokens_per_second": self.tokens / seconds,
            "redone_batches": self.redone,
            "out_of_memory": self.out_of_memory,
        }
        if self.kernels == COMPILED.name:
            facts["compiled_graphs"] = compiled_graphs()
        if self.graphs is not None:
            facts |= {"graphs": len(self.graphs.recorded), "graph_packs": self.graphs.replayed}
        if self.int8_error is not None:
            facts["int8_error"] = self.int8_error
        if self.cuda:
            properties = torch.cuda.get_device_properties(self.device)
            facts |= {
                "gpu_uuid": str(properties.uuid),
                "gpu_seconds": self.gpu_milliseconds / 1e3,
                "peak_memory": torch.cuda.max_memory_allocated(self.device),
            }
        return facts


def resolve_max_tokens(value: int | str, device: str | torch.device, precision: Precision) -> int | None:
    """Tokens in a packed batch; ``auto`` is a constant on a CPU, and None, to be measured, on a GPU."""
    if value == "auto":
        if Device.of(device).is_gpu:
            return None
        return 2 * CPU_MAX_TOKENS if precision.product_dtype_name else CPU_MAX_TOKENS
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"tokens_per_batch: {value!r} is neither a positive integer nor 'auto'")
    return value


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Exact fp32 products, unless tf32 is asked for: whatever the process has set before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
