"""FASTQ entries, four lines each; qualities are checked for their number and then left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from virnucpro.errors import InputError

_MATE = re.compile(r"\S+\s([12]):[YN]:\d+:")  # Illumina's second word: 1:N:0:ATCACG


def fastq_entries(path: Path, blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Header line (without ``@``) and letters of each entry; blank lines at the end don't matter.

    Raises:
        InputError: an entry isn't four lines, or has another number of qualities than letters.
    """
    rest, number = b"", 0
    for block in blocks:
        lines = (rest + block).split(b"\n")
        whole = (len(lines) - 1) // 4 * 4
        rest = b"\n".join(lines[whole:])
        for at in range(0, whole, 4):
            number += 1
            yield _entry(path, number, lines[at : at + 4])
    lines = rest.rstrip().split(b"\n")
    if len(lines) == 3 and not lines[1]:
        lines.append(b"")  # a read without bases, and so without qualities
    if lines != [b""]:
        yield _entry(path, number + 1, lines)


def read_name(title: str) -> str:
    """A read's id: the first word, and for Illumina's pairs, which share it, ``/1`` or ``/2``."""
    name, mate = title.split(None, 1)[0], _MATE.match(title)
    return f"{name}/{mate[1]}" if mate else name


def _entry(path: Path, number: int, lines: Sequence[bytes]) -> tuple[bytes, bytes]:
    if not lines[0].startswith(b"@"):
        if not any(lines):
            raise InputError(f"{path}: blank lines after record {number - 1}. Remove them.")
        shown = lines[0][:40].decode("utf-8", errors="replace")
        raise InputError(
            f"{path}: record {number} (line {4 * number - 3}) starts with {shown!r}, not with '@'. Each record of a "
            "FASTQ file has four lines; repair it, e.g. with seqtk seq."
        )
    name = lines[0][1:60].decode("utf-8", errors="replace")
    if len(lines) < 4:
        raise InputError(
            f"{path}: ends within record {number} ('{name}'): {len(lines)} of its 4 lines. Copy or download it again."
        )
    if not lines[2].startswith(b"+"):
        raise InputError(
            f"{path}: the third line of record {number} ('{name}') doesn't start with '+'. FASTQ with wrapped lines "
            "isn't read; unwrap it, e.g. with seqtk seq -l 0."
        )
    letters, qualities = lines[1].strip(), lines[3].strip()
    if len(letters) != len(qualities):
        raise InputError(
            f"{path}: record {number} ('{name}') has {len(letters)} letters and {len(qualities)} qualities. "
            "The file is damaged there; copy or download it again."
        )
    return lines[0][1:], letters
