"""Labelled frames for training: which genome each belongs to, which part that falls in, and batches of them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from virnucpro.embeddings.store import ROWS_PER_CHUNK, MergedEmbeddings
from virnucpro.errors import InputError, ModelError, StorageError
from virnucpro.sequences.shards import FRAMES, KINDS, PARTIAL

PARTS = ("train", "validation", "test")
POOL_BYTES = 512 << 20
"""Of features in memory at a time, whatever the data's size: 400,000 frames of 320 columns."""


@dataclass(frozen=True)
class Sample:
    """The frames of one labelled FASTA file."""

    name: str
    embeddings: Path
    viral: bool
    lengths: Mapping[str, int]  # bases of each of its records, in order
    group: str | None = None  # the genome that all its records belong to
    category: str = ""

    @property
    def stratum(self) -> tuple[bool, str]:
        return self.viral, self.category


class Record(NamedTuple):
    """A record that has frames."""

    sample: str
    record: str
    genome: str
    length: int  # bases
    frames: int  # stop-free ones
    partial: int  # frames of chunks without such


class Unit(NamedTuple):
    """A genome's frames of one class and category."""

    viral: bool
    category: str
    genome: str


class Batch(NamedTuple):
    """Some frames."""

    features: np.ndarray  # (n, width) float32
    viral: np.ndarray  # (n,) bool
    unit: np.ndarray  # (n,) int32, an index into ``Dataset.units``

    def rows(self, which: np.ndarray | slice) -> Batch:
        return Batch(*(column[which] for column in self))


