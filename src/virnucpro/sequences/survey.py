"""What is in a sample's files, and how much work it is, without keeping or running anything."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from virnucpro.errors import InputError
from virnucpro.sequences.duplicates import DuplicateCheck
from virnucpro.sequences.fasta import read_fasta
from virnucpro.sequences.frames import open_frames_of

LONG_NAME = 100
SHORT = "shorter than a window, all of them: docs/inputs.md says how far to trust scores of reads"
_AWKWARD = frozenset("\"',;=")


@dataclass
class Survey:
    """Counts over a sample; ``remarks`` are what a user may want to change, with an example each."""

    records: int = 0
    empty_records: int = 0
    bases: int = 0
    shortest: int = 0
    longest: int = 0
    windows: int = 0
    windows_with_open_frame: int = 0
    records_without_open_frame: int = 0
    open_frames: int = 0
    residues: int = 0
    share_read: float = 1.0  # of the files' bytes; less than 1 if reading stopped early, and so are all counts
    remarks: dict[str, str] = field(default_factory=dict)


def survey(fastas: Sequence[Path], chunk_length: int, enough: float = math.inf, empty_records: str = "error") -> Survey:
    """Read all files of a sample as a run with this ``empty_records`` would, and count; stop after ``enough`` bases.

    Raises:
        InputError: what ``read_fasta`` refuses; an id that occurs twice.
    """
    found = Survey()
    sizes = [path.stat().st_size for path in fastas]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as names, tempfile.TemporaryDirectory() as folder:
        duplicates = DuplicateCheck(Path(folder))

        first = ""

        def sequences() -> Iterator[bytes]:
            nonlocal first
            for number, path in enumerate(fastas):

                def reached(position: int, before: int = sum(sizes[:number])) -> None:
                    found.share_read = (before + position) / sum(sizes)

                for record in read_fasta(path, keep_empty=empty_records == "skip", at=reached):
                    _remark(found, record.id)
                    if not record.sequence:
                        found.empty_records += 1
                        found.remarks.setdefault("without a sequence, which are left out", record.id)
                        continue
                    first = first or record.id
                    duplicates.add(record.id)
                    names.write(f"{number} {record.id}\n")
                    size = len(record.sequence)
                    found.shortest = min(found.shortest or size, size)
                    found.longest = max(found.longest, size)
                    found.bases += size
                    found.records += 1
                    yield record.sequence
                    if found.bases >= enough:
                        return

        scored, last = 0, -1
        for batch in open_frames_of(sequences(), chunk_length):
            found.windows += batch.chunks
            found.open_frames += len(batch.frame)
            found.residues += sum(map(len, batch.proteins))
            if len(batch.frame):
                new = (np.diff(batch.record) != 0) | (np.diff(batch.chunk) != 0)
                found.windows_with_open_frame += 1 + int(new.sum())  # a window's frames are in one batch
                records = np.unique(batch.record)
                scored += len(records) - (records[0] == last)
                last = records[-1]
        found.records_without_open_frame = found.records - int(scored)
        names.seek(0)
        rows = (line.rstrip("\n").split(" ", 1) for line in names)
        twice = duplicates.first((identifier, str(fastas[int(number)])) for number, identifier in rows)
        duplicates.close()
    if 0 < found.longest < chunk_length:
        found.remarks[SHORT] = first
    if twice:
        raise InputError(f"record '{twice[0]}' occurs twice ({twice[1]}, {twice[2]}). Ids must be unique in a sample.")
    return found


def _remark(found: Survey, identifier: str) -> None:
    if len(identifier) > LONG_NAME:
        found.remarks.setdefault(f"with a name of more than {LONG_NAME} letters", identifier)
    if not identifier.isascii() or not _AWKWARD.isdisjoint(identifier):
        found.remarks.setdefault("with letters in the name that other programs may stumble over", identifier)
