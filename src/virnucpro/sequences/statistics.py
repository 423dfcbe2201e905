"""Counts over a sample's files, and how much there is to embed; nothing is kept or run."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from virnucpro.sequences.frames import stop_free_frames
from virnucpro.sequences.records import SampleRecords

MAX_NAME_LENGTH = 100
"""Longer names are remarked on."""
SHORT_REMARK = "shorter than a chunk, all of them: docs/inputs.md says how far to trust scores of reads"
_AWKWARD_CHARACTERS = frozenset("\"',;=")


@dataclass
class Statistics:
    """Counts over a sample. The fields are the keys of `validate --json`: windows are chunks, open frames stop-free ones."""

    records: int = 0
    empty_records: int = 0
    rna_records: int = 0  # whose U was read as T
    u_ignored_records: int = 0  # whose codons with U were left out
    bases: int = 0
    shortest: int = 0
    longest: int = 0
    windows: int = 0
    windows_with_open_frame: int = 0
    records_without_open_frame: int = 0
    open_frames: int = 0
    residues: int = 0
    partial_frames: int = 0  # longest stretches of the other chunks
    partial_residues: int = 0
    share_read: float = 1.0  # of the files' bytes; less than 1 if reading stopped early: then so did counting
    remarks: dict[str, str] = field(default_factory=dict)  # what a user may want to change → id of an example
    notes: list[str] = field(default_factory=list)  # what a run would write to its log


def statistics_of(
    fastas: Sequence[Path],
    chunk_length: int,
    enough: float = math.inf,
    empty_records: str = "error",
    rna_as_dna: bool = True,
) -> Statistics:
    """Read a sample's files as a run with these options would, and count; stop after ``enough`` bases.

    Raises:
        InputError: what ``SampleRecords`` refuses.
    """
    found = Statistics()
    sizes = [path.stat().st_size if path.is_file() else 0 for path in fastas]
    total = sum(sizes)

    def reached(number: int, position: int) -> None:
        if total:  # pipes have no size
            found.share_read = min(1.0, (sum(sizes[:number]) + position) / total)

    first, scored, last = "", 0, -1
    with (
        tempfile.TemporaryDirectory() as folder,
        SampleRecords(fastas, Path(folder), empty_records, rna_as_dna, reached) as sample,
    ):

        def sequences() -> Iterator[bytes]:
            nonlocal first
            for record in sample:
                _remark(found, record.id)
                first = first or record.id
                size = len(record.sequence)
                found.shortest = min(found.shortest or size, size)
                found.longest = max(found.longest, size)
                yield record.sequence
                if sample.found.bases >= enough:
                    return

        for batch in stop_free_frames(sequences(), chunk_length):
            found.windows += batch.chunks
            frames, partial = batch.frames, batch.partial
            found.open_frames += len(frames.frame)
            found.residues += sum(map(len, frames.proteins))
            found.partial_frames += len(partial.frame)
            found.partial_residues += sum(map(len, partial.proteins))
            if len(frames.frame):
                new = (np.diff(frames.record) != 0) | (np.diff(frames.chunk) != 0)
                found.windows_with_open_frame += 1 + int(new.sum())  # a chunk's frames are in one batch
                records = np.unique(frames.record)
                scored += len(records) - int(records[0] == last)
                last = records[-1]
        sample.finish()
    found.records, found.bases = sample.found.count, sample.found.bases
    found.empty_records, found.rna_records = sample.found.skipped.count, sample.found.rna.count
    found.u_ignored_records, found.notes = sample.found.u_ignored.count, sample.notes()
    found.records_without_open_frame = found.records - scored
    if 0 < found.longest < chunk_length:
        found.remarks[SHORT_REMARK] = first
    return found


def _remark(found: Statistics, identifier: str) -> None:
    if len(identifier) > MAX_NAME_LENGTH:
        found.remarks.setdefault(f"with a name of more than {MAX_NAME_LENGTH} letters", identifier)
    if not identifier.isascii() or not _AWKWARD_CHARACTERS.isdisjoint(identifier):
        found.remarks.setdefault("with letters in the name that other programs may stumble over", identifier)
