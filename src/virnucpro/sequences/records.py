"""The records of a sample's files as `validate` and `split` read them: RNA as DNA, counted, listed, no id twice."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from virnucpro.errors import InputError, StorageError
from virnucpro.sequences.blocks import TextBlock, cut_file
from virnucpro.sequences.composition import compositions
from virnucpro.sequences.read import Record, read_fasta

REMEDY = "Delete the shard folder and run again."
"""For what is wrong in a shard folder."""
HASHES_PER_PASS = 1 << 20
"""Hashes of ids compared at a time, about."""
BUFFERED_RECORDS = 1 << 10
"""Records whose rows are written at a time, about."""
BUFFERED_HASHES = 1 << 15
"""Hashes of ids written or read at a time."""

_TABLE_HEADER = "record\tlength\tfile\tgc\tn_share\tlow_complexity\n"
_SHARE_DECIMALS = 4
_NAMED_RECORDS = 3  # in a note
_RNA_TO_DNA = bytes.maketrans(b"Uu", b"Tt")


@dataclass
class Tally:
    """The number of records of some kind, and the ids of the first few."""

    count: int = 0
    ids: list[str] = field(default_factory=list)

    def add(self, identifier: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.ids) < _NAMED_RECORDS:
            self.ids.append(identifier)

    def merge(self, other: Tally) -> None:
        """Count those that come after these."""
        self.count += other.count
        self.ids = (self.ids + other.ids)[:_NAMED_RECORDS]

    def note(self, said: str) -> list[str]:
        """``said`` with the number in place of ``{}``, and the ids; nothing if there are none."""
        if not self.count:
            return []
        names = ", ".join([*(name[:60] for name in self.ids), *(["…"] if self.count > len(self.ids) else [])])
        number = f"{self.count:,} record{'s' * (self.count > 1)}"
        return [f"{said.format(number)}: {names}"]


@dataclass
class RecordsFound:
    """Counts of consecutive records, and their rows of ``records.tsv``."""

    rna_as_dna: bool = True
    count: int = 0  # with a sequence
    bases: int = 0
    skipped: Tally = field(default_factory=Tally)
    rna: Tally = field(default_factory=Tally)
    u_ignored: Tally = field(default_factory=Tally)
    ids: list[str] = field(default_factory=list)  # of those whose rows aren't written yet
    rows: list[str] = field(default_factory=list)

    def take(self, record: Record) -> Record | None:
        """Count a record; returns it with T in place of U if it is RNA and that is wanted, or None if it has no sequence."""
        sequence = record.sequence
        if not sequence:
            self.skipped.add(record.id)
            return None
        self.count += 1
        self.bases += len(sequence)
        self.ids.append(record.id)
        self.rows.append(f"{record.id}\t{len(sequence)}\t{record.file}")
        if b"U" not in sequence and b"u" not in sequence:
            return record
        if not self.rna_as_dna or b"T" in sequence or b"t" in sequence:
            self.u_ignored.add(record.id)
            return record
        self.rna.add(record.id)
        return record._replace(sequence=sequence.translate(_RNA_TO_DNA))

    def describe(self, sequences: Sequence[bytes]) -> None:
        """Add the composition of all records, whose sequences these are, to their rows."""
        shares = compositions(sequences).round(_SHARE_DECIMALS).tolist()
        self.rows = [f"{row}\t{gc}\t{n}\t{low}" for row, (gc, n, low) in zip(self.rows, shares, strict=True)]

    def joined(self) -> RecordsFound:
        """The same with its rows in one piece, which is pickled sooner."""
        self.rows = ["\n".join(self.rows)] if self.rows else []
        return self

    def merge(self, other: RecordsFound) -> None:
        """Count those that come after these."""
        self.count += other.count
        self.bases += other.bases
        for tally, others in ((self.skipped, other.skipped), (self.rna, other.rna), (self.u_ignored, other.u_ignored)):
            tally.merge(others)
        self.ids += other.ids
        self.rows += other.rows


class SampleRecords:
    """A context manager that reads the records once, lists them in ``records.tsv``, and refuses an id that occurs twice.

    Args:
        fastas: the sample's files, in order.
        folder: where to write ``records.tsv`` and temporary files.
        empty_records: "error", or "skip" to leave out records without a sequence.
        rna_as_dna: read U as T in records that have no T; else their codons with U are left out, as the original does.
        at: called with a file's index and the number of its bytes read so far.

    Raises:
        InputError: what ``read_fasta`` refuses; a file's name that a table can't hold; an id that occurs twice.
    """

    def __init__(
        self,
        fastas: Sequence[Path],
        folder: Path,
        empty_records: str = "error",
        rna_as_dna: bool = True,
        at: Callable[[int, int], object] = lambda number, position: None,
    ) -> None:
        if empty_records not in ("error", "skip"):
            raise ValueError(f"empty_records must be 'error' or 'skip', not {empty_records!r}")
        for path in fastas:
            _check_name(path)
        self._fastas, self._folder, self._at = fastas, folder, at
        self._skip_empty = empty_records == "skip"
        self._table = open(folder / "records.tsv", "w", encoding="utf-8", newline="\n")
        self._table.write(_TABLE_HEADER)
        self._duplicates = DuplicateCheck(folder)
        self._fastq: set[str] = set()
        self._file_notes: list[str] = []
        self.found = RecordsFound(rna_as_dna)

    def __enter__(self) -> SampleRecords:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self._duplicates.close()

    def __iter__(self) -> Iterator[Record]:
        """All records that have a sequence, in turn; in RNA, U is replaced by T."""
        for number, path in enumerate(self._fastas):

            def at(position: int, number: int = number) -> None:
                self._at(number, position)

            for record in read_fasta(path, self._skip_empty, at, self._file_notes.append):
                if (taken := self.found.take(record)) is not None:
                    yield taken
                if len(self.found.ids) >= BUFFERED_RECORDS:
                    self._write()
            if record.fastq:
                self._fastq.add(str(path))

    def blocks(self, size: int, threads: int = 1) -> Iterator[TextBlock | Record]:
        """Instead of the records in turn, blocks of them: see ``blocks.cut_file``.

        Give what is found in them to ``add``, in this order.
        """
        for path in self._fastas:
            for block in cut_file(path, size, self._skip_empty, self._file_notes.append, threads):
                if block.fastq:
                    self._fastq.add(str(path))
                yield block

    def add(self, found: RecordsFound) -> None:
        """Count and list records that come after those so far."""
        self.found.merge(found)
        self._write()

    def _write(self) -> None:
        self._table.writelines(f"{row}\n" for row in self.found.rows)
        self._duplicates.add(self.found.ids)
        self.found.rows.clear()
        self.found.ids.clear()

    def finish(self) -> None:
        """Refuse an id that occurs twice."""
        self._write()
        self._table.flush()
        found = self._duplicates.first(self._ids_and_files())
        if found is None:
            return
        record, one, other = found
        where = f"twice in {one}" if one == other else f"in {one} and in {other}"
        said = f"record '{record}' occurs {where}."
        if not {one, other} <= self._fastq:
            raise InputError(f"{said} Ids must be unique in a sample: rename one.")
        first = ". First part them, e.g. with seqtk seq -1 and seqtk seq -2." if one == other else "."
        raise InputError(f"{said} They look like the mates of a pair: make two samples, one of each mate{first}")

    def _ids_and_files(self) -> Iterator[tuple[str, str]]:
        """Of the rows written so far; those of records read in turn lack the shares."""
        with open(self._folder / "records.tsv", encoding="utf-8", newline="\n") as file:
            next(file)
            for line in file:
                record, _, source, *_ = line.rstrip("\n").split("\t")
                yield record, source

    def notes(self) -> list[str]:
        """Messages for the user about the files and records read so far."""
        has_u = "with both U and T" if self.found.rna_as_dna else "with U"
        return [
            *self._file_notes,
            *self.found.skipped.note("left out {} without a sequence"),
            *self.found.rna.note("read {} as RNA, U as T, since there is no T"),
            *self.found.u_ignored.note(f"left out the codons with U in {{}} {has_u}, as the original does"),
        ]


class RecordRow(NamedTuple):
    """A row of ``records.tsv``; for the shares see ``composition``."""

    id: str
    length: int
    file: str
    gc: float
    n_share: float
    low_complexity: float


def read_table(folder: Path) -> Iterator[RecordRow]:
    """Each row of ``records.tsv``."""
    path = folder / "records.tsv"
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            if next(file, "") != _TABLE_HEADER:
                raise StorageError(f"{path}: not a table of records. {REMEDY}")
            for line in file:
                record, length, source, *shares = line.removesuffix("\n").split("\t")
                gc, n_share, low_complexity = map(float, shares)
                yield RecordRow(record, int(length), source, gc, n_share, low_complexity)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: can't be read ({error}). {REMEDY}") from error


def _check_name(path: Path) -> None:
    """Refuse a file's name that no table can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{str(path)!r}: the file's name isn't UTF-8. Rename it.") from None
    if any(space in str(path) for space in "\t\r\n"):
        raise InputError(f"{str(path)!r}: a tab or line break in a file's name. Rename it.")


