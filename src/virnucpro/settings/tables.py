"""Tables that users write, by hand, with a script or in a spreadsheet: sample sheets and label tables.

Columns are separated by tabs, or by semicolons or commas where every line then has the same cells. Cells may be quoted
as spreadsheets do. Text is UTF-8, or UTF-16 with its mark. Anything else is refused by line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import InputError, nearest
from virnucpro.paths import check_file

AS_TEXT = "Save it as tab-separated text (UTF-8)."
_BEGINNINGS = {
    b"PK\x03\x04": f"is a spreadsheet or a zip file, not text. {AS_TEXT}",
    b"\xd0\xcf\x11\xe0": f"is a spreadsheet, not text. {AS_TEXT}",
    b"\x1f\x8b": "is compressed. Decompress it.",
    b"\x28\xb5\x2f\xfd": "is compressed. Decompress it.",
    b">": "is FASTA, not a table.",
    b"@": "is FASTQ or SAM, not a table.",
}
_LOCK = re.compile(r"~\$.*|\.~lock\..*#")
_LINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Row:
    """A line of a table: its number in the file, from 1, and what is in each named column."""

    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


@dataclass(frozen=True)
class Table:
    """A table's columns and its rows, blank lines and comments left out."""

    columns: list[str]
    rows: list[Row]


def read_table(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    others: bool = False,
    quotes: bool = True,
    what: str = "table",
) -> Table:
    """Read a table. Names of columns may be in any case; cells lose blanks around them unless they are quoted.

    Args:
        path: the file.
        required: columns that it must have.
        optional: columns that it may have.
        others: whether it may have any others, too.
        quotes: whether cells may be quoted; not in the program's own tables, where a quotation mark is a letter of an id.
        what: what messages call it.

    Lines that begin with ``#`` are comments, but for those below a first column ``id``: a record may be called so.

    Raises:
        InputError: names the file, the line and what to do.
    """
    lines = [(number, line) for number, line in enumerate(_LINE.split(_text(path, required, what)), 1) if line.strip()]
    known = [*required, *optional]
    while lines and lines[0][1].startswith("#"):
        number, comment = lines.pop(0)
        if _separator(comment.lstrip("# "), required):
            raise InputError(
                f"{path}, line {number}: the names of the columns are a comment. Remove the '#' before them."
            )
    if not lines:
        raise InputError(f"{path}: the {what} is empty. It needs the columns {' and '.join(required)}.")
    number, header = lines.pop(0)
    separator = _separator(header, required) or "\t"
    columns = _names(header, separator, known)
    _check_columns(f"{path}, line {number}", header, columns, required, None if others else known)
    rows = []
    for number, line in lines:
        if line.startswith("#") and columns[0] != "id":
            continue
        cells = _cells(line, separator, f"{path}, line {number}") if quotes else line.split(separator)
        if not any(cells):
            continue
        if any(cells[len(columns) :]) or (separator != "\t" and len(cells) != len(columns)):
            raise InputError(f"{path}, line {number}: has {len(cells)} cells, the header {len(columns)}. {AS_TEXT}")
        cells += [""] * (len(columns) - len(cells))
        rows.append(Row(number, {name: cell for name, cell in zip(columns, cells, strict=False) if name}))
    return Table(columns, rows)


def is_table(path: str | Path, required: Collection[str]) -> bool:
    """Whether a file begins with the names of these columns, whichever the separator."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            text = file.read(1 << 12)
        lines = _LINE.split(_decoded(text))
    except (OSError, UnicodeDecodeError):
        return False
    header = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return _separator(header, required) is not None


def quoted(cell: str) -> str:
    """A cell that ``read_table`` reads as it is."""
    if cell == cell.strip() and not cell.startswith(('"', "#")):
        return cell
    return '"' + cell.replace('"', '""') + '"'


def _text(path: Path, required: Sequence[str], what: str) -> str:
    if _LOCK.fullmatch(path.name):
        raise InputError(
            f"{path}: is what a spreadsheet program leaves while it has the file open. Give the file itself."
        )
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        columns = " and ".join(required)
        raise InputError(f"{path}: no such {what}. Give a tab-separated file with the columns {columns}.") from None
    except OSError:
        pass  # the check of the file says why
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, not a {what}. Give the table's own path.")
    check_file(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path}: can't read the {what} ({error.strerror}).") from None
    for beginning, reason in _BEGINNINGS.items():
        if content.startswith(beginning):
            raise InputError(f"{path}: {reason}")
    try:
        text = _decoded(content)
    except UnicodeDecodeError as error:
        if error.encoding.startswith("utf-16"):
            raise InputError(f"{path}: begins as UTF-16 text, but isn't. {AS_TEXT}") from None
        line = len(_LINE.findall(content[: error.start].decode("latin-1"))) + 1
        raise InputError(
            f"{path}, line {line}: isn't UTF-8 text (byte 0x{content[error.start]:02x}). Save the {what} as UTF-8, or "
            f"convert it: iconv -f latin1 -t utf-8 {path.name} > new.tsv"
        ) from None
    if "\0" in text:
        line = len(_LINE.findall(text[: text.index("\0")])) + 1
        raise InputError(f"{path}, line {line}: has a NUL character, so it is damaged or isn't UTF-8. {AS_TEXT}")
    return text


def _decoded(content: bytes) -> str:
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if utf16 else "utf-8-sig")


def _separator(header: str, required: Collection[str]) -> str | None:
    """What separates the names of the columns, if the required ones are there."""
    return next((mark for mark in "\t;," if set(required) <= set(_names(header, mark, required))), None)


def _names(header: str, separator: str, known: Collection[str]) -> list[str]:
    """The header's names, known ones in lower case, without empty ones at the end."""
    try:
        names = _cells(header, separator, "")
    except InputError:
        return []
    while len(names) > 1 and not names[-1]:
        names.pop()
    return [name.lower() if name.lower() in known else name for name in names]


def _check_columns(
    where: str, header: str, columns: Sequence[str], required: Sequence[str], known: Sequence[str] | None
) -> None:
    """Raise InputError for a column that is missing, twice there or, if ``known`` are all there are, unknown."""
    for name in required:
        if name not in columns:
            spaced = set(required) <= set(header.lower().split())
            why = "Columns must be separated by tabs, not spaces." if spaced else "Columns must be separated by tabs."
            raise InputError(f"{where}: has no column '{name}'; its columns are {', '.join(columns)[:200]}. {why}")
    for name in columns:
        if name and columns.count(name) > 1:
            raise InputError(f"{where}: column '{name}' is there twice. Remove one, or rename it.")
        if known is not None and name not in known:
            raise InputError(f"{where}: column '{name}' means nothing here{nearest(name, known)}")


def _cells(line: str, separator: str, where: str) -> list[str]:
    """A line's cells; quoted ones as they are, others without blanks around them."""
    cells: list[str] = []
    blank = rf"[^\S{separator}]*"
    cell = re.compile(rf'{blank}"((?:[^"]|"")*)"{blank}({separator}|$)|([^{separator}]*)({separator}|$)')
    position = 0
    while True:
        found = cell.match(line, position)
        assert found  # the second form matches anything
        exact, plain = found[1], found[3]
        if exact is None and plain.strip().startswith('"'):
            raise InputError(
                f"{where}: a quote isn't closed, or has text behind it. Quote the whole cell, and double quotes inside."
            )
        cells.append(plain.strip() if exact is None else exact.replace('""', '"'))
        position = found.end()
        if not (found[2] or found[4]):
            return cells
