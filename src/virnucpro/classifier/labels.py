"""Label tables: what is known of each FASTA file, or of each record, and so of the records of samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.paths import files_of
from virnucpro.sequences.read import read_fasta
from virnucpro.settings.tables import Row, Table, read_table

LABELS = {"viral": True, "1": True, "non-viral": False, "0": False}
FROM_HEADER = "@header"
"""In the column ``group``: the group is the word ``group=NAME`` of each record's header."""


@dataclass(frozen=True)
class Label:
    """The truth about a record."""

    viral: bool
    category: str = ""
    group: str | None = None  # the genome that it belongs to; None: it is one


@dataclass(frozen=True)
class LabelledFasta:
    """One row of a table with the column ``fasta``."""

    fasta: Path
    label: Label

    @property
    def group(self) -> str | None:
        """The genome that all its records belong to, or ``FROM_HEADER``."""
        return self.label.group


@dataclass(frozen=True)
class Labelled:
    """One sample's folder of tables. ``label`` holds for every record that ``records`` doesn't name."""

    name: str
    folder: Path
    label: Label | None = None
    records: Mapping[str, Label] = field(default_factory=dict)

    def label_of(self, record: str) -> Label:
        """A record's label; InputError if it has none."""
        if (label := self.records.get(record, self.label)) is None:
            raise InputError(f"{self.folder}: record {record} of sample {self.name} has no label. Add it to the table.")
        return label


def read_labelled_fasta(path: str | Path) -> list[LabelledFasta]:
    """Rows of a table with the columns fasta, label and, if wanted, group and category.

    Relative paths start at the table's folder; a pattern (``viruses/*.fa.gz``) stands for its files.

    Raises:
        InputError: names the table, the row and the value, or a pattern without a file.
    """
    path = Path(path)
    labelled: dict[Path, LabelledFasta] = {}
    for row in _read(path, ("fasta", "label"), ("group", "category")).rows:
        where = f"{path}, line {row.line}"
        if not row["fasta"]:
            raise InputError(f"{where}: no FASTA path.")
        label = _label(where, row)
        try:
            files = files_of(row["fasta"], path.parent)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        for fasta in files:
            if fasta in labelled:
                raise InputError(f"{where}: {fasta} is listed twice.")
            labelled[fasta] = LabelledFasta(fasta, label)
    return list(labelled.values())


def read_labelled_records(path: str | Path) -> dict[str, Label]:
    """Record id → label, from a table with the columns id, label and, if wanted, group and category; others are ignored.

    Raises:
        InputError: names the table, the row and the value.
    """
    path = Path(path)
    labels: dict[str, Label] = {}
    for row in _read(path, ("id", "label"), ("group", "category"), others=True).rows:
        where = f"{path}, line {row.line}"
        if row["id"] in labels:
            raise InputError(f"{where}: record '{row['id']}' is listed twice.")
        labels[row["id"]] = label = _label(where, row)
        if label.group == FROM_HEADER:
            raise InputError(f"{where}: {FROM_HEADER} is for tables of files. Name the group of each record here.")
    return labels


def labelled_samples(table: str | Path, folders: Mapping[str, Path], headers: bool = False) -> list[Labelled]:
    """Samples and what is known of them, from a table of files (one per sample, in order) or of records.

    ``folders`` are sample name → folder of its tables. Where a table says ``FROM_HEADER``, the groups are read from the
    FASTA files if ``headers``.

    Raises:
        InputError: the table can't be read, is about other files than these samples, or a header has no group.
    """
    if not has_fasta(table):
        records = read_labelled_records(table)
        return [Labelled(name, folder, None, records) for name, folder in folders.items()]
    rows = read_labelled_fasta(table)
    if len(rows) != len(folders):
        raise InputError(f"{table}: lists other files than it did when this run began. Give the same command again.")
    samples = []
    for (name, folder), row in zip(folders.items(), rows, strict=True):
        groups = groups_from_headers([row.fasta]) if headers and row.group == FROM_HEADER else {}
        own = {record: replace(row.label, group=group) for record, group in groups.items()}
        samples.append(Labelled(name, folder, row.label, own))
    return samples


def read_test_part(split: str | Path) -> set[tuple[str, str]]:
    """(sample name, record) of the test part in the ``split.tsv`` of a training; InputError if it isn't one."""
    columns = ("sample", "record", "part")
    rows = read_table(Path(split), columns, others=True, quotes=False, what="split of a training").rows
    return {(row["sample"], row["record"]) for row in rows if row["part"] == "test"}


def has_fasta(path: str | Path) -> bool:
    """Whether a label table is about files (else about records)."""
    return "fasta" in _read(Path(path), ("label",), ("fasta", "id"), others=True).columns


def groups_from_headers(fastas: Sequence[Path]) -> dict[str, str]:
    """Record id → the NAME of ``group=NAME`` in its header.

    Raises:
        InputError: a header has no such word.
    """
    groups = {}
    for fasta in fastas:
        for record in read_fasta(fasta, keep_empty=True):
            match = re.search(r"(?:^|\s)group=(\S+)", record.header)
            if not match:
                raise InputError(
                    f"{fasta}: the header of '{record.id}' has no group=NAME, which {FROM_HEADER} asks for."
                )
            groups[record.id] = match[1]
    return groups


def _read(path: Path, required: Sequence[str], optional: Sequence[str], others: bool = False) -> Table:
    table = read_table(path, required, optional, others=others, what="label table")
    if not table.rows:
        raise InputError(f"{path}: has no rows.")
    return table


def _label(where: str, row: Row) -> Label:
    if row["label"] not in LABELS:
        raise InputError(f"{where}: label {row['label']!r} must be viral or non-viral (or 1 or 0).")
    return Label(LABELS[row["label"]], row.cells.get("category", ""), row.cells.get("group") or None)
