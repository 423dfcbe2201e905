"""Label tables: what is known of each FASTA file, or of each record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class LabelledFasta:
    """One row of a table with the column ``fasta``."""

    fasta: Path
    label: Label
    group: str | None  # the genome that all its records belong to


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
            labelled[fasta] = LabelledFasta(fasta, label, row.cells.get("group") or None)
    return list(labelled.values())


def read_labelled_records(path: str | Path) -> dict[str, Label]:
    """Record id → label, from a table with the columns id, label and, if wanted, category; others are ignored."""
    path = Path(path)
    labels: dict[str, Label] = {}
    for row in _read(path, ("id", "label"), ("category",), others=True).rows:
        where = f"{path}, line {row.line}"
        if row["id"] in labels:
            raise InputError(f"{where}: record '{row['id']}' is listed twice.")
        labels[row["id"]] = _label(where, row)
    return labels


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
    return Label(LABELS[row["label"]], row.cells.get("category", ""))
