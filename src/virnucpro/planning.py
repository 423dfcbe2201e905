"""What jobs need in memory, time, threads and disk, as estimated before they run: for the rules and the doctor."""

from __future__ import annotations

from collections.abc import Iterable

THREADS = 8
"""Of an embedding job on a CPU, at most (more gain nothing with small models), or where a cluster gives it its own."""
_MAX_THREADS_FOR_INPUT = 16  # one process hands out the work and writes
_MINUTES = 30  # of any embedding job, before the frames count
_GPU_RATE, _CPU_RATE = 10_000_000, 200_000
"""Frames · megabytes of weights a minute: of a GPU a twentieth as fast as an H200, and of 8 CPU cores."""
_TEXT_BYTES_PER_FRAME = 900  # in shards, as ids of vectors, and as four rows of tables


def preparing_memory(model_megabytes: int) -> int:
    """Megabytes to convert a checkpoint: imports, the mapped file, and what is changed of it."""
    return 2000 + 2 * model_megabytes


def embedding_memory(model_megabytes: int, frames: int, bytes_per_frame: int, gpu: bool) -> int:
    """Megabytes of main memory to embed a shard: imports, weights, texts and vectors of its frames.

    A CPU has three times a file's 2 bytes a weight: fp32 and, where it multiplies it, bf16 beside that.
    """
    return 3000 + (2 if gpu else 3) * model_megabytes + frames * bytes_per_frame // 2**20


def embedding_minutes(model_megabytes: int, frames: int, gpu: bool) -> int:
    """Minutes in which a slow device has embedded a shard."""
    return _MINUTES + frames * model_megabytes // (_GPU_RATE if gpu else _CPU_RATE)


def check_memory(model_megabytes: Iterable[int]) -> int:
    """Megabytes to compare both encoders with fp32, one after the other."""
    return 4000 + 4 * sum(model_megabytes)


def encoder_memory(layers: int, width: int, bf16: bool = False) -> float:
    """Bytes to compute with an encoder on a CPU: 12 · width² weights a layer; PyTorch, a batch and a shard's vectors.

    Weights are in fp32 and, where products are in ``bf16``, in that beside it.
    """
    return (6 if bf16 else 4) * 12 * layers * width**2 + 2e9


def disk_space(
    frames: int,
    residues: int,
    widths: Iterable[int],
    model_megabytes: Iterable[int],
    vectors: str = "float32",
    keep: str = "shards",
) -> int:
    """Bytes that a run writes: vectors (for a while twice where they are copied), frames as text, tables, prepared models.

    ``vectors`` and ``keep`` are the options of these names.
    """
    numbers = (2 if vectors == "float16" else 4) * (1 if keep == "shards" else 2) * sum(widths)
    return frames * (numbers + _TEXT_BYTES_PER_FRAME) + 4 * residues + 2**20 * sum(model_megabytes)


def threads_beside_embedding(cores: int | None) -> int:
    """Cores that embedding jobs on GPUs leave to others; ``cores`` is None where a cluster gives each job its own."""
    return min(4, max(1, cores // 8)) if cores else 4


def threads_for_input(megabytes: float, cores: int | None) -> int:
    """Threads to split a sample or to make its tables: one more for every 8 MB of its files.

    ``cores`` is None where a cluster gives each job its own.
    """
    return max(1, min(_MAX_THREADS_FOR_INPUT, cores or THREADS, 1 + int(megabytes) // 8))


def threads_per_embedding(cores: int | None, gpus: int) -> int:
    """Threads of an embedding job: the other cores divided by GPUs, so that such jobs run side by side."""
    if not cores:
        return THREADS
    if not gpus:
        return min(THREADS, cores)
    return max(1, (cores - threads_beside_embedding(cores)) // gpus)
