"""Reading FASTA and FASTQ files: streamed in large blocks, with errors that name the record and the remedy."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from virnucpro.errors import InputError
from virnucpro.sequences.compression import read_blocks
from virnucpro.sequences.fastq import fastq_entries, read_name

_IUPAC = b"ACGTUNRYSWKMBDHV"
_ALLOWED = _IUPAC + _IUPAC.lower()
_SPACE = b"\r\n \t\v\f"
_OFFENDING = re.compile(b"[^" + _ALLOWED + b"]")
_PROTEIN = frozenset(b"EFILPQZXJO*efilpqzxjo")
_LONGEST_HEADER = 1 << 20


class Record(NamedTuple):
    """One FASTA or FASTQ entry."""

    id: str  # first word of the header; see also ``fastq.read_name``
    sequence: bytes  # IUPAC nucleotide letters, in the case of the file
    file: Path
    header: str = ""  # the whole line, without ``>`` or ``@``


def read_fasta(path: str | Path, keep_empty: bool = False, at: Callable[[int], object] = id) -> Iterator[Record]:
    """Records of a FASTA or FASTQ file, in order; memory is a few blocks plus the longest record.

    Format and compression (see ``compression``) are told by content, not by name; line ends, case and, in FASTA,
    blank lines don't matter. Records without a sequence are an error unless ``keep_empty``.

    Raises:
        InputError: the file can't be read, is neither FASTA nor FASTQ, holds no record, a header without a name, a
            letter that isn't a IUPAC nucleotide, or an empty record; or what ``fastq_entries`` refuses.
    """
    path = Path(path)
    fastq, entries = _opened(path, at)
    for number, (header, sequence) in enumerate(entries, start=1):
        title = _title(path, number, header)
        identifier = read_name(title) if fastq else title.split(None, 1)[0]
        if not sequence and not keep_empty:
            raise InputError(f"{path}: record '{identifier}' has no sequence. Remove it, or set empty_records to skip.")
        if sequence.translate(None, _ALLOWED):
            raise _wrong_letter(path, identifier, sequence)
        yield Record(identifier, sequence, path, title)


def read_letters(path: str | Path) -> Iterator[bytes]:
    """Sequences of a FASTA or FASTQ file in capitals, whatever they are made of; without the stop that ends a protein.

    Raises:
        InputError: as ``read_fasta``, but for letters; a record without a sequence is an error.
    """
    path = Path(path)
    for number, (header, sequence) in enumerate(_opened(path)[1], start=1):
        title, letters = _title(path, number, header), sequence.upper().rstrip(b"*")
        if not letters:
            raise InputError(f"{path}: record '{title}' has no sequence. Remove it.")
        yield letters


def _opened(path: Path, at: Callable[[int], object] = id) -> tuple[bool, Iterator[tuple[bytes, bytes]]]:
    """Whether a file is FASTQ; header line and letters of each of its entries."""
    blocks = _begun(path, at)
    first = next(blocks)
    fastq = first.startswith(b"@")
    return fastq, (fastq_entries if fastq else _entries)(path, chain([first], blocks))


def _begun(path: Path, at: Callable[[int], object]) -> Iterator[bytes]:
    """The blocks of a file from its first ``>`` or ``@`` on."""
    blocks = read_blocks(path, at)
    start = b""
    for block in blocks:
        start = (start + block).removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
        if len(start) > 3:  # else a byte order mark may be incomplete
            break
    if not start:
        raise InputError(f"{path}: the file is empty. Give a FASTA file with at least one record.")
    if not start.startswith((b">", b"@")):
        line = start.split(b"\n", 1)[0][:40].decode("utf-8", errors="replace").rstrip()
        raise InputError(f"{path}: not FASTA: text before the first '>': {line!r}. Give a file that starts with '>'.")
    yield start
    yield from blocks


def _entries(path: Path, blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Header line (without ``>``) and letters (without white space) of each entry."""
    header: bytes | None = None
    letters = io.BytesIO()  # grows in place, and gives its content without a copy
    rest: bytes = b"\n"  # what can't be judged yet: a line's end, or a header whose end is in the next block
    for block in blocks:
        text, rest = rest + block, b""
        if text.endswith(b"\n"):
            text, rest = text[:-1], b"\n"
        pieces = text.split(b"\n>")
        for index, piece in enumerate(pieces):
            if index:
                if header is not None:
                    yield header, letters.getvalue()
                letters = io.BytesIO()
                title, newline, piece = piece.partition(b"\n")
                header = title
                if not newline and index == len(pieces) - 1:
                    header, rest = None, b"\n>" + title + rest
                    if len(rest) > _LONGEST_HEADER:
                        raise InputError(
                            f"{path}: a header is longer than {_LONGEST_HEADER} bytes. If the file's lines end in "
                            "carriage returns alone, convert it (tr '\\r' '\\n')."
                        )
                    break
            letters.write(_without_space(piece))
    if header is not None:
        yield header, letters.getvalue()
    if rest.startswith(b"\n>"):
        yield rest[2:], b""


def _without_space(text: bytes) -> bytes:
    text = text.replace(b"\n", b"")  # several times as fast as translate, which few files then need
    if b"\r" in text or b" " in text or b"\t" in text or b"\v" in text or b"\f" in text:
        return text.translate(None, _SPACE)
    return text


def _title(path: Path, number: int, header: bytes) -> str:
    try:
        title = header.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        shown = header[:60].decode("utf-8", errors="replace").rstrip()
        raise InputError(
            f"{path}: the header of record {number} isn't UTF-8 (byte {error.start + 1} of {shown!r}). "
            "Convert the file, e.g. with iconv -f latin1 -t utf-8."
        ) from None
    if not title:
        raise InputError(f"{path}: record {number} has a header without a name. Write one after its '>' or '@'.")
    return title


def _wrong_letter(path: Path, identifier: str, sequence: bytes) -> InputError:
    match = _OFFENDING.search(sequence)
    assert match is not None
    letter, where = match.group().decode("latin1"), match.start() + 1
    said = f"{path}: record '{identifier}' has {letter!r} at position {where}, which isn't a IUPAC nucleotide."
    if _PROTEIN.issuperset(sequence.translate(None, _ALLOWED)):
        return InputError(f"{said} It looks like a protein FASTA given as DNA. Give nucleotide sequences.")
    if letter in "-.":
        return InputError(f"{said} It looks like an alignment. Remove the gaps.")
    return InputError(f"{said} Correct the record or remove it.")
