"""Reading FASTA and FASTQ files, streamed in large blocks; errors name the record and the remedy.

FASTQ is four lines an entry; qualities are checked for their number and then left out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from virnucpro.errors import InputError
from virnucpro.sequences.compression import read_blocks
from virnucpro.sequences.formats import SNIFFED_BYTES, not_sequences

_IUPAC_LETTERS = b"ACGTUNRYSWKMBDHV"
_NUCLEOTIDES = _IUPAC_LETTERS + _IUPAC_LETTERS.lower()
_OTHER_LETTER = re.compile(b"[^" + _NUCLEOTIDES + b"]")
_PROTEIN_LETTERS = frozenset(b"EFILPQZXJO*efilpqzxjo")  # without those that are nucleotides, too
_WHITE_SPACE = b"\r\n \t\v\f"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")
_ILLUMINA_MATE = re.compile(r"\S+\s([12]):[YN]:\d+:")  # the second word of a title, such as 1:N:0:ATCACG
_MAX_HEADER_BYTES = 1 << 20


class Record(NamedTuple):
    """One FASTA or FASTQ entry."""

    id: str  # first word of the header, as str.split has it: without white space; see also ``_read_name``
    sequence: bytes  # IUPAC nucleotide letters, as in the file
    file: Path
    header: str = ""  # the whole line, without ``>`` or ``@``
    fastq: bool = False


def read_fasta(
    path: str | Path, keep_empty: bool = False, at: Callable[[int], object] = id, warn: Callable[[str], object] = id
) -> Iterator[Record]:
    """Records of a FASTA or FASTQ file, in order; memory is a few blocks plus the longest record.

    Format and compression (see ``compression``, also for ``at`` and ``warn``) are told by content, not by name; line
    ends, case and, in FASTA, blank lines don't matter. Records without a sequence are an error unless ``keep_empty``.

    Raises:
        InputError: the file can't be read, is neither FASTA nor FASTQ, holds no record, a header without a name or
            with a control character in it, a letter that isn't an IUPAC nucleotide, or an empty record; or a FASTQ entry
            that isn't four lines, or has another number of qualities than letters.
    """
    path = Path(path)
    fastq, blocks = open_text(path, at, warn)
    yield from read_text(path, fastq, blocks, keep_empty)


def open_text(
    path: Path, at: Callable[[int], object] = id, warn: Callable[[str], object] = id, threads: int = 1
) -> tuple[bool, Iterator[bytes]]:
    """Whether a file is FASTQ, and its text from the first entry on, in blocks: lines end in a line feed.

    The arguments are those of ``compression.read_blocks``; raises InputError if the file is neither FASTA nor FASTQ.
    """
    blocks = _from_first_entry(path, _unix_lines(read_blocks(path, at, warn, threads)))
    first = next(blocks)
    return first.startswith(b"@"), chain([first], blocks)


def read_text(
    path: Path, fastq: bool, blocks: Iterable[bytes], keep_empty: bool = False, first: int = 1
) -> Iterator[Record]:
    """Records of text that begins with the entry of number ``first`` (from 1) of a file; raises as ``read_fasta``."""
    entries = _fastq_entries(path, blocks, first) if fastq else _fasta_entries(path, blocks)
    for number, (header, sequence) in enumerate(entries, start=first):
        title = _title(path, number, header)
        identifier = _read_name(title) if fastq else title.split(None, 1)[0]
        if not identifier.isprintable() and (control := _CONTROL_CHARACTER.search(identifier)):
            where = header.index(control.group().encode()) + 1
            raise InputError(
                f"{path}: the name of record {number} has a control character ({control.group()!r}, byte {where} of the "
                f"header): {identifier[:40]!r}. Remove it; if you didn't expect it, the file may be damaged."
            )
        if not sequence and not keep_empty:
            raise InputError(f"{path}: record '{identifier}' has no sequence. Remove it, or set empty_records to skip.")
        if sequence.translate(None, _NUCLEOTIDES):
            raise _wrong_letter(path, identifier, sequence, fastq)
        yield Record(identifier, sequence, path, title, fastq)


def read_letters(path: str | Path) -> Iterator[bytes]:
    """Sequences of a FASTA or FASTQ file in upper case, nucleotides or residues; a protein's final ``*`` is left out.

    Raises:
        InputError: as ``read_fasta``, but any letter is allowed; a record without a sequence is an error.
    """
    path = Path(path)
    fastq, blocks = open_text(path)
    for number, (header, sequence) in enumerate((_fastq_entries if fastq else _fasta_entries)(path, blocks), start=1):
        title, letters = _title(path, number, header), sequence.upper().rstrip(b"*")
        if not letters:
            raise InputError(f"{path}: record '{title}' has no sequence. Remove it.")
        yield letters


def _unix_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks whose lines all end in a line feed, and none in a carriage return (Windows, old Macs)."""
    held = b""
    for block in blocks:
        if held or b"\r" in block:
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""  # a line feed may follow
            block = block.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield block
    if held:
        yield b"\n"


