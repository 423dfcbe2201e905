"""Where the time went: Snakemake's benchmark files, and what each embedding job measured itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RULES = ("prepare_dnabert_s", "prepare_esm2", "prepare_classifier", "split", "embed_dnabert_s", "embed_esm2", "merge", "predict")  # fmt: skip
"""In the order they run; ``report`` itself isn't over yet."""
FAMILIES = {"dna": "dnabert_s", "protein": "esm2"}


@dataclass
class Job:
    """One job's benchmark; None is what Snakemake couldn't measure."""

    rule: str
    seconds: float
    max_rss: float | None  # MB
    cpu_seconds: float | None


@dataclass
class RuleTime:
    """All jobs of a rule."""

    rule: str
    jobs: int
    seconds: float
    longest: float
    max_rss: float | None
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
    jobs = [job for path in paths if (job := read_benchmark(path, path.relative_to(folder).parts[0]))]
    times = []
    for rule in RULES:
        if own := [job for job in jobs if job.rule == rule]:
            seconds = [job.seconds for job in own]
            rss = max((job.max_rss for job in own if job.max_rss is not None), default=None)
            cpu = sum(job.cpu_seconds or 0 for job in own)
            times.append(RuleTime(rule, len(own), sum(seconds), max(seconds), rss, cpu))
    return times


def shard_benchmark(folder: Path, sample: str, shard: dict[str, Any]) -> Path:
    """Benchmark file of the job that made a shard's vectors."""
    return folder / f"embed_{FAMILIES[shard['encoder']]}" / sample / shard["key"] / f"{shard['shard']}.tsv"


def read_benchmark(path: Path, rule: str) -> Job | None:
    """The last line of a benchmark file; None if there is none, as after a run without it."""
    if not path.is_file():
        return None
    lines = [line.split("\t") for line in path.read_text().splitlines() if line]
    if len(lines) < 2:
        return None
    values = dict(zip(lines[0], lines[-1], strict=False))
    seconds = _number(values.get("s"))
    return (
        None if seconds is None else Job(rule, seconds, _number(values.get("max_rss")), _number(values.get("cpu_time")))
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None  # "NA" or "-": the job was too short to be measured


@dataclass
class Throughput:
    """One encoder's speed over all shards."""

    encoder: str
    devices: str
    frames: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of one job, while it computes."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def frames_per_second(self) -> float:
        """Of one job, while it computes."""
        return self.frames / self.seconds if self.seconds else 0.0


def throughput(shards: list[dict[str, Any]]) -> list[Throughput]:
    """Speed per encoder, from the seconds that its jobs spent in the encoder."""
    result = []
    for encoder in FAMILIES:
        own = [shard for shard in shards if shard["encoder"] == encoder]
        if own:
            devices = ", ".join(sorted({str(shard["device"]) for shard in own}))
            totals = (sum(shard[key] for shard in own) for key in ("frames", "tokens", "seconds"))
            result.append(Throughput(encoder, devices, *totals))
    return result
