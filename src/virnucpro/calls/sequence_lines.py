"""A record of FASTA, written as in all files of this program."""

from __future__ import annotations

from virnucpro.calls.gzip_blocks import GzipWriter

_LINE_LENGTH = 80
_LINES_AT_ONCE = 4096  # that are joined together


def write_sequence(file: GzipWriter, header: str, sequence: bytes) -> None:
    """Write a record: its header, without ``>``, and its letters, 80 to a line."""
    file.write(f">{header}\n".encode())
    for first in range(0, len(sequence), _LINES_AT_ONCE * _LINE_LENGTH):
        block = sequence[first : first + _LINES_AT_ONCE * _LINE_LENGTH]
        file.write(b"\n".join(block[at : at + _LINE_LENGTH] for at in range(0, len(block), _LINE_LENGTH)) + b"\n")
