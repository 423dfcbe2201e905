"""Cutting a file's text between its records, so that blocks of them can be read side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from virnucpro.sequences.read import Record, open_text, read_text


class TextBlock(NamedTuple):
    """Consecutive entries of a FASTA or FASTQ file, whole, as text whose lines end in a line feed."""

    path: Path
    fastq: bool
    first: int  # number of its first entry in the file, from 1
    text: bytes

    def records(self, keep_empty: bool) -> Iterator[Record]:
        """Its records; raises what ``read_fasta`` does, with the same words."""
        return read_text(self.path, self.fastq, [self.text], keep_empty, self.first)


def cut_file(
    path: str | Path, size: int, keep_empty: bool = False, warn: Callable[[str], object] = id, threads: int = 1
) -> Iterator[TextBlock | Record]:
    """Blocks of some ``size`` bytes in order; a FASTA record that is longer comes alone, read already.

    An error is that of ``read_fasta`` if it comes after those that blocks have, if any; ``threads`` read the file.
    """
    path = Path(path)
    fastq, blocks = open_text(path, warn=warn, threads=threads)
    return _cut_fastq(path, blocks, size) if fastq else _cut_fasta(path, blocks, size, keep_empty)


def _cut_fasta(path: Path, blocks: Iterator[bytes], size: int, keep_empty: bool) -> Iterator[TextBlock | Record]:
    number, held, held_size = 1, list[bytes](), 0
    following = b""  # a long record

    def of_record(begin: bytes) -> Iterator[bytes]:
        """The text of a record that begins so, to its end; sets ``following``."""
        nonlocal following
        following = b""
        yield begin
        ends_line = begin.endswith(b"\n")
        for block in filter(None, blocks):
            at = 0 if ends_line and block.startswith(b">") else block.find(b"\n>") + 1 or None
            if at is not None:
                yield block[:at]
                following = block[at:]
                return
            yield block
            ends_line = block.endswith(b"\n")

    try:
        for block in blocks:
            held.append(block)
            held_size += len(block)
            while held_size >= size:
                text = b"".join(held)
                if cut := text.rfind(b"\n>") + 1:
                    yield TextBlock(path, False, number, text[:cut])
                    number += 1 + text.count(b"\n>", 0, cut)
                    held = [text[cut:]]
                else:
                    held = []
                    yield from read_text(path, False, of_record(text), keep_empty, number)
                    number += 1
                    held = [following] if following else []
                held_size = sum(map(len, held))
    except Exception:
        if cut := (text := b"".join(held)).rfind(b"\n>") + 1:  # whole records come before the error
            yield TextBlock(path, False, number, text[:cut])
        raise
    if held_size:
        yield TextBlock(path, False, number, b"".join(held))


def _cut_fastq(path: Path, blocks: Iterator[bytes], size: int) -> Iterator[TextBlock]:
    number, held, held_size, wanted = 1, list[bytes](), 0, size

    def cut() -> Iterator[TextBlock]:
        """The entries of which all four lines are held."""
        nonlocal number, held, held_size, wanted
        text = b"".join(held)
        entries, lines_left = divmod(text.count(b"\n"), 4)
        end = len(text)
        for _ in range(lines_left + 1):
            end = text.rfind(b"\n", 0, end)
        held, held_size, wanted = [text], len(text), 2 * len(text)
        if entries:
            yield TextBlock(path, True, number, text[: end + 1])
            number += entries
            held, held_size, wanted = [text[end + 1 :]], len(text) - end - 1, size

    try:
        for block in blocks:
            held.append(block)
            held_size += len(block)
            if held_size >= wanted:
                yield from cut()
    except Exception:
        yield from cut()
        raise
    if held_size:
        yield TextBlock(path, True, number, b"".join(held))