class DuplicateCheck:
    """Collects ids; ``first`` then finds one that occurred twice, in memory that doesn't grow with their number.

    64-bit hashes of the ids are written to a temporary file, which is searched in passes of bounded size; the few hashes
    that occur twice are confirmed by reading the ids themselves again.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(buffering=8 * BUFFERED_HASHES, dir=folder)
        self._count = 0

    def add(self, identifiers: Sequence[str]) -> None:
        """Note some ids."""
        hashes = np.fromiter(map(hash, identifiers), np.int64, len(identifiers))  # stable within a process
        self._file.write(hashes.tobytes())
        self._count += len(identifiers)

    def first(self, records: Iterable[tuple[str, str]]) -> tuple[str, str, str] | None:
        """An id that occurred twice, and the two files it is in; None if there is none.

        ``records``, (id, file) of each, are read only if two hashes are equal.
        """
        passes = -(-self._count // HASHES_PER_PASS)
        suspects: set[int] = set()
        for turn in range(passes):
            hashes = np.concatenate([part[part.view(np.uint64) % np.uint64(passes) == turn] for part in self._parts()])
            hashes.sort()
            suspects.update(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]).tolist())
            if len(suspects) > HASHES_PER_PASS:
                break  # too many to be collisions
        seen: dict[str, str] = {}
        for identifier, file in records if suspects else ():
            if hash(identifier) in suspects:
                if identifier in seen:
                    return identifier, seen[identifier], file
                if len(seen) < 2 * HASHES_PER_PASS:
                    seen[identifier] = file
        return None

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _parts(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        while part := self._file.read(8 * BUFFERED_HASHES):
            yield np.frombuffer(part, dtype=np.int64)
