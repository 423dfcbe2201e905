"""Other programs' tables, line by line, plain or compressed; what they lack is said with the file's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.sequences.compression import read_blocks


def lines(path: Path) -> Iterator[str]:
    """Lines without their ends, of UTF-8 text, whatever the compression; a block at a time.

    Raises InputError: the file can't be read, or isn't text.
    """
    number, rest = 0, b""
    for block in read_blocks(path):
        whole, end, rest = (rest + block).rpartition(b"\n")
        if end:
            found = _texts(path, number, whole)
            number += len(found)
            yield from found
    if rest:
        yield from _texts(path, number, rest)


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


def _texts(path: Path, before: int, whole: bytes) -> list[str]:
    """The lines of some text, before which there are so many; at once, which is ten times as fast as one by one."""
    with suppress(UnicodeDecodeError):
        if "\0" not in (text := whole.decode()):
            return text.replace("\r\n", "\n").removesuffix("\r").split("\n")
    good = 0
    for line in whole.split(b"\n"):
        if b"\0" in line or line.decode(errors="replace").encode() != line:
            break
        good += 1
    raise InputError(f"{path}, line {before + good + 1}: isn't UTF-8 text. Give the table itself.")
