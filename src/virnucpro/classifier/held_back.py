"""What a trained network makes of a part that it wasn't trained on: the scores of its chunks, as a prediction gives them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virnucpro.classifier.calibrating import Development
from virnucpro.classifier.dataset import Dataset, Record, record_of
from virnucpro.classifier.evidence import chunk_odds
from virnucpro.classifier.scoring import Scorer
from virnucpro.classifier.weighted import group_weights
from virnucpro.embeddings.store import ROWS_PER_CHUNK
from virnucpro.errors import StorageError
from virnucpro.sequences.chunks import chunk_table
from virnucpro.sequences.shards import PARTIAL


@dataclass(frozen=True)
class ScoredPart:
    """The m scored chunks of a part's n contigs.

    Attributes:
        contigs: n records, all with at least one chunk.
        viral, category: (n,) bool and str, of the contigs.
        contig: (m,) int64, each chunk's contig.
        partial: (m,) bool, whether a partial frame was scored.
        share: (m,) float64, that frame's bases over the chunk's; 1 for other chunks.
        start: (m,) int64, of the chunk in its contig, 0-based.
        others, virus: (m,) float32, the largest scores of a chunk's frames.
        distance: (m,) float32, the least distance of a chunk's frames from the training data; NaN without a reference.
    """

    contigs: Sequence[Record]
    viral: np.ndarray
    category: np.ndarray
    contig: np.ndarray
    partial: np.ndarray
    share: np.ndarray
    start: np.ndarray
    others: np.ndarray
    virus: np.ndarray
    distance: np.ndarray

    @property
    def genome(self) -> np.ndarray:
        """(n,) str: what each contig belongs to."""
        return np.array([contig.genome for contig in self.contigs], str)

    @property
    def distances(self) -> np.ndarray:
        """(n,) float64: of the contigs, the mean over their chunks."""
        chunks = np.bincount(self.contig, minlength=len(self.contigs))
        total: np.ndarray = np.bincount(self.contig, self.distance, len(self.contigs))
        return total / chunks

    @property
    def weights(self) -> np.ndarray:
        """(n,) float64, of the contigs; see ``weighted.group_weights``."""
        return group_weights(self.viral, self.genome, self.category)

    def development(self) -> Development:
        """The same as data to calibrate with; InputError if they don't do for it."""
        return Development(
            z=chunk_odds(self.others, self.virus),
            partial=self.partial,
            share=self.share,
            contig=self.contig,
            start=self.start,
            viral=self.viral,
            group=self.genome,
            category=self.category,
            length=np.array([contig.length for contig in self.contigs], np.int64),
        )


def score_part(data: Dataset, part: str, scorer: Scorer) -> ScoredPart:
    """Score a part's frames, ``ROWS_PER_CHUNK`` at a time; memory holds a few numbers per chunk.

    Raises:
        StorageError: a frame is of a chunk that its record doesn't have.
    """
    contigs = [record for record in data.records if data.parts[record.genome] == part]
    places = {(record.sample, record.record): place for place, record in enumerate(contigs)}
    chunks = chunk_table(np.array([record.length for record in contigs], np.int64), data.provenance["chunk_length"])
    ends = np.searchsorted(chunks.record, np.arange(len(contigs)), side="right")
    contig, share, first, partial = array("q"), array("d"), array("q"), bytearray()
    others, virus, distance = array("f"), array("f"), array("f")
    for index, file in enumerate(data.files):
        sample, last, is_partial = data.sample_of(index), (-1, -1), file.kind == PARTIAL
        for window in file.windows(ROWS_PER_CHUNK):
            wanted = data.rows_of(part, index, window)
            if not wanted.any():
                continue
            found = scorer(file.features(window)[wanted])
            away = np.full(len(found.scores), np.nan) if found.distances is None else found.distances
            ids = (frame for frame, inside in zip(file.ids(window), wanted, strict=True) if inside)
            for frame, (other_score, virus_score), far in zip(ids, found.scores.tolist(), away.tolist(), strict=True):
                record, number, span = record_of(frame, file.kind)
                place = places[sample.name, record]
                row = _row(number, place, ends)
                if row < 0:
                    raise StorageError(
                        f"{file.path}: the sequences have no chunk for {frame}. Delete it and run again."
                    )
                if (place, row) == last:
                    others[-1] = max(others[-1], other_score)
                    virus[-1] = max(virus[-1], virus_score)
                    distance[-1] = min(distance[-1], far)
                    continue
                last = place, row
                contig.append(place)
                first.append(int(chunks.start[row]))
                partial.append(is_partial)
                share.append(_bases(span) / int(chunks.length[row]) if is_partial else 1.0)
                others.append(other_score)
                virus.append(virus_score)
                distance.append(far)
    samples = {sample.name: sample for sample in data.samples}
    return ScoredPart(
        contigs=contigs,
        viral=np.array([samples[record.sample].viral for record in contigs], bool),
        category=np.array([samples[record.sample].category for record in contigs], str),
        contig=np.array(contig, np.int64),
        partial=np.frombuffer(bytes(partial), np.bool_),
        share=np.array(share, np.float64),
        start=np.array(first, np.int64),
        others=np.array(others, np.float32),
        virus=np.array(virus, np.float32),
        distance=np.array(distance, np.float32),
    )


def _row(number: str, place: int, ends: np.ndarray) -> int:
    """The row of a contig's chunk in the table of all, given the text of its number; −1 if there is none."""
    first = int(ends[place - 1]) if place else 0
    row = first + int(number) - 1 if number.isascii() and number.isdigit() else -1
    return row if first <= row < ends[place] else -1


def _bases(span: str) -> int:
    """How many bases FIRST-LAST is."""
    first, _, last = span.partition("-")
    return int(last) - int(first) + 1