def split_genomes(genomes: Mapping[str, tuple[bool, str]], validation: float, test: float, seed: int) -> dict[str, str]:
    """Assign every genome to a part, within each stratum (viral, category) on its own.

    The order within a stratum is a hash of seed and name, so it depends neither on the order of the files nor
    on what other strata hold. Every stratum has a genome to train on; one of three genomes or more has at least
    one in each part that is wanted. ``validation`` and ``test`` are shares of each stratum.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise InputError(f"Shares of validation ({validation}) and test ({test}) must leave something to train on.")
    strata: dict[tuple[bool, str], list[str]] = {}
    for genome, stratum in genomes.items():
        strata.setdefault(stratum, []).append(genome)
    parts = {}
    for members in strata.values():
        members.sort(key=lambda genome: hashlib.sha256(f"{seed}\t{genome}".encode()).digest())
        count, several = len(members), len(members) >= 3
        first = max(round(count * validation), several and validation > 0)
        first = min(first, count - 1 - (several and test > 0))
        second = min(max(round(count * test), several and test > 0), count - 1 - first)
        for rank, genome in enumerate(members):
            parts[genome] = "validation" if rank < first else "test" if rank < first + second else "train"
    return parts


class Dataset:
    """Frames of several samples, partial ones included where they were embedded. Holds four bytes per frame, a row per
    record, and of the features ``POOL_BYTES``.

    ``groups`` is record → genome, where a sample's own ``group`` isn't given; else a record is a genome. For
    validation, test and seed see ``split_genomes``.

    Attributes:
        records: those with frames.
        units: all genomes by class and category.
        parts: genome → its part.
        counts: part → kind → (units,) int64 frames.
        digest: of all that training depends on.

    Raises:
        InputError: a class is missing from the training or the validation part.
        ModelError: samples were embedded by different encoders, or in chunks of different lengths.
        StorageError: a file can't be read, or holds frames that its sample doesn't have.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        groups: Mapping[str, str] | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
    ):
        if not samples:
            raise InputError("There is nothing to train on: the table names no samples.")
        if len({sample.name for sample in samples}) < len(samples):
            raise InputError("Two samples of the training table have the same name.")
        self.samples = list(samples)
        self.files = [MergedEmbeddings(sample.embeddings, kind) for sample in samples for kind in KINDS]
        first = self.files[0]
        self.provenance = first.provenance
        self.dna_width, self.protein_width = first.dna_width, first.protein_width
        for file in self.files[1:]:
            for key in ("dna_encoder", "protein_encoder", "chunk_length"):
                if file.provenance[key] != self.provenance[key]:
                    raise ModelError(f"{file.path}: has another {key} than {first.path}. Embed all samples alike.")
        self.records: list[Record] = []
        self.row_units: list[np.ndarray] = []  # of each file's rows: (rows,) int32, places in ``units``
        numbers: dict[Unit, int] = {}
        digest = hashlib.sha256()  # of labels, frame ids and the content names of the shards
        for place, sample in enumerate(samples):
            self._add(sample, self.files[len(KINDS) * place :][: len(KINDS)], groups or {}, numbers, digest)
        self.digest = digest.hexdigest()
        self.units = list(numbers)
        genomes: dict[str, tuple[bool, str]] = {}
        for unit in self.units:  # a genome in several samples has one part: that of the stratum it is first met in
            genomes.setdefault(unit.genome, unit[:2])
        self.parts = split_genomes(genomes, validation, test, seed)
        self.viral = np.array([unit.viral for unit in self.units])  # (units,) bool
        self.unit_parts = np.array([PARTS.index(self.parts[unit.genome]) for unit in self.units])
        self.counts = {part: {kind: self._counted(part, kind) for kind in KINDS} for part in PARTS}
        self._held: dict[str, Batch] = {}
        for part, viral in itertools.product(("train", "validation") if validation else ("train",), (True, False)):
            if not self.frames(part, viral):
                raise InputError(
                    f"No {'viral' if viral else 'non-viral'} genome with a frame to score falls in the {part} part. "
                    "Add genomes of that class, or change the shares."
                )

    def _add(
        self,
        sample: Sample,
        files: Sequence[MergedEmbeddings],
        groups: Mapping[str, str],
        numbers: dict[Unit, int],
        digest: Any,
    ) -> None:
        """Add a sample's records, rows and, to ``numbers``, units; what training depends on is digested."""
        shards = sorted({shard["shard"] for shard in files[0].provenance.get("shards", [])})
        digest.update(json.dumps([*sample.stratum, shards]).encode())
        counts = {file.kind: _frames_by_record(file, sample, digest) for file in files}
        units: dict[str, int] = {}
        for record, length in sample.lengths.items():
            frames, partial = (counts[kind].get(record, 0) for kind in (FRAMES, PARTIAL))
            if frames or partial:
                genome = sample.group or groups.get(record, record)
                self.records.append(Record(sample.name, record, genome, length, frames, partial))
                units[record] = numbers.setdefault(Unit(*sample.stratum, genome), len(numbers))
        for file in files:
            found = counts[file.kind]
            of_rows = np.array([units[record] for record in found], np.int32)
            self.row_units.append(np.repeat(of_rows, np.array(list(found.values()), np.int64)))

    def _counted(self, part: str, kind: str) -> np.ndarray:
        inside = self.unit_parts == PARTS.index(part)
        counts = np.zeros(len(self.units), np.int64)
        for file, units in zip(self.files, self.row_units, strict=True):
            if file.kind == kind:
                counts += np.bincount(units, minlength=len(counts))
        return np.where(inside, counts, 0)

    @property
    def width(self) -> int:
        """Columns of the features."""
        return self.dna_width + self.protein_width

    def by_unit(self, part: str) -> np.ndarray:
        """(units,) int64: frames of both kinds in a part."""
        return sum((self.counts[part][kind] for kind in KINDS), np.zeros(len(self.units), np.int64))

    def frames(self, part: str, viral: bool | None = None, kind: str | None = None) -> int:
        """Frames in a part, of one class or of both, of one kind or of both."""
        counts = self.by_unit(part) if kind is None else self.counts[part][kind]
        return int(counts.sum() if viral is None else counts[self.viral == viral].sum())

    def blocks(self, part: str, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """Every frame of a part once, a file's block at a time; blocks in random order if ``order`` is given.

        A part that fits is kept in memory: read once, whatever the number of epochs.
        """
        whole = self._whole(part)
        if whole is None:
            yield from self._read(part, order)
            return
        starts = list(range(0, len(whole.viral), ROWS_PER_CHUNK))
        if order is not None:
            order.shuffle(starts)
        for start in starts:
            yield whole.rows(slice(start, start + ROWS_PER_CHUNK))

    def sample_of(self, file: int) -> Sample:
        """Whose frames ``files[file]`` holds."""
        return self.samples[file // len(KINDS)]

    def rows_of(self, part: str, file: int, window: slice) -> np.ndarray:
        """(n,) bool: which rows of a window of ``files[file]`` belong to a part."""
        inside: np.ndarray = self.unit_parts[self.row_units[file][window]] == PARTS.index(part)
        return inside

    def _read(self, part: str, order: np.random.Generator | None = None) -> Iterator[Batch]:
        starts = [(i, at) for i, file in enumerate(self.files) for at in range(0, file.count, ROWS_PER_CHUNK)]
        if order is not None:
            order.shuffle(starts)
        for index, start in starts:
            window = slice(start, start + ROWS_PER_CHUNK)
            wanted = self.rows_of(part, index, window)
            if wanted.any():
                unit = self.row_units[index][window][wanted]
                yield Batch(self.files[index].features(window)[wanted], self.viral[unit], unit)

    def _whole(self, part: str) -> Batch | None:
        """All frames of a part, in the files' order; None if they don't fit beside those that are held already."""
        if part not in self._held:
            rows = self.frames(part)
            if 4 * self.width * (rows + sum(len(held.viral) for held in self._held.values())) > POOL_BYTES:
                return None
            whole = Batch(np.empty((rows, self.width), np.float32), np.empty(rows, bool), np.empty(rows, np.int32))
            at = 0
            for block in self._read(part):
                here = slice(at, at := at + len(block.viral))
                for column, values in zip(whole, block, strict=True):
                    column[here] = values
            self._held[part] = whole
        return self._held[part]

    def shuffled(
        self, part: str, size: int, order: np.random.Generator, keep: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Batches in random order. Of a part that isn't held in memory, random blocks fill a pool of ``POOL_BYTES``, which is
        shuffled and dealt out.

        A batch has ``size`` rows; what is left at the end is dealt too, if more than one row (BatchNorm needs two).
        ``keep`` (units,) is the probability to keep a row, by unit; rows are drawn anew each time.
        """
        whole = self._whole(part)
        if whole is not None:
            drawn = np.arange(len(whole.viral))
            if keep is not None:
                drawn = np.flatnonzero(order.random(len(drawn)) < keep[whole.unit])
            order.shuffle(drawn)
            for at in range(0, len(drawn), size):
                if len(which := drawn[at : at + size]) > 1:
                    yield whole.rows(which)
            return
        pool_rows = max(size, POOL_BYTES // (4 * self.width))
        pool: list[Batch] = []
        held = 0
        for block in self._read(part, order):
            if keep is not None:
                block = block.rows(order.random(len(block.viral)) < keep[block.unit])
            pool.append(block)
            held += len(block.viral)
            if held >= pool_rows:
                pool = yield from _deal(pool, held, size, order)
                held = len(pool[0].viral)
        if held:
            (rest,) = yield from _deal(pool, held, size, order)
            if len(rest.viral) > 1:
                yield rest


def record_of(frame: str, kind: str) -> tuple[str, str, str]:
    """The record of a frame's id, the chunk's number in it, and what follows: the bases of a partial frame."""
    name, span = frame, ""
    if kind == PARTIAL:
        name, _, span = frame.rpartition(":")
    record, _, number = name[:-2].rpartition("_chunk_")
    return record, number, span


def _frames_by_record(file: MergedEmbeddings, sample: Sample, digest: Any) -> dict[str, int]:
    """Number of rows of each record, in the order of the rows."""
    counts: dict[str, int] = {}
    last = None
    for window in file.windows():
        for frame in file.ids(window):
            digest.update(f"{frame}\n".encode())
            record, _, _ = record_of(frame, file.kind)
            if record != last and (record in counts or record not in sample.lengths):
                raise StorageError(
                    f"{file.path}: frame {frame} isn't where sample {sample.name} has it. Delete the file and run again."
                )
            counts[record] = counts.get(record, 0) + 1
            last = record
    return counts


def _deal(pool: list[Batch], held: int, size: int, order: np.random.Generator) -> Generator[Batch, None, list[Batch]]:
    """Empty the pool in random order, batch by batch; the rows that fill no batch are returned."""
    whole = Batch(*(np.concatenate(column) for column in zip(*pool, strict=True)))
    pool.clear()  # rows are picked from the joined copy, so that no more than two copies ever exist
    shuffle = order.permutation(held)
    full = held - held % size
    for at in range(0, full, size):
        yield whole.rows(shuffle[at : at + size])
    return [whole.rows(shuffle[full:])]
