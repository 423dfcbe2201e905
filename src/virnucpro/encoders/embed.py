"""Sequences in, one pooled vector each out: the loop around an encoder.

Sequences are tokenized a window at a time, one window ahead in a background thread, packed by length
and sent through the encoder pack by pack. PyTorch is imported when work starts, so that the workflow can
read this module's constants cheaply.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from virnucpro.encoders.packing import Pack, gather_sequences, plan_packs
from virnucpro.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch

    from virnucpro.encoders.dnabert import DNABERT
    from virnucpro.encoders.esm2 import ESM2

logger = logging.getLogger(__name__)

EMBEDDING_VERSION = 1  # raised whenever the same sequence and weights would give another vector
PRECISIONS = ("auto", "fp32", "tf32", "fp16", "bf16", "fp8")
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}  # what auto means
WINDOW = 16384  # sequences tokenized and planned together
IN_FLIGHT = 3  # packs queued on the device before the oldest one's vectors are waited for


class Embedded(NamedTuple):
    """What ``embed`` gives."""

    vectors: np.ndarray  # (n, width) float32, in the order of the input
    statistics: dict[str, Any]


class _Queued(NamedTuple):
    """A pack whose vectors may still be on their way to the host."""

    rows: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    pooled: torch.Tensor
    copied: torch.cuda.Event | None


def resolve_precision(name: str, device: str | torch.device) -> str:
    """The precision to compute in: ``auto`` is fp32 on a CPU and fp16 on a GPU."""
    kind = str(device).partition(":")[0]
    if name not in PRECISIONS:
        raise ConfigError(f"precision: {name!r} is not one of {', '.join(PRECISIONS)}")
    if name == "auto":
        return "fp32" if kind == "cpu" else "fp16"
    if kind == "cpu" and name != "fp32":
        raise ConfigError(f"precision: {name} needs a GPU, a CPU has no fast arithmetic for it; use 'fp32' or 'auto'")
    if name == "fp8":
        raise ConfigError("precision: fp8 is not available in this installation; use 'fp16' or 'auto'")
    return name


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of weights and activations for a resolved precision, for loading them in it."""
    import torch

    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)


def resolve_tokens_per_batch(value: int | str, device: str | torch.device) -> int:
    """Tokens in a pack; ``auto`` by the kind of device."""
    if value == "auto":
        return TOKENS_PER_BATCH.get(str(device).partition(":")[0], TOKENS_PER_BATCH["cuda"])
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"tokens_per_batch: {value!r} is neither a positive integer nor 'auto'")
    return value


def embed(
    encoder: ESM2 | DNABERT,
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
) -> Embedded:
    """Pooled vectors of all sequences, whatever the order and size of the packs.

    The encoder is moved to the device and to the precision's dtype in place, as ``nn.Module.to`` does.
    A pack that runs out of memory is planned again at half the budget; sequences whose vectors aren't
    finite are computed again in fp32. Without ``packing`` each sequence has a forward pass of its own.
    ``progress`` is told the rows of each pack when it is done. Raises InputError for sequences that the
    encoder can't read, ConfigError for settings that don't fit, ModelError for vectors that aren't finite in fp32 either.
    """
    if len(ids) != len(sequences):
        raise ValueError(f"{len(ids)} ids for {len(sequences)} sequences")
    precision = resolve_precision(precision, device)
    budget = resolve_tokens_per_batch(tokens_per_batch, device) if packing else 1
    job = _Job(encoder, ids, budget, attention, precision, device, compile)
    job.progress = progress
    started = time.perf_counter()
    for start, tokens, lengths in _tokenized(encoder, ids, sequences):
        with _matmul_precision(precision):
            job.run(np.arange(start, start + len(lengths)), tokens, lengths)
    job.redo_in_fp32()
    seconds = time.perf_counter() - started
    statistics = {
        "tokens": job.tokens,
        "packs": job.packs,
        "fill": job.tokens / max(job.tokens, job.planned) if job.packs else 0.0,
        "batching": "packed" if packing else "single",
        "backend": job.backend_name,
        "precision": precision,
        "tokens_per_batch": job.budget,
        "seconds": seconds,
        "tokens_per_second": job.tokens / seconds,
        "redone_batches": job.redone,
    }
    return Embedded(job.vectors, statistics)


