"""From blocks of records to the frames of their chunks, as text: the part of splitting that processes do side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from virnucpro.sequences.blocks import TextBlock
from virnucpro.sequences.chunks import chunk_id, chunk_table
from virnucpro.sequences.frames import FRAME_NAMES, Frames, Workspace, part_frames, stop_free_frames
from virnucpro.sequences.read import Record
from virnucpro.sequences.records import RecordsFound
from virnucpro.sequences.shards import ChunkTexts, text_hash

_FRAME_SUFFIXES = [name.encode() for name in FRAME_NAMES]


class RecordPart(NamedTuple):
    """Consecutive chunks of a long record."""

    id: str
    first_chunk: int  # in the record, from 0
    start: np.ndarray  # (n,) int64, of the chunks in ``letters``
    length: np.ndarray  # (n,) int64
    letters: bytes
    found: RecordsFound  # with the record in its first part, else with none


class BlockFrames(NamedTuple):
    """What a block gives."""

    found: RecordsFound
    chunks: int  # of which there must be as many as the lengths of the records say
    frames: list[ChunkTexts]
    partial: list[ChunkTexts]  # of chunks without a stop-free frame, see ``stretches``


class BlockSplitter:
    """Makes frames; a callable that can be pickled.

    Args:
        chunk_length: bases in a chunk.
        keep_empty: count records without a sequence, which are an error otherwise.
        rna_as_dna: see ``records.SampleRecords``.
    """

    def __init__(self, chunk_length: int, keep_empty: bool, rna_as_dna: bool) -> None:
        self.options = chunk_length, keep_empty, rna_as_dna
        self._work = Workspace()

    def __reduce__(self) -> tuple[type[BlockSplitter], tuple[int, bool, bool]]:
        return BlockSplitter, self.options

    def tasks(self, blocks: Iterable[TextBlock | Record], size: int) -> Iterator[TextBlock | RecordPart]:
        """Blocks, with records that come alone cut between their chunks, about every ``size`` bases."""
        chunk_length, _, rna_as_dna = self.options
        for block in blocks:
            if isinstance(block, TextBlock):
                yield block
                continue
            found = RecordsFound(rna_as_dna)
            record = found.take(block)
            letters = record.sequence if record else b""
            found.describe([letters] if record else [])
            table, step = chunk_table(np.array([len(letters)]), chunk_length), max(1, size // chunk_length)
            for begin in range(0, max(1, len(table.start)), step):
                start, length = table.start[begin : begin + step], table.length[begin : begin + step]
                low, high = (int(start[0]), int(start[-1] + length[-1])) if len(start) else (0, 0)
                yield RecordPart(block.id, begin, start - low, length, letters[low:high], found)
                found = RecordsFound(rna_as_dna)

    def __call__(self, task: TextBlock | RecordPart) -> BlockFrames:
        """Frames of a task; raises InputError as ``read_fasta``."""
        chunk_length, keep_empty, rna_as_dna = self.options
        ids: Sequence[str]
        if isinstance(task, TextBlock):
            found = RecordsFound(rna_as_dna)
            ids = found.ids
            sequences = [record.sequence for record in filter(None, map(found.take, task.records(keep_empty)))]
            found.describe(sequences)
            batches = stop_free_frames(sequences, chunk_length, self._work)
        else:
            found, ids = task.found, [task.id]
            batches = part_frames(task.letters, task.start, task.length, task.first_chunk, self._work)
        chunks = 0
        frames, partial = list[ChunkTexts](), list[ChunkTexts]()
        for batch in batches:
            chunks += batch.chunks
            if batch.frames.proteins:
                suffixes = [_FRAME_SUFFIXES[frame] for frame in batch.frames.frame.tolist()]
                frames.append(_texts(batch.frames, suffixes, ids))
            if batch.partial.proteins:
                suffixes = _partial_suffixes(batch.partial, batch.partial_low)
                partial.append(_texts(batch.partial, suffixes, ids))
        return BlockFrames(found.joined(), chunks, frames, partial)


def _partial_suffixes(partial: Frames, low: np.ndarray) -> list[bytes]:
    """Frame, first and last base in the chunk: ``F2:26-403``."""
    rows = zip(partial.frame.tolist(), low.tolist(), map(len, partial.proteins), strict=True)
    return [b"%b:%d-%d" % (_FRAME_SUFFIXES[frame], first + 1, first + 3 * codons) for frame, first, codons in rows]


def _texts(frames: Frames, suffixes: Sequence[bytes], ids: Sequence[str]) -> ChunkTexts:
    """The texts of some frames, whose ids end so; ``ids`` are those of all their sequences."""
    changes = (np.diff(frames.record) != 0) | (np.diff(frames.chunk) != 0)
    begins = np.flatnonzero(np.append(True, changes))
    ends = np.append(begins, len(frames.frame))[1:]
    counts = np.empty((len(begins), 5), dtype=np.int64)
    counts[:, 0] = ends - begins
    for column, letters in enumerate((frames.nucleotides, frames.proteins), start=1):
        counts[:, column] = np.add.reduceat(np.fromiter(map(len, letters), np.int64, len(letters)), begins)
    rows = list(zip(suffixes, frames.nucleotides, frames.proteins, strict=True))
    dna, protein, hashes = [], [], []
    columns = (begins, ends, frames.record[begins], frames.chunk[begins])
    for begin, end, record, chunk in zip(*(column.tolist() for column in columns), strict=True):
        name = chunk_id(ids[record], chunk).encode()
        one = b"".join([b">%b%b\n%b\n" % (name, suffix, letters) for suffix, letters, _ in rows[begin:end]])
        other = b"".join([b">%b%b\n%b\n" % (name, suffix, letters) for suffix, _, letters in rows[begin:end]])
        dna.append(one)
        protein.append(other)
        hashes.append(text_hash(one, other))
    counts[:, 3] = np.fromiter(map(len, dna), np.int64, len(dna))
    counts[:, 4] = np.fromiter(map(len, protein), np.int64, len(protein))
    values = np.frombuffer(b"".join(hashes), dtype=">u8").astype(np.uint64)
    return ChunkTexts(b"".join(dna), b"".join(protein), counts, values)
