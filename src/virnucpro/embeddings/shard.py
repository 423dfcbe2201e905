"""One shard job: take the vectors from the cache or from former results, or compute, write and cache them."""

from __future__ import annotations

import json
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
from virnucpro.embeddings.distinct import DistinctSequences
from virnucpro.embeddings.former import copy_known
from virnucpro.embeddings.key import embedding_key
from virnucpro.embeddings.progress import progress
from virnucpro.embeddings.store import ShardFile, create_shard
from virnucpro.encoders.embed import EMBEDDING_VERSION, Embedded
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.encoders.tokenizing import TokenSlices, tokens_ahead
from virnucpro.errors import ConfigError
from virnucpro.gpu import gpu_lock
from virnucpro.models.registry import PROTEIN
from virnucpro.provenance import RunRecord, resources_used
from virnucpro.sequences.shards import counted
from virnucpro.sequences.split import check_protein, place_of_shard, read_shard
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
    """Make ``output`` (HDF5) from a shard's FASTA. Equal sequences are embedded once.

    Args:
        sequences: ``<sha>.fna`` for a DNA encoder, ``<sha>.faa`` for a protein encoder.
        model: prepared encoder file.
        output: HDF5 file; see ``embeddings.store``.
        settings: how to compute, and the cache.
        threads: CPU threads to use.
        run: kept with the vectors.
        known: ``embeddings.h5`` of former results; the vectors that they hold of these sequences, made under the same
            key, are copied. Those that aren't there are passed over, those that can't be used with a warning.

    Returns:
        Whether the encoder ran (False: all vectors came from the cache or from ``known``).
    """
    sequences, output = Path(sequences), Path(output)
    if settings.cache_dir is None:
        return _compute(sequences, model, output, settings, threads, run, known)
    spec = read_spec(model)
    entry = CacheEntry.of(settings.cache_dir, spec.architecture, _key(spec, settings), sequences.stem)
    ran = False
    for guard in (nullcontext(), entry.claimed()):  # look before waiting for whoever computes it
        with guard:
            if entry.fetch(output):
                logger.info("cache hit: %s", entry.path)
                return False
            if not isinstance(guard, nullcontext):
                ran = _compute(sequences, model, output, settings, threads, run, known)
                entry.keep(output)
    return ran


def _key(spec: EncoderSpec, settings: Settings) -> str:
    return embedding_key(spec, settings.precision, settings.batching, settings.vectors)


def _compute(
    sequences: Path,
    model: Path,
    output: Path,
    settings: Settings,
    threads: int,
    run: RunRecord | None,
    known: Sequence[Path],
) -> bool:
    job_began = time.perf_counter()
    ids, letters = read_shard(sequences)
    spec = read_spec(model)
    role = spec.registered.role
    if role is PROTEIN:
        check_protein(sequences, letters)
    distinct, key = DistinctSequences(letters), _key(spec, settings)
    with create_shard(output, ids, spec.width, distinct.digests, settings.vectors) as file:
        found, ways = copy_known(file, distinct, known, role.name, key)
        missing = np.flatnonzero(~found)
        frames = counted(place_of_shard(sequences)[1], len(ids))
        about = f"{frames}, {len(distinct):,} distinct, vectors of {len(distinct) - len(missing):,} known"
        if len(missing):
            ran = _embed(file, sequences, model, distinct, missing, ids, letters, settings, threads, about)
        else:  # neither a GPU nor PyTorch is needed
            logger.info("%s: %s", spec.name, about)
            ran = {"device": "none", "gpu": "", "tokens": 0, "seconds": 0.0}
        attributes = {
            "architecture": spec.architecture,
            "model": spec.name,
            "weights_sha256": spec.weights_sha256,
            "layer": spec.config["layers"],
            "pooling": spec.pooling,
            "precision_configured": settings.precision,
            "compile": settings.compile,
            "key": key,
            "shard": sequences.stem,
            "source": spec.source,
            "embedding_version": EMBEDDING_VERSION,
            "distinct": len(distinct),
            "computed": len(missing),
            "copied_ways": json.dumps(ways),
            **ran,
            **(run or RunRecord()).as_dict(),
            # With waiting for a GPU, without Python's start and what is left to write.
            **resources_used(job_began),
        }
        file.finish(attributes)
    return len(missing) > 0


def _embed(
    file: ShardFile,
    path: Path,
    model: Path,
    distinct: DistinctSequences,
    missing: np.ndarray,
    all_ids: Sequence[str],
    all_letters: Sequence[bytes],
    settings: Settings,
    threads: int,
    about: str,
) -> dict[str, Any]:
    """Compute the vectors of the distinct sequences that are ``missing`` and write all their rows; returns what ran."""
    spec = read_spec(model)
    ids, letters = ([given[row] for row in distinct.first[missing].tolist()] for given in (all_ids, all_letters))
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # the tokenizer's
    with (
        held_gpu(settings, f"{spec.name}, {path}") as gpu,
        tokens_ahead(spec, ids, letters, settings.batching != "original") as tokens,
    ):
        began = time.perf_counter()
        # PyTorch is imported only now: a cache hit or a bad file needs none of it, and it must see the leased GPU.
        import torch

        torch.set_num_threads(threads)
        device = resolve_device(settings.device, gpu)
        logger.info("%s on %s, %d threads, %s", spec.name, device, threads, about)
        lengths = np.fromiter(map(len, letters), np.int64, len(letters))
        named = f"{path.name} ({counted(place_of_shard(path)[1], len(all_ids))})"
        with progress(named, int(lengths.sum()), spec.registered.role.unit) as advance:

            def done(rows: np.ndarray | list[int]) -> None:
                advance(int(lengths[rows].sum()))

            with ThreadPoolExecutor(1, "write") as writer:
                written = deque[Future]()

                def store(numbers: np.ndarray, vectors: np.ndarray) -> None:
                    rows, which = distinct.rows(numbers)
                    file.write_rows(rows, vectors if np.array_equal(which, np.arange(len(vectors))) else vectors[which])

                def write(first: int, vectors: np.ndarray) -> None:
                    written.append(writer.submit(store, missing[first : first + len(vectors)], vectors))
                    if len(written) > 2:  # the disk is slower than the GPU
                        written.popleft().result()

                statistics = compute_into(write, model, ids, letters, settings, device, done, tokens)
                for each in written:
                    each.result()
        gpu_name = {"gpu_name": torch.cuda.get_device_name()} if device == "cuda" else {}
    ran = ", ".join(
        str(statistics[name]) for name in ("precision", "backend", "kernels", "batching") if name in statistics
    )
    logger.info(
        "computed %d embeddings of %s: %s tokens in %d packs, %.0f%% full, %.0f tokens/s; %s", len(ids), spec.architecture,
        f"{statistics['tokens']:,}", statistics["packs"], 100 * statistics["fill"], statistics["tokens_per_second"], ran,
    )  # fmt: skip
    logger.info("%.1f s with loading and writing", time.perf_counter() - began)
    return {"device": device, "gpu": gpu or "", **statistics, **gpu_name}


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
        encoder = load_encoder(
            model, device, choose_precision(settings.precision, device, compile=settings.compile).dtype
        )
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