def _tokenized(
    encoder: ESM2 | DNABERT, ids: Sequence[str], sequences: Sequence[bytes]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first sequence, flat tokens, lengths) of each window, the next one already in the making."""

    def tokenize(start: int) -> tuple[np.ndarray, np.ndarray]:
        return encoder.tokenize(sequences[start : start + WINDOW], ids[start : start + WINDOW])

    starts = range(0, len(sequences), WINDOW)
    with ThreadPoolExecutor(1, "tokenize") as pool:
        ahead = deque(pool.submit(tokenize, start) for start in starts[:1])
        for start in starts:
            if start + WINDOW in starts:
                ahead.append(pool.submit(tokenize, start + WINDOW))
            yield start, *ahead.popleft().result()


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """Exact fp32 products, unless tf32 is asked for: whatever the process has set before."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Job:
    """The encoder on its device, the results so far and the packs under way."""

    def __init__(
        self,
        encoder: ESM2 | DNABERT,
        ids: Sequence[str],
        budget: int,
        attention: str,
        precision: str,
        device: str | torch.device,
        compile: bool,
    ) -> None:
        import torch

        self.encoder = encoder.to(device=device, dtype=compute_dtype(precision)).eval()
        self.encoder.compile_blocks(compile)
        self.backend = self.encoder.backend(attention)
        self.backend_name = self.backend.name  # of the run; what redoes a pack in fp32 may be another
        self.ids, self.budget, self.attention, self.device = ids, budget, attention, torch.device(device)
        self.exact = precision == "fp32"
        self.vectors = np.empty((len(ids), encoder.config.width), dtype=np.float32)
        self.tokens = self.packs = self.planned = self.redone = 0
        self.queued: deque[_Queued] = deque()
        self.not_finite: list[_Queued] = []
        self.progress: Callable[[np.ndarray], object] | None = None

    def run(self, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Fill ``vectors[rows]``; tokens is the flat stream of those sequences, lengths their counts."""
        import torch

        packs = deque(plan_packs(lengths, self.budget))
        while packs:
            indices = packs.popleft()
            chosen = gather_sequences(tokens, lengths, indices)
            fits = True
            try:
                self._forward(rows[indices], chosen, lengths[indices])
            except torch.OutOfMemoryError:
                fits = False  # go on outside: until here the traceback holds the pack's tensors
            if not fits:
                if len(indices) == 1:
                    raise ConfigError(
                        f"sequence {self.ids[rows[indices[0]]]} ({len(chosen):,} tokens) doesn't fit in the memory "
                        f"of {self.device}; use a device with more, or a smaller model"
                    )
                self.budget = min(self.budget, len(chosen)) // 2
                logger.warning("out of memory: going on with at most %d tokens in a pack", self.budget)
                left = np.concatenate([indices, *packs])
                packs = deque(left[pack] for pack in plan_packs(lengths[left], self.budget))
                torch.cuda.empty_cache()
        while self.queued:
            self._collect()

    def _forward(self, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> None:
        import torch

        with torch.inference_mode():
            pack = Pack.build(lengths, self.device, tokens)
            pooled = self.encoder.pool(self.encoder(pack.tokens, pack, self.backend), pack)  # (n, d) fp32
            copied = None
            if self.device.type == "cuda":
                host = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
                pooled = host.copy_(pooled, non_blocking=True)
                copied = torch.cuda.Event()
                copied.record()
        self.queued.append(_Queued(rows, tokens, lengths, pooled, copied))
        self.tokens += pack.total
        self.packs += 1
        self.planned += self.budget
        if len(self.queued) > IN_FLIGHT:
            self._collect()

    def _collect(self) -> None:
        """Take over the oldest pack's vectors."""
        done = self.queued.popleft()
        if done.copied is not None:
            done.copied.synchronize()
        self.vectors[done.rows] = done.pooled.numpy()
        if not np.isfinite(self.vectors[done.rows]).all():
            self.not_finite.append(done)
        if self.progress:
            self.progress(done.rows)

    def redo_in_fp32(self) -> None:
        """Compute the packs again whose vectors overflowed; half-precision weights survive the way there and back."""
        again, self.not_finite, self.progress = self.not_finite, [], None
        if again and not self.exact:
            self.redone = len(again)
            dtype = next(self.encoder.parameters()).dtype
            self.backend = self.encoder.float().backend(self.attention)
            with _matmul_precision("fp32"):
                for pack in again:
                    self.run(pack.rows, pack.tokens, pack.lengths)
            self.encoder.to(dtype)
            again = self.not_finite
        bad = [row for pack in again for row in pack.rows if not np.isfinite(self.vectors[row]).all()]
        if bad:
            names = ", ".join(str(self.ids[row]) for row in sorted(bad)[:10])
            raise ModelError(
                f"the encoder gave values that are not finite, in fp32 too, for {len(bad):,} sequences: {names}"
                f"{', ...' if len(bad) > 10 else ''}; check these sequences and prepare the checkpoint again"
            )
