"""Time per rule and speed per encoder, from what jobs recorded of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virnucpro.models.registry import ROLES


@dataclass
class RuleTime:
    """All jobs of a rule."""

    rule: str
    jobs: int
    seconds: float
    longest: float
    max_rss: float | None  # MB; None if it wasn't measured
    cpu_seconds: float


def rule_times(provenance: Mapping[str, Any], architectures: Mapping[str, str]) -> list[RuleTime]:
    """Time per rule of the jobs that made a sample's vectors; rules of which nothing is known are left out.

    Args:
        provenance: of ``embeddings.h5``: ``jobs`` has what the job of a rule used, by rule, ``shards`` what each embedding job
            did; of a job that several samples share, the sample's part.
        architectures: of the encoder in each role.
    """
    jobs = {"split": [provenance.get("jobs", {}).get("split")]}
    for role, name in architectures.items():
        jobs[f"embed_{name}"] = [shard for shard in provenance["shards"] if shard["encoder"] == role]
    jobs["merge"] = [provenance.get("jobs", {}).get("merge")]
    times = []
    for rule, found in jobs.items():
        own = [job for job in found if job and "job_seconds" in job]
        if own:
            seconds = [job["job_seconds"] for job in own]
            rss = max((job["max_rss"] for job in own if "max_rss" in job), default=None)
            cpu = sum(job.get("cpu_seconds", 0.0) for job in own)
            times.append(RuleTime(rule, len(own), sum(seconds), max(seconds), rss, cpu))
    return times


@dataclass
class Throughput:
    """One encoder's speed over all shards."""

    encoder: str
    devices: str
    frames: int
    tokens: float
    seconds: float  # in the encoder, all jobs together; more than 0
    utilisation: float | None  # share of these seconds in which GPUs computed, 0 to 1; None if not measured


def computed(shards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The shards of which an encoder computed something: of the others, earlier runs had all vectors."""
    return [shard for shard in shards if shard["seconds"]]


def throughput(shards: list[dict[str, Any]]) -> list[Throughput]:
    """Speed per encoder, from the seconds that its jobs spent in the encoder."""
    result = []
    for encoder in ROLES:
        own = [shard for shard in computed(shards) if shard["encoder"] == encoder]
        if own:
            devices = ", ".join(sorted({str(shard.get("gpu_name", shard["device"])) for shard in own}))
            frames = round(sum(shard.get("computed", shard["frames"]) for shard in own))
            tokens, seconds = (sum(shard[key] for shard in own) for key in ("tokens", "seconds"))
            on_gpus = [shard for shard in own if "gpu_seconds" in shard]
            busy, whole = (sum(shard[key] for shard in on_gpus) for key in ("gpu_seconds", "seconds"))
            share = busy / whole if on_gpus else None
            result.append(Throughput(encoder, devices, frames, tokens, seconds, share))
    return result
