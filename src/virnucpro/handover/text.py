"""Other programs' tables, line by line, plain or compressed; what they lack is said with the file's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.sequences.compression import read_blocks


def lines(path: Path) -> Iterator[str]:
    """Lines without their ends, of UTF-8 text, whatever the compression; a block at a time.

    Raises InputError: the file can't be read, or isn't text.
    """
    number, rest = 0, b""
    for block in read_blocks(path):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            number += 1
            yield _text(path, number, line)
    if rest:
        yield _text(path, number + 1, rest)


def rows(path: Path, required: Sequence[str], program: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line, and cells by column, of each row of a tab-separated table; ``NA`` is read as an empty cell.

    Raises InputError: not a table of that ``program`` (a ``required`` column is missing), or a row of another width.
    """
    found = lines(path)
    columns = next(found, "").lstrip("\ufeff").split("\t")
    if missing := [name for name in required if name not in columns]:
        raise InputError(
            f"{path}: isn't a table of {program}: it has no column {', '.join(missing)}; its columns are "
            f"{', '.join(columns)[:200] or '(none)'}. Give the file that the program wrote, as it is."
        )
    for number, line in enumerate(found, start=2):
        if not line:
            continue
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise InputError(
                f"{path}, line {number}: has {len(cells)} cells, the header {len(columns)}. Copy it again."
            )
        yield number, {name: "" if cell == "NA" else cell for name, cell in zip(columns, cells, strict=True)}


def whole_number(text: str, where: str) -> int:
    """The number in a cell; InputError, which begins with ``where``, if it isn't a whole one."""
    if not text.isdecimal():
        raise InputError(
            f"{where}: {text[:40]!r} isn't a whole number. Give the file that the program wrote, as it is."
        )
    return int(text)


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        text = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}, line {number}: isn't UTF-8 text. Give the table itself.")
    return text
