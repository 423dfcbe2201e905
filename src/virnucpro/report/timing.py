"""Where the time went: Snakemake's benchmark files, and what each embedding job measured itself."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RULES = ("prepare_dnabert_s", "prepare_esm2", "prepare_classifier", "split", "embed_dnabert_s", "embed_esm2", "merge", "predict")  # fmt: skip
"""In the order they run; ``report`` itself isn't over yet."""
FAMILIES = {"dna": "dnabert_s", "protein": "esm2"}


@dataclass
class RuleTime:
    """All jobs of a rule."""

    rule: str
    jobs: int
    seconds: float
    longest: float
    max_rss: float | None  # MB; None if Snakemake couldn't measure it
    cpu_seconds: float


def rule_times(folder: Path, sample: str, shards: Iterable[dict[str, Any]]) -> list[RuleTime]:
    """Time per rule of what made this sample's results; empty where there are no benchmark files.

    Args:
        folder: ``{output_dir}/benchmarks``.
        sample: its jobs are counted, and the run's preparation of models.
        shards: as recorded in embeddings.h5; of the embedding jobs only those of its models count.
    """
    paths = [path for rule in RULES[:3] for path in sorted((folder / rule).glob("*.tsv"))]
    paths += [folder / rule / f"{sample}.tsv" for rule in ("split", "merge", "predict")]
    paths += [shard_benchmark(folder, sample, shard) for shard in shards]
    times = []
    for rule in RULES:
        own = [path for path in paths if path.relative_to(folder).parts[0] == rule]
        if jobs := [job for path in own if (job := read_benchmark(path))]:
            rss, cpu = ([job[key] for job in jobs if key in job] for key in ("max_rss", "cpu_time"))
            seconds = [job["s"] for job in jobs]
            times.append(RuleTime(rule, len(jobs), sum(seconds), max(seconds), max(rss, default=None), sum(cpu)))
    return times


def shard_benchmark(folder: Path, sample: str, shard: dict[str, Any]) -> Path:
    """Benchmark file of the job that made a shard's vectors."""
    return folder / f"embed_{FAMILIES[shard['encoder']]}" / sample / shard["key"] / f"{shard['shard']}.tsv"


def read_benchmark(path: Path) -> dict[str, float]:
    """The numbers of a benchmark file's last line, ``s`` among them; none if there is no such file."""
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
    utilisation: float | None  # of the GPUs, 0 to 1; None if not measured


def throughput(shards: list[dict[str, Any]]) -> list[Throughput]:
    """Speed per encoder, from the seconds that its jobs spent in the encoder."""
    result = []
    for encoder in FAMILIES:
        own = [shard for shard in shards if shard["encoder"] == encoder]
        if own:
            devices = ", ".join(sorted({str(shard.get("gpu_name", shard["device"])) for shard in own}))
            frames, tokens, seconds = (sum(shard[key] for shard in own) for key in ("frames", "tokens", "seconds"))
            watched = [shard for shard in own if "gpu_utilisation" in shard]
            busy = sum(shard["gpu_utilisation"] * shard["seconds"] for shard in watched)
            share = busy / sum(shard["seconds"] for shard in watched) if watched else None
            result.append(Throughput(encoder, devices, frames, tokens, seconds, share))
    return result
