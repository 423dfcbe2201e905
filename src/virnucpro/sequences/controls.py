"""Controls of a sample: some of its contigs, shuffled. They have its composition and lengths, and no gene."""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from virnucpro.errors import InputError
from virnucpro.io import atomic_file
from virnucpro.rendering import how_many
from virnucpro.sequences.read import Record, read_fasta
from virnucpro.sequences.shuffle import codon_shuffle, dinucleotide_shuffle

logger = logging.getLogger(__name__)

CODON, DINUCLEOTIDE = "codon", "dinucleotide"
SHUFFLES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    CODON: codon_shuffle,
    DINUCLEOTIDE: dinucleotide_shuffle,
}
"""Kind → how its sequences are made; a control's id is ``KIND|ID_OF_THE_CONTIG``."""
FEWEST_CHUNKS = 2
"""Controls are contigs of at least so many chunks, if there are enough: a call rests on few chunks of others."""
_NAMED = 3  # ids that an error names
_NO_RECORD = b">no_contig_of_the_sample\n"  # `split` skips it as those of the sample; an empty file it would refuse


def make_controls(
    sample: str, fastas: Sequence[Path], output: Path, count: int, chunk_length: int, control_fasta: Path | None = None
) -> int:
    """Write ``count`` contigs of a sample, each shuffled in every way of ``SHUFFLES``, as FASTA.

    They are chosen at random among those of ``FEWEST_CHUNKS`` chunks if there are enough, else among all. Chance follows from ids
    and sequences alone: equal input gives equal controls, whatever its order.

    Args:
        sample: its name, for messages.
        fastas: its files, read twice.
        output: the file to make; empty with a ``count`` of 0, a record without sequence where no contig has one, or the sample
            can't be read: `split` says so, and controls are no reason to stop all other samples.
        count: contigs to choose; all, with a warning, if the sample has no more.
        chunk_length: bases per chunk.
        control_fasta: the user's own controls, which mustn't have an id of the sample's; None if there are none.

    Returns:
        The number of contigs chosen.

    Raises:
        InputError: a ``control_fasta`` that can't be read, or ids that it shares with the sample.
    """
    given = {record.id for record in read_fasta(control_fasta, keep_empty=True)} if control_fasta else set()
    shared: list[str] = []
    long, every = _Lowest(count), _Lowest(count)
    try:
        for number, record in enumerate(_records(fastas)):
            if record.id in given:
                shared.append(record.id)
            digest = _digest(record)
            every.add(digest, number)
            if len(record.sequence) > (FEWEST_CHUNKS - 1) * chunk_length:
                long.add(digest, number)
    except InputError as error:
        logger.warning("sample %s has no controls, as it can't be read: %s", sample, error)
        with atomic_file(output) as temporary:
            temporary.write_bytes(_NO_RECORD)
        return 0
    if shared:
        raise _shared(shared, sample, control_fasta)
    chosen = long.numbers if len(long.numbers) == count else every.numbers
    with atomic_file(output) as temporary, open(temporary, "wb") as file:
        for number, record in enumerate(_records(fastas) if count else ()):
            for kind, shuffle in SHUFFLES.items() if number in chosen else ():
                shuffled = shuffle(record.sequence, np.random.default_rng(list(kind.encode() + _digest(record))))
                file.write(b">%b|%b\n%b\n" % (kind.encode(), record.id.encode(), shuffled))
        if count and not chosen:
            file.write(_NO_RECORD)
    contigs = how_many(len(chosen), "contig")
    if len(chosen) < count:
        logger.warning("sample %s has %s: as many controls of each kind, not %d", sample, contigs, count)
    logger.info("shuffled %s", contigs)
    return len(chosen)


class _Lowest:
    """The numbers of the records with the lowest digests, which is a random choice of ``count`` of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[int, int]] = []  # the highest digest first

    def add(self, digest: bytes, number: int) -> None:
        entry = (-int.from_bytes(digest, "big"), number)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif self._heap:
            heapq.heappushpop(self._heap, entry)

    @property
    def numbers(self) -> set[int]:
        return {number for _, number in self._heap}


def _records(fastas: Sequence[Path]) -> Iterator[Record]:
    """Those with a sequence; `split` refuses the others, or counts them."""
    return (record for path in fastas for record in read_fasta(path, keep_empty=True) if record.sequence)


def _digest(record: Record) -> bytes:
    return hashlib.blake2b(record.id.encode() + b"\0" + record.sequence.upper(), digest_size=16).digest()


def _shared(ids: Sequence[str], sample: str, control_fasta: Path | None) -> InputError:
    named = ", ".join(f"'{each}'" for each in ids[:_NAMED]) + (
        f" and {len(ids) - _NAMED:,} more" if ids[_NAMED:] else ""
    )
    return InputError(
        f"control_fasta: {control_fasta} and sample {sample} share the ids {named}. Controls are sequences from elsewhere that are "
        "known not to be viral: name another file, or rename its records if they only happen to be called the same."
    )
