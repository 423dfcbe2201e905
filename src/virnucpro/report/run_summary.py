"""The lines that a run prints at its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

MAX_LISTED_SAMPLES = 20


def run_summary(folder: Path, samples: Iterable[str]) -> str:
    """What was found, what the embedding cost, and where the reports are; empty if no sample is finished.

    ``folder`` is ``output_dir``; those of the run's ``samples`` that have no report aren't counted.
    """
    found: list[str] = []
    records = viral = ambiguous = frames = 0
    regions: list[int] = []  # of samples in which they were looked for
    seconds: Counter[str] = Counter()  # in the encoders, by device; without the jobs' start and waiting for a GPU
    for sample in samples:
        if not (folder / sample / "report.html").is_file():
            continue
        try:
            counts = json.loads((folder / sample / "summary.json").read_text())
        except FileNotFoundError:
            continue
        seconds.update(counts.get("embedding_seconds", {}))
        records, viral = records + counts["records"], viral + counts["viral_records"]
        ambiguous += counts.get("ambiguous_records", 0)  # files of version 0.1 lack these two
        frames += counts["frames"] + counts.get("partial_chunks", 0)
        called = _called(counts["viral_records"], counts.get("ambiguous_records", 0), counts["records"])
        if counts.get("regions"):
            regions.append(counts["regions"]["regions"])
            called += f", {regions[-1]:,} viral regions"
        found.append(f"{sample}: {called}, {folder / sample / 'report.html'}")
    if not found:
        return ""
    if len(found) > MAX_LISTED_SAMPLES:
        found[MAX_LISTED_SAMPLES:] = [f"and {len(found) - MAX_LISTED_SAMPLES:,} samples more"]
    cost = " and ".join(
        f"{spent / 3600:,.2f} {device} hours" if spent > 360 else f"{spent:,.1f} {device} seconds"
        for device, spent in sorted(seconds.items(), reverse=True)
    )
    rate = f": {frames / sum(seconds.values()):,.1f} frames/s per device" if sum(seconds.values()) else ""
    return "\n".join(
        [
            *found,
            f"{_called(viral, ambiguous, records)}"
            + (f", {sum(regions):,} viral regions" if regions else "")
            + f"; {frames:,} frames embedded"
            + (f", now or before, in {cost}{rate}" if cost else ""),
        ]
    )


def _called(viral: int, ambiguous: int, records: int) -> str:
    return f"{viral:,} of {records:,} sequences viral" + (f", {ambiguous:,} ambiguous" if ambiguous else "")