def _from_first_entry(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a file from its first ``>`` or ``@`` on."""
    start = b""
    for block in blocks:
        start = (start + block).removeprefix(_BYTE_ORDER_MARK).lstrip(_WHITE_SPACE)
        if len(start) >= SNIFFED_BYTES:
            break
    if not start:
        raise InputError(f"{path}: the file is empty. Give a FASTA file with at least one record.")
    if error := not_sequences(path, start):
        raise error
    yield start
    yield from blocks


def _fasta_entries(path: Path, blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Header line (without ``>``) and letters (without white space) of each entry."""
    header: bytes | None = None
    letters = io.BytesIO()  # grows in place; its content comes without a copy
    rest: bytes = b"\n"  # kept for the next block: a line feed that ``>`` may follow, or the beginning of a header
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
                    if len(rest) > _MAX_HEADER_BYTES:
                        raise _long_header(path, title)
                    break
            letters.write(_without_space(piece))
    if header is not None:
        yield header, letters.getvalue()
    if rest.startswith(b"\n>"):
        yield rest[2:], b""


def _without_space(text: bytes) -> bytes:
    text = text.replace(b"\n", b"")  # several times as fast as translate, which few files need after that
    if b" " in text or b"\t" in text or b"\v" in text or b"\f" in text:
        return text.translate(None, _WHITE_SPACE)
    return text


def _fastq_entries(path: Path, blocks: Iterable[bytes], number: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """Header line (without ``@``) and letters of each entry, the first of which has this number; blank lines at the end
    don't matter.

    Raises:
        InputError: an entry isn't four lines, or has another number of qualities than letters.
    """
    rest = b""
    for block in blocks:
        lines = (rest + block).split(b"\n")
        whole = (len(lines) - 1) // 4 * 4
        rest = b"\n".join(lines[whole:])
        for at in range(0, whole, 4):
            yield _fastq_entry(path, number, lines[at : at + 4])
            number += 1
    lines = rest.rstrip().split(b"\n")
    if len(lines) == 3 and not lines[1]:
        lines.append(b"")  # a read without bases, and so without qualities
    if lines != [b""]:
        yield _fastq_entry(path, number, lines)


def _fastq_entry(path: Path, number: int, lines: Sequence[bytes]) -> tuple[bytes, bytes]:
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


def _title(path: Path, number: int, header: bytes) -> str:
    if len(header) > _MAX_HEADER_BYTES:
        raise _long_header(path, header)
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


def _read_name(title: str) -> str:
    """A read's id: the first word, with ``/1`` or ``/2`` for the mates of an Illumina pair, which share it."""
    name, mate = title.split(None, 1)[0], _ILLUMINA_MATE.match(title)
    return f"{name}/{mate[1]}" if mate else name


def _long_header(path: Path, header: bytes) -> InputError:
    shown = header[:40].decode("utf-8", errors="replace")
    return InputError(
        f"{path}: a header is longer than {_MAX_HEADER_BYTES} bytes: {shown!r}. Put the sequence on a line of its own."
    )


def _wrong_letter(path: Path, identifier: str, sequence: bytes, fastq: bool) -> InputError:
    match = _OTHER_LETTER.search(sequence)
    assert match is not None
    letter, at = match.group().decode("latin1"), match.start()
    shown = repr(letter) if letter.isascii() else f"byte 0x{ord(letter):02X}"
    said = f"{path}: record '{identifier}' has {shown} at position {at + 1}, which isn't an IUPAC nucleotide."
    others = frozenset(sequence.translate(None, _NUCLEOTIDES))
    # N and X apart, DNA is nearly all of four letters; a protein has all that IUPAC's nucleotides share with it.
    dna = 10 * len(sequence.translate(None, b"ACGTUNXacgtunx")) <= len(sequence)
    if dna and others <= frozenset(b"Xx"):
        return InputError(f"{said} If X masks bases here, write N in its place.")
    if not dna and others <= _PROTEIN_LETTERS:
        return InputError(f"{said} It looks like a protein FASTA given as DNA. Give nucleotide sequences.")
    if fastq and letter in "-.":
        return InputError(f"{said} Write N in its place (old programs wrote a dot), in the lines of letters alone.")
    if letter in "-.":
        return InputError(f"{said} It looks like an alignment. Remove the gaps.")
    if sequence.startswith(_BYTE_ORDER_MARK, at):
        return InputError(f"{said} It's a byte order mark, as left where files were joined. Remove it.")
    if letter in ";#":
        return InputError(f"{said} If a comment begins there, remove it: every line below a header is sequence.")
    if letter in ">@":
        return InputError(
            f"{said} If another record begins there, start it on a line of its own, in the format of the first."
        )
    return InputError(f"{said} Correct the record or remove it.")
