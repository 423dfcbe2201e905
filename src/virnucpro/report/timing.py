"""Time per rule and speed per encoder, from Snakemake's benchmark files and what embedding jobs recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.models.registry import ROLES

PER_SAMPLE = ("split", "merge", "predict")


@dataclass
class RuleTime:
    """All jobs of a rule."""

    rule: str
    jobs: int
    seconds: float
    longest: float
    max_rss: float | None  # MB; None if it couldn't be measured
    cpu_seconds: float


def rule_times(
    folder: Path, sample: str, shards: Iterable[dict[str, Any]], architectures: Mapping[str, str]
) -> list[RuleTime]:
    """Time per rule of the jobs that made this sample's results; rules of which nothing is known are left out.

    Args:
        folder: ``{output_dir}/benchmarks``.
        sample: its jobs are counted, and those that prepared the run's models.
        shards: as recorded in embeddings.h5.
        architectures: of the encoder in each role.
    """
    times = []
    embedding = {f"embed_{name}": role for role, name in architectures.items()}
    names = {"s": "job_seconds", "cpu_time": "cpu_seconds", "max_rss": "max_rss"}  # benchmark's column → shard's key
    # In the order in which they run; `report` isn't over yet.
    for rule in ("prepare_encoder", "prepare_classifier", "split", *embedding, "merge", "predict"):
        if rule in embedding:
            own = [shard for shard in shards if embedding[rule] == shard["encoder"] and "job_seconds" in shard]
            jobs = [{name: shard[key] for name, key in names.items()} for shard in own]
        else:
            name = f"{sample}.tsv" if rule in PER_SAMPLE else "*.tsv"
            jobs = [job for path in sorted((folder / rule).glob(name)) if (job := read_benchmark(path))]
        if jobs:
            rss, cpu = ([job[key] for job in jobs if key in job] for key in ("max_rss", "cpu_time"))
            seconds = [job["s"] for job in jobs]
            times.append(RuleTime(rule, len(jobs), sum(seconds), max(seconds), max(rss, default=None), sum(cpu)))
    return times


def read_benchmark(path: Path) -> dict[str, float]:
    """The numbers in a benchmark file's last line, by column; empty without a file or the column ``s`` (seconds)."""
    lines = [line.split("\t") for line in path.read_text().splitlines()] if path.is_file() else []
    numbers = {}
    for name, value in zip(*lines[:: len(lines) - 1], strict=False) if len(lines) > 1 else ():
        with suppress(ValueError):  # "NA" or "-": the job was too short to be measured
            numbers[name] = float(value)
    return numbers if "s" in numbers else {}


@dataclass
class Throughput:
    """One encoder's speed over all shards."""

    encoder: str
    devices: str
    frames: int
    tokens: int
    seconds: float  # in the encoder, all jobs together; more than 0
    utilisation: float | None  # share of these seconds in which GPUs computed, 0 to 1; None if not measured


def throughput(shards: list[dict[str, Any]]) -> list[Throughput]:
    """Speed per encoder, from the seconds that its jobs spent in the encoder."""
    result = []
    for encoder in ROLES:
        own = [shard for shard in shards if shard["encoder"] == encoder]
        if own:
            devices = ", ".join(sorted({str(shard.get("gpu_name", shard["device"])) for shard in own}))
            frames, tokens, seconds = (sum(shard[key] for shard in own) for key in ("frames", "tokens", "seconds"))
            on_gpus = [shard for shard in own if "gpu_seconds" in shard]
            busy, whole = (sum(shard[key] for shard in on_gpus) for key in ("gpu_seconds", "seconds"))
            share = busy / whole if on_gpus else None
            result.append(Throughput(encoder, devices, frames, tokens, seconds, share))
    return result
