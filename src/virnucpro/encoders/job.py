"""Packs through an encoder: on a GPU several are queued, so that it never waits for the host.

While the GPU computes, the next windows of sequences are tokenized (byte pairs in a process of their own), and the caller
does what it wants with the windows that are done. One stream holds everything in order: a pack's index tensors on their
way there (one transfer), its kernels, its vectors on their way back.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from virnucpro.encoders.attention import kernels_obstacle
from virnucpro.encoders.graphs import Graphs
from virnucpro.encoders.packing import Pack, gather_sequences, plan_packs
from virnucpro.encoders.stages import compiled_graphs
from virnucpro.encoders.tokenizing import APART, FIRST, WINDOW, TokenWindows
from virnucpro.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from virnucpro.encoders.dnabert import DNABERT
    from virnucpro.encoders.esm2 import ESM2

logger = logging.getLogger(__name__)

IN_FLIGHT = 3  # packs queued on the device before the oldest one's vectors are waited for
MOST_TOKENS = {"esm2": 32768, "dnabert_s": 65536}  # in a pack on a GPU, as auto: more are no faster
FEWEST_TOKENS = 1024
MEMORY_SHARE = 0.85  # of what is free that a pack may take


@dataclass
class _Window:
    """Neighbouring sequences, and their vectors as far as they are known."""

    start: int
    tokens: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray
    missing: int
    overflowed: list[np.ndarray]  # sequences (within the window) of packs that weren't finite


@dataclass
class _Queued:
    """A pack whose vectors may still be on their way to the host."""

    window: _Window
    indices: np.ndarray
    pooled: torch.Tensor
    started: torch.cuda.Event | None
    copied: torch.cuda.Event | None


class Job:
    """All sequences of a shard through one encoder.

    Takes a resolved precision, ``budget`` tokens a pack (None: measured), and the tokens if they are in the making
    already. The encoder is moved to the device and to the precision's dtype in place.
    """

    def __init__(
        self,
        encoder: ESM2 | DNABERT,
        ids: Sequence[str],
        sequences: Sequence[bytes],
        *,
        budget: int | None,
        packing: bool,
        attention: str,
        precision: str,
        dtype: torch.dtype,
        device: str | torch.device,
        compile: bool,
        progress: Callable[[np.ndarray], object] | None,
        tokens: TokenWindows | None,
    ) -> None:
        self.began = time.perf_counter()
        if tokens is None:
            apart = encoder.tokenizer_apart() if len(sequences) > APART else None
            tokens = TokenWindows(apart or encoder.tokenize, ids, sequences, FIRST if apart else WINDOW)
        self.tokens_of_windows = tokens
        self.ids, self.sequences, self.progress = ids, sequences, progress
        self.attention, self.precision, self.device = attention, precision, torch.device(device)
        self.batching = "packed" if packing else "single"
        self.cuda = self.device.type == "cuda"
        self.fp8_error: float | None = None
        self.tokens = self.packs = self.planned = self.redone = self.out_of_memory = 0
        self.gpu_milliseconds = 0.0
        self.queued: deque[_Queued] = deque()
        try:
            self._prepare(encoder, dtype, compile, budget)
        except BaseException:
            tokens.end()
            raise

    def _prepare(self, encoder: ESM2 | DNABERT, dtype: torch.dtype, compile: bool, budget: int | None) -> None:
        self.encoder: Any = encoder.to(device=self.device, dtype=dtype).eval()
        if self.cuda:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.backend = self.encoder.backend(self.attention)
        self.backend_name = self.backend.name  # of the run; what redoes a pack in fp32 may be another
        with matmul_precision(self.precision):
            self._choose_stages(compile)
            self.stages_name = self.encoder.stages.name
            self.graphs = Graphs(self.encoder, self.backend) if self._graphed() else None
            self.budget = 1 if self.batching == "single" else budget or self._measured_budget()

    def _choose_stages(self, compile: bool) -> None:
        if self.precision == "fp8":
            from virnucpro.encoders import fp8

            if compile:
                raise ConfigError("precision: fp8 has kernels of its own; set compile to false with it")
            reason = fp8.obstacle(self.device) or kernels_obstacle(self.device)
            if reason is not None:
                raise ConfigError(f"precision: fp8 isn't available: {reason}. Use 'fp16' or 'auto'.")
            self.fp8_error = fp8.convert(self.encoder, self.ids, self.sequences)
            logger.info("fp8 differs from half precision by %.3g on a sample", self.fp8_error)
        elif compile:
            self.encoder.use("compiled")
        else:
            self.encoder.use("plain" if kernels_obstacle(self.device) else "fused")

    def _graphed(self) -> bool:
        """Whether launching kernel after kernel takes the host so long that the GPU would wait for it."""
        kernels = self.stages_name == "fused" and self.backend_name == "triton"
        return self.encoder.family == "dnabert_s" and kernels and self.batching == "packed"

    def windows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sequence, vectors (m, d) float32) for runs of sequences that cover all; in any order."""
        held: list[_Window] = []
        for window in self._windows():
            if window.overflowed:
                held.append(window)
            else:
                yield window.start, window.vectors
        if held:
            self._redo_in_fp32(held)
        for window in held:
            yield window.start, window.vectors

    def _windows(self) -> Iterator[_Window]:
        """Windows with all of their packs done."""
        with matmul_precision(self.precision):
            for start, tokens, lengths in self.tokens_of_windows:
                vectors = np.empty((len(lengths), self.encoder.config.width), np.float32)
                window = _Window(start, tokens, lengths, vectors, len(lengths), [])
                for done in self._run(window, np.arange(len(lengths))):
                    if done.missing == 0:
                        yield done
            while self.queued:
                done = self._collect()
                if done.missing == 0:
                    yield done

    def _run(self, window: _Window, indices: np.ndarray) -> Iterator[_Window]:
        """Queue the packs of some of a window's sequences; yield the window of each older pack that is done."""
        lengths = window.lengths
        packs = deque(indices[pack] for pack in plan_packs(lengths[indices], self.budget))
        while packs:
            chosen = packs.popleft()
            fits = True
            try:
                self._forward(window, chosen)
            except torch.OutOfMemoryError:
                fits = False  # go on outside: until here the traceback holds the pack's tensors
            if not fits and self.graphs is not None and self.graphs.recorded:
                self.graphs.release()  # what they hold may be all that is missing
                torch.cuda.empty_cache()
                packs.appendleft(chosen)
            elif not fits:
                total = int(lengths[chosen].sum())
                if len(chosen) == 1:
                    raise ConfigError(
                        f"sequence {self.ids[window.start + chosen[0]]} ({total:,} tokens) doesn't fit in the memory "
                        f"of {self.device}; use a device with more, or a smaller model"
                    )
                self.budget = min(self.budget, total) // 2
                self.out_of_memory += 1
                logger.warning("out of memory: going on with at most %d tokens in a pack", self.budget)
                left = np.concatenate([chosen, *packs])
                packs = deque(left[pack] for pack in plan_packs(lengths[left], self.budget))
                if self.cuda:
                    torch.cuda.empty_cache()
            while len(self.queued) > IN_FLIGHT:
                yield self._collect()

    def _forward(self, window: _Window, indices: np.ndarray) -> None:
        lengths = window.lengths[indices]
        tokens = gather_sequences(window.tokens, window.lengths, indices)
        room = (0, 0) if self.graphs is None else self.graphs.room(lengths)
        host = Pack.build(lengths, tokens, room, pinned=self.cuda)
        started = copied = None
        with torch.inference_mode():
            if self.graphs is not None:
                self.graphs.prepare(host)
            if self.cuda:
                started, copied = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                started.record()
            if self.graphs is None:
                pack = host.to(self.device)
                pooled = self.encoder.pool(self.encoder(pack.tokens, pack, self.backend), pack)  # (n, d) fp32
            else:
                pooled = self.graphs.pooled(host)[: len(indices)]
            if copied is not None:
                landed = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
                pooled = landed.copy_(pooled, non_blocking=True)
                copied.record()
        self.queued.append(_Queued(window, indices, pooled, started, copied))
        self.tokens += len(tokens)
        self.packs += 1
        self.planned += max(self.budget, len(tokens))

    def _collect(self) -> _Window:
        """Take over the oldest pack's vectors."""
        done = self.queued.popleft()
        if done.started is not None and done.copied is not None:
            done.copied.synchronize()
            self.gpu_milliseconds += done.started.elapsed_time(done.copied)
        window = done.window
        vectors = done.pooled.numpy()
        window.vectors[done.indices] = vectors
        window.missing -= len(done.indices)
        if not np.isfinite(vectors).all():
            window.overflowed.append(done.indices)
        if self.progress:
            self.progress(window.start + done.indices)
        return window

    def _redo_in_fp32(self, windows: list[_Window]) -> None:
        """Compute packs again that overflowed; half-precision weights survive the way there and back."""
        overflowed = [(window, indices) for window in windows for indices in window.overflowed]
        self.progress = None
        if self.precision == "fp8":
            self._fail(overflowed, "in fp8; use 'fp16' or 'auto'")
        again = overflowed
        if self.precision != "fp32":
            self.redone = len(overflowed)
            logger.warning("%d packs had values that aren't finite: computing them again in fp32", len(overflowed))
            kind, dtype, tokens = self.stages_name, next(self.encoder.parameters()).dtype, self.tokens
            self.backend = self.encoder.float().backend(
                self.attention if self.attention in ("auto", "sdpa") else "auto"
            )
            self.encoder.use("plain" if kind == "compiled" else kind)
            self.graphs = None  # they hold the weights as they were
            for window in windows:
                window.overflowed = []
            with matmul_precision("fp32"):
                for window, indices in overflowed:
                    deque(self._run(window, indices), maxlen=0)
                while self.queued:
                    self._collect()
            self.encoder.to(dtype).use(kind)
            self.tokens = tokens  # of the sequences, each counted once
            again = [(window, indices) for window in windows for indices in window.overflowed]
        if again:
            self._fail(again, "in fp32 too; check these sequences and prepare the checkpoint again")

    def _fail(self, packs: list[tuple[_Window, np.ndarray]], where: str) -> None:
        bad = [w.start + index for w, pack in packs for index in pack if not np.isfinite(w.vectors[index]).all()]
        names = ", ".join(str(self.ids[row]) for row in sorted(bad)[:10])
        raise ModelError(
            f"the encoder gave values that are not finite for {len(bad):,} sequences ({names}"
            f"{', ...' if len(bad) > 10 else ''}), {where}"
        )

    def _measured_budget(self) -> int:
        """Tokens for which the memory that is free suffices, told from two small packs; they also warm up."""
        before, peaks, sizes = torch.cuda.memory_allocated(self.device), [], (2048, 6144)
        for size in sizes:
            torch.cuda.reset_peak_memory_stats(self.device)
            lengths = np.full(size // 128, 128)
            try:
                with torch.inference_mode():
                    pack = Pack.build(lengths, np.full(size, 5)).to(self.device)
                    self.encoder.pool(self.encoder(pack.tokens, pack, self.backend), pack)
            except torch.OutOfMemoryError:
                return FEWEST_TOKENS
            torch.cuda.synchronize(self.device)
            peaks.append(torch.cuda.max_memory_allocated(self.device) - before)
        per_token = max(1.0, (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]))
        if self.graphs is not None:
            per_token *= 2  # graphs have memory of their own
        fitting = int(MEMORY_SHARE * _free_memory(self.device) / per_token) // 256 * 256
        logger.info("%.0f bytes a token: %d tokens would fit", per_token, fitting)
        return max(FEWEST_TOKENS, min(MOST_TOKENS[self.encoder.family], fitting))

    def statistics(self) -> dict[str, Any]:
        """What ran, for the attributes of the file."""
        seconds = time.perf_counter() - self.began
        facts: dict[str, Any] = {
            "tokens": self.tokens,
            "packs": self.packs,
            "fill": self.tokens / self.planned if self.packs else 0.0,
            "batching": self.batching,
            "backend": self.backend_name,
            "stages": self.stages_name,
            "precision": self.precision,
            "tokens_per_batch": self.budget,
            "seconds": seconds,
            "tokens_per_second": self.tokens / seconds,
            "redone_batches": self.redone,
            "out_of_memory": self.out_of_memory,
        }
        if self.stages_name == "compiled":
            facts["compiled_graphs"] = compiled_graphs()
        if self.graphs is not None:
            facts |= {"graphs": len(self.graphs.recorded), "graph_packs": self.graphs.replayed}
        if self.fp8_error is not None:
            facts["fp8_error"] = self.fp8_error
        if self.cuda:
            properties = torch.cuda.get_device_properties(self.device)
            facts |= {
                "gpu_uuid": str(properties.uuid),
                "gpu_seconds": self.gpu_milliseconds / 1e3,
                "peak_memory": torch.cuda.max_memory_allocated(self.device),
            }
        return facts


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Exact fp32 products, unless tf32 is asked for: whatever the process has set before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _free_memory(device: torch.device) -> int:
    """Bytes that this process may still allocate, a limit of its own included."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free + unused, int(share * total) - allocated)
