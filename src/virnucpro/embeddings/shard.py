"""One shard job: take the vectors from the cache, or compute, write and cache them."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.embeddings.cache import CacheEntry
from virnucpro.embeddings.key import embedding_key
from virnucpro.embeddings.progress import progress
from virnucpro.embeddings.reuse import Plan, copy_known, plan_rows, write_computed
from virnucpro.embeddings.store import ShardFile, create_shard, sequence_digests
from virnucpro.encoders.embed import EMBEDDING_VERSION, Embedded
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.encoders.tokenizing import TokenSlices, tokens_ahead
from virnucpro.errors import ConfigError
from virnucpro.gpu import gpu_lock
from virnucpro.models.registry import PROTEIN
from virnucpro.provenance import RunRecord, resources_used
from virnucpro.sequences.split import check_protein, read_shard
from virnucpro.settings.options import Settings

logger = logging.getLogger(__name__)


def embed_shard(
    sequences: Path,
    model: Path,
    output: Path,
    settings: Settings,
    threads: int,
    run: RunRecord | None = None,
    known: Sequence[Path] = (),
) -> bool:
    """Make ``output`` (HDF5) from a shard's FASTA.

    Args:
        sequences: ``<sha>.fna`` for a DNA encoder, ``<sha>.faa`` for a protein encoder.
        model: prepared encoder file.
        output: HDF5 file; see ``embeddings.store``.
        settings: how to compute, and the cache.
        threads: CPU threads to use.
        run: kept with the vectors.
        known: ``embeddings.h5`` of earlier runs, whose vectors of the same sequences are copied.

    Returns:
        Whether the encoder ran (False: all vectors came from the cache, or were known).
    """
    sequences, output = Path(sequences), Path(output)
    spec = read_spec(model)
    key = embedding_key(spec, settings.precision, settings.batching, settings.vectors)
    if settings.cache_dir is None:
        return _compute(sequences, model, output, settings, threads, run, known, key)
    entry = CacheEntry.of(settings.cache_dir, spec.architecture, key, sequences.stem)
    for guard in (nullcontext(), entry.claimed()):  # look before waiting for whoever computes it
        with guard:
            if entry.fetch(output):
                logger.info("cache hit: %s", entry.path)
                return False
            if not isinstance(guard, nullcontext):
                computed = _compute(sequences, model, output, settings, threads, run, known, key)
                entry.keep(output)
    return computed


def _compute(
    sequences: Path,
    model: Path,
    output: Path,
    settings: Settings,
    threads: int,
    run: RunRecord | None,
    known: Sequence[Path],
    key: str,
) -> bool:
    """Make the file; returns whether the encoder ran."""
    began = time.perf_counter()
    ids, letters = read_shard(sequences)
    spec = read_spec(model)
    role = spec.registered.role
    if role is PROTEIN:
        check_protein(sequences, letters)
    digests = sequence_digests(letters)
    plan = plan_rows(digests, known, role.name, key)
    logger.info("%d sequences: %d to compute, %d known, %d that occur twice", len(ids), len(plan.compute), plan.copied,
                len(ids) - len(plan.compute) - plan.copied)  # fmt: skip
    with create_shard(output, ids, spec.width, digests, settings.vectors) as file:
        copy_known(plan, role.name, file)
        statistics: dict[str, Any] = {"device": "none", "computed_frames": len(plan.compute), "seconds": 0.0, "tokens": 0}
        if len(plan.compute):
            own = [[texts[row] for row in plan.compute] for texts in (ids, letters)]
            statistics |= _run_encoder(sequences, spec, model, *own, plan, file, settings, threads)
        file.finish(
            {
                "architecture": spec.architecture,
                "model": spec.name,
                "weights_sha256": spec.weights_sha256,
                "layer": spec.config["layers"],
                "pooling": spec.pooling,
                "precision_configured": settings.precision,
                "compile": settings.compile,
                "shard": sequences.stem,
                "source": spec.source,
                "embedding_version": EMBEDDING_VERSION,
                **statistics,
                "computed_before": plan.computed_before(role.name),
                **(run or RunRecord()).as_dict(),
                # With waiting for a GPU, without Python's start and what is left to write.
                **resources_used(began),
            }
        )
    logger.info("%.1f s with loading and writing", time.perf_counter() - began)
    return len(plan.compute) > 0


def _run_encoder(
    sequences: Path,
    spec: EncoderSpec,
    model: Path,
    ids: list[str],
    letters: list[bytes],
    plan: Plan,
    file: ShardFile,
    settings: Settings,
    threads: int,
) -> dict[str, Any]:
    """Compute the sequences of ``plan.compute`` and write their vectors; returns what ran."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # the tokenizer's
    with (
        held_gpu(settings, f"{spec.name}, {sequences}") as gpu,
        tokens_ahead(spec, ids, letters, settings.batching != "original") as tokens,
    ):
        # PyTorch is imported only now: a cache hit or a bad file needs none of it, and it must see the leased GPU.
        import torch

        torch.set_num_threads(threads)
        device = resolve_device(settings.device, gpu)
        logger.info("%s on %s, %d threads, %d sequences", spec.name, device, threads, len(ids))
        lengths = np.fromiter(map(len, letters), np.int64, len(letters))
        with progress(sequences.name, int(lengths.sum()), spec.registered.role.unit) as advance:

            def done(rows: np.ndarray | list[int]) -> None:
                advance(int(lengths[rows].sum()))

            with ThreadPoolExecutor(1, "write") as writer:
                written = deque[Future]()

                def write(first: int, vectors: np.ndarray) -> None:
                    written.append(writer.submit(write_computed, plan, file, first, vectors))
                    if len(written) > 2:  # the disk is slower than the GPU
                        written.popleft().result()

                statistics = compute_into(write, model, ids, letters, settings, device, done, tokens)
                for each in written:
                    each.result()
    ran = ", ".join(
        str(statistics[name]) for name in ("precision", "backend", "kernels", "batching") if name in statistics
    )
    logger.info(
        "computed %d embeddings of %s: %s tokens in %d packs, %.0f%% full, %.0f tokens/s; %s", len(ids), spec.architecture,
        f"{statistics['tokens']:,}", statistics["packs"], 100 * statistics["fill"], statistics["tokens_per_second"], ran,
    )  # fmt: skip
    name = {"gpu_name": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {**statistics, "device": device, "gpu": gpu or "", **name}


def held_gpu(settings: Settings, purpose: str) -> AbstractContextManager[str | None]:
    """A GPU of the job's own, if it is to have one; to be entered before PyTorch is loaded."""
    if settings.device == "cpu" or not settings.gpu_lease:
        return nullcontext()
    return gpu_lock(purpose, Path(settings.gpu_lease_dir), 60 * settings.gpu_lease_timeout)


def compute(model: Path, ids: Sequence[str], sequences: Sequence[bytes], settings: Settings, device: str) -> Embedded:
    """All vectors at once, and what ran; ``device`` is resolved."""
    vectors = np.empty((len(ids), read_spec(model).width), np.float32)

    def write(first: int, rows: np.ndarray) -> None:
        vectors[first : first + len(rows)] = rows

    return Embedded(vectors, compute_into(write, model, ids, sequences, settings, device))


def compute_into(
    write: Callable[[int, np.ndarray], object],
    model: Path,
    ids: Sequence[str],
    sequences: Sequence[bytes],
    settings: Settings,
    device: str,
    progress: Callable[[np.ndarray | list[int]], object] | None = None,
    tokens: TokenSlices | None = None,
) -> dict[str, Any]:
    """Load the encoder and embed as the settings say.

    ``write`` is given the first row and the vectors (m, d) float32 of runs of sequences, in any order, ``progress`` the
    rows that are done; ``tokens`` may be in the making already. Returns what ran. Raises ConfigError where the encoder
    doesn't fit in the device's memory, as well as what ``encoders.embedder.Embedder`` raises.
    """
    import torch

    from virnucpro.encoders.embedder import Embedder
    from virnucpro.encoders.loading import load_encoder
    from virnucpro.encoders.original import embed_original
    from virnucpro.encoders.precision import choose_precision

    try:
        encoder = load_encoder(model, device, choose_precision(settings.precision, device).dtype)
        if settings.batching == "original":
            result = embed_original(encoder, ids, sequences, device, progress)
            write(0, result.vectors)
            return result.statistics
        embedder = Embedder(
            encoder,
            ids,
            sequences,
            tokens_per_batch=settings.tokens_per_batch,
            attention=settings.attention,
            precision=settings.precision,
            device=device,
            compile=settings.compile,
            packing=settings.batching == "packed",
            progress=progress,
            tokens=tokens,
        )
        for first, vectors in embedder.vectors():
            write(first, vectors)
        return embedder.statistics()
    except torch.OutOfMemoryError as error:  # not of a batch, which is divided
        raise ConfigError(
            f"{model} doesn't fit in the memory of {device} ({error}). Use a GPU with more or nothing else on it, a "
            "smaller model, or device 'cpu'."
        ) from error


def resolve_device(name: str, gpu: str | None = None) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes a GPU where PyTorch sees one. ``gpu`` is the one that is leased, if any."""
    import torch

    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError(
            "device: cuda was asked for, but PyTorch sees no GPU here. Use device 'auto' or 'cpu', or install "
            f"a CUDA build of PyTorch (this is {torch.__version__})."
        )
    if name == "auto" and gpu and not found:
        logger.warning(
            "PyTorch %s can't use %s and computes on the CPU, which is much slower. Install a CUDA build that fits the "
            "driver, or set device to cpu if that is meant.", torch.__version__, gpu
        )  # fmt: skip
    return "cuda" if name != "cpu" and found else "cpu"
