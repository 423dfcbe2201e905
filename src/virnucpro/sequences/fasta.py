"""FASTA reading: plain or gzip, streamed in large blocks, with errors that name the record and the remedy."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from virnucpro.errors import InputError

BLOCK = 1 << 20

_IUPAC = b"ACGTUNRYSWKMBDHV"
_ALLOWED = _IUPAC + _IUPAC.lower()
_SPACE = b"\r\n \t\v\f"
_OFFENDING = re.compile(b"[^" + _ALLOWED + b"]")
_PROTEIN = frozenset(b"EFILPQZXJO*efilpqzxjo")
_LONGEST_HEADER = 1 << 20
_OTHER_COMPRESSION = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}


class Record(NamedTuple):
    """One FASTA entry."""

    id: str  # first word of the header
    sequence: bytes  # IUPAC nucleotide letters, in the case of the file
    file: Path
    header: str = ""  # the whole line, without ``>``


def read_fasta(path: str | Path, keep_empty: bool = False) -> Iterator[Record]:
    """Records of a FASTA file, in order; memory is a few blocks plus the longest record.

    The file is plain or gzip (told by content, not by name); line ends, blank lines and case don't matter.
    Records without a sequence are an error unless ``keep_empty``.

    Raises:
        InputError: the file can't be read, isn't FASTA, holds no record, a header without a name, a letter
            that isn't a IUPAC nucleotide, or an empty record.
    """
    path = Path(path)
    for number, (header, sequence) in enumerate(_entries(path), start=1):
        title = _title(path, number, header)
        identifier = title.split(None, 1)[0]
        if not sequence and not keep_empty:
            raise InputError(f"{path}: record '{identifier}' has no sequence. Remove it, or set empty_records to skip.")
        if sequence.translate(None, _ALLOWED):
            raise _wrong_letter(path, identifier, sequence)
        yield Record(identifier, sequence, path, title)


def _entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Header line (without ``>``) and letters (without white space) of each entry."""
    header: bytes | None = None
    letters = io.BytesIO()  # grows in place, and gives its content without a copy
    rest: bytes = b"\n"  # what can't be judged yet: a line's end, or a header whose end is in the next block
    for block in _blocks(path):
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
    return text.translate(None, _SPACE) if any(space in text for space in (b"\r", b" ", b"\t", b"\v", b"\f")) else text


def _not_fasta(path: Path, block: bytes) -> InputError:
    for magic, name in _OTHER_COMPRESSION.items():
        if block.startswith(magic):
            return InputError(f"{path}: compressed with {name}. Decompress it, or compress it with gzip.")
    if block.startswith(b"@"):
        return InputError(f"{path}: looks like FASTQ (starts with '@'). Convert it to FASTA, e.g. with seqtk seq -a.")
    line = block.split(b"\n", 1)[0][:40].decode("utf-8", errors="replace").rstrip()
    return InputError(f"{path}: not FASTA: text before the first '>': {line!r}. Give a file that starts with '>'.")


def _blocks(path: Path) -> Iterator[bytes]:
    """The content of a file from its first ``>`` on, in blocks, decompressed if it is gzip."""
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a FASTA file. Give the files in it.")
    begun = False
    try:
        with open(path, "rb") as plain:
            compressed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            file: BinaryIO = gzip.GzipFile(fileobj=plain) if compressed else plain  # type: ignore[assignment]
            while block := file.read(BLOCK):
                if not begun:
                    block = block.removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
                    if block and not block.startswith(b">"):
                        raise _not_fasta(path, block)
                    begun = bool(block)
                yield block
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Check the path in the sample table or on the command line.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: truncated or corrupt gzip ({error}). Copy or download it again.") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}. Check its permissions.") from error
    if not begun:
        raise InputError(f"{path}: the file is empty. Give a FASTA file with at least one record.")


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
        raise InputError(f"{path}: record {number} has a header without a name. Write one after its '>'.")
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
