"""The lines that a run prints at its end."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from virnucpro.errors import StorageError
from virnucpro.outputs import CONTROLS, REGIONS, REPORT, TABLES, VIRAL
from virnucpro.rendering import how_many, text_table
from virnucpro.result_tables import AMBIGUOUS, CONTIG_COLUMNS, UNSCORED, read_rows
from virnucpro.result_tables import VIRAL as CALLED_VIRAL

MAX_LISTED_SAMPLES = 20
BEST = 10
"""Contigs that are listed."""


def run_summary(folder: Path, samples: Iterable[str]) -> str:
    """What was found, the best contigs, what the embedding cost, and which files to look at; empty if no sample is finished.

    ``folder`` is ``output_dir``; those of the run's ``samples`` that have no report aren't counted.
    """
    found: list[str] = []
    finished: list[str] = []
    records = viral = ambiguous = unscored = frames = 0
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
        ambiguous += counts.get("ambiguous_records", 0)  # files of version 0.1 lack this one and partial_chunks
        unscored += counts["unscored_records"]
        frames += counts["frames"] + counts.get("partial_chunks", 0)
        called = _called(
            counts["viral_records"], counts.get("ambiguous_records", 0), counts["unscored_records"], counts["records"]
        )
        if counts.get("regions"):
            regions.append(counts["regions"]["regions"])
            called += f", {how_many(regions[-1], 'viral region')}"
        found.append(f"{sample}: {called}, {folder / sample / REPORT}")
        finished.append(sample)
    if not found:
        return ""
    if len(found) > MAX_LISTED_SAMPLES:
        found[MAX_LISTED_SAMPLES:] = [f"and {how_many(len(found) - MAX_LISTED_SAMPLES, 'sample')} more"]
    cost = " and ".join(
        f"{spent / 3600:,.2f} {device} hours" if spent > 360 else f"{spent:,.1f} {device} seconds"
        for device, spent in sorted(seconds.items(), reverse=True)
    )
    rate = f": {frames / sum(seconds.values()):,.1f} frames/s per device" if sum(seconds.values()) else ""
    best = ""
    if len(finished) <= MAX_LISTED_SAMPLES:
        with suppress(StorageError):  # of another version
            best = best_contigs(folder, finished)
    look = []
    if len(finished) == 1:
        paths = {
            REPORT: "what was found, to read in a browser",
            VIRAL: "the sequences called viral",
            TABLES["contigs"]: "all calls",
        }
        if regions:
            paths[REGIONS["regions"]] = "viral parts of contigs"
        if (folder / finished[0] / CONTROLS).is_file():
            paths[CONTROLS] = "how many controls are called viral"
        look = [f"{folder / finished[0] / name}  {what}" for name, what in paths.items()]
    return "\n".join(
        [
            *found,
            *(["", best, ""] if best else []),
            *look,
            f"{_called(viral, ambiguous, unscored, records)}"
            + (f", {how_many(sum(regions), 'viral region')}" if regions else "")
            + f"; {how_many(frames, 'frame')} embedded"
            + (f", now or before, in {cost}{rate}" if cost else ""),
        ]
    )


def best_contigs(folder: Path, samples: Sequence[str]) -> str:
    """A table of the ``BEST`` contigs that are called viral or ambiguous, most viral first; empty if there are none."""
    columns = ("record", "length", "call", "logit", "mean_score", "probability", "category")

    def rows() -> Iterable[tuple[tuple[bool, float], str, Sequence[str]]]:
        for sample in samples:
            for row in read_rows(folder / sample / TABLES["contigs"], CONTIG_COLUMNS, columns):
                if row[2] in (CALLED_VIRAL, AMBIGUOUS):
                    yield (row[2] == CALLED_VIRAL, float(row[3] or row[4])), sample, row

    best = heapq.nlargest(BEST, rows(), key=lambda each: each[0])
    if not best:
        return ""
    of_sample = ["sample"] * (len(samples) > 1)
    table = [[*of_sample, "contig", "bases", "call", "probability" if best[0][2][5] else "score", "category"]]
    for _, sample, (record, length, call, _, score, likely, category) in best:
        table.append(
            [*[sample] * len(of_sample), record, f"{int(length):,}", call, f"{float(likely or score):.3f}", category]
        )
    if not any(row[-1] for row in table[1:]):
        table = [row[:-1] for row in table]
    return text_table(table, 1 + len(of_sample))


def _called(viral: int, ambiguous: int, unscored: int, records: int) -> str:
    others = "".join(
        f", {number:,} {call}" for call, number in ((AMBIGUOUS, ambiguous), (UNSCORED, unscored)) if number
    )
    return f"{viral:,} of {how_many(records, 'sequence')} viral{others}"
