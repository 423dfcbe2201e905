"""Label tables: what is known of each FASTA file, or of each record."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from virnucpro.errors import InputError
from virnucpro.files import matching
from virnucpro.sequences.fasta import read_fasta

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
    labelled = []
    for number, row in enumerate(_read(path, ("fasta", "label"), ("group", "category")), start=1):
        if not row["fasta"]:
            raise InputError(f"{path}, row {number}: no FASTA path.")
        label = _label(path, number, row)
        for fasta in matching(Path(os.path.normpath(path.parent / Path(row["fasta"]).expanduser()))):
            labelled.append(LabelledFasta(fasta, label, row.get("group") or None))
    return labelled


def read_labelled_records(path: str | Path) -> dict[str, Label]:
    """Record id → label, from a table with the columns id, label and, if wanted, category; others are ignored."""
    path = Path(path)
    labels: dict[str, Label] = {}
    for number, row in enumerate(_read(path, ("id", "label"), None), start=1):
        if row["id"] in labels:
            raise InputError(f"{path}, row {number}: record '{row['id']}' is listed twice.")
        labels[row["id"]] = _label(path, number, row)
    return labels


def has_fasta(path: str | Path) -> bool:
    """Whether a label table is about files (else about records)."""
    with _open(Path(path)) as handle:
        return "fasta" in handle.readline().rstrip("\r\n").split("\t")


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


def _read(path: Path, required: Sequence[str], optional: Sequence[str] | None) -> list[dict[str, str]]:
    """Rows of a table; other columns are an error, unless ``optional`` is None."""
    with _open(path) as handle:
        table = csv.DictReader((line for line in handle if line.strip()), delimiter="\t")
        columns = list(table.fieldnames or [])
        rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in table]
    for name in required:
        if name not in columns:
            raise InputError(f"{path}: has no column '{name}'; its columns are {', '.join(columns) or 'none'}.")
    known = columns if optional is None else [*required, *optional]
    for name in columns:
        if name not in known:
            raise InputError(f"{path}: column '{name}' means nothing here; known are {', '.join(known)}.")
    if not rows:
        raise InputError(f"{path}: has no rows.")
    return rows


def _label(path: Path, number: int, row: dict[str, str]) -> Label:
    if row["label"] not in LABELS:
        raise InputError(f"{path}, row {number}: label {row['label']!r} must be viral or non-viral (or 1 or 0).")
    return Label(LABELS[row["label"]], row.get("category", ""))


def _open(path: Path) -> TextIO:
    try:
        return open(path, newline="", encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: can't read the label table ({error.strerror}).") from None
