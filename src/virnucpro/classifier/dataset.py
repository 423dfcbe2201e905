"""Labelled frames for training: which genome each belongs to, which part that falls in, and streaming batches."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from virnucpro.embeddings.store import ROWS_PER_CHUNK, MergedEmbeddings
from virnucpro.errors import InputError, ModelError

PARTS = ("train", "validation", "test")
POOL_BYTES = 256 << 20  # of features in memory at a time, whatever the data's size


@dataclass(frozen=True)
class Sample:
    """The frames of one labelled FASTA file."""

    name: str
    embeddings: Path
    viral: bool
    group: str | None = None  # the genome that all its records belong to
    category: str = ""

    @property
    def stratum(self) -> tuple[bool, str]:
        return self.viral, self.category


class Batch(NamedTuple):
    """Some frames."""

    features: np.ndarray  # (n, width) float32
    viral: np.ndarray  # (n,) bool
    stratum: np.ndarray  # (n,) int64, an index into ``Dataset.strata``

    def rows(self, which: np.ndarray) -> Batch:
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
    """Frames of several samples. Holds one byte per frame, the names of the genomes, and no features.

    ``groups`` is record → genome, where a sample's own ``group`` isn't given; else a record is a genome. For
    validation, test and seed see ``split_genomes``.

    Raises:
        InputError: a class is missing from the training or the validation part.
        ModelError: samples were embedded by different encoders, or in chunks of different lengths.
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
        self.strata = sorted({sample.stratum for sample in samples})
        self._files = files = [MergedEmbeddings(sample.embeddings) for sample in samples]
        self.provenance = files[0].provenance
        self.dna_width, self.protein_width = files[0].dna_width, files[0].protein_width
        for file in files[1:]:
            for key in ("dna_encoder", "protein_encoder", "chunk_length"):
                if file.provenance[key] != self.provenance[key]:
                    raise ModelError(f"{file.path}: has another {key} than {files[0].path}. Embed all samples alike.")
        digest = hashlib.sha256()  # of labels, frame ids and the content names of the shards
        rows = [_index(sample, file, groups or {}, digest) for sample, file in zip(samples, files, strict=True)]
        self.digest = digest.hexdigest()
        self.rows = [row for each in rows for row in each]
        genomes: dict[str, tuple[bool, str]] = {}
        for sample, each in zip(samples, rows, strict=True):
            for row in each:  # a genome in several samples has one part: that of the stratum it is first met in
                genomes.setdefault(row["genome"], sample.stratum)
        self.parts = split_genomes(genomes, validation, test, seed)
        self._part: list[np.ndarray] = []  # of each sample's frames: (frames,) uint8, places in PARTS
        self.counts = {part: [0] * len(self.strata) for part in PARTS}
        for sample, each in zip(samples, rows, strict=True):
            parts = np.array([PARTS.index(self.parts[row["genome"]]) for row in each], np.uint8)
            self._part.append(np.repeat(parts, np.array([row["frames"] for row in each], np.int64)))
            for row in each:
                self.counts[self.parts[row["genome"]]][self.strata.index(sample.stratum)] += row["frames"]
        for part, viral in itertools.product(("train", "validation") if validation else ("train",), (True, False)):
            if not self.frames(part, viral):
                raise InputError(
                    f"No {'viral' if viral else 'non-viral'} genome with an open frame falls in the {part} part. "
                    "Add genomes of that class, or change the shares."
                )

    @property
    def width(self) -> int:
        """Columns of the features."""
        return self.dna_width + self.protein_width

    def frames(self, part: str, viral: bool | None = None) -> int:
        """Frames in a part, of one class or of both."""
        counted = zip(self.strata, self.counts[part], strict=True)
        return sum(count for stratum, count in counted if viral is None or stratum[0] == viral)

    def blocks(self, part: str, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """Every frame of a part once, a file's block at a time; blocks in random order if ``order`` is given."""
        number = PARTS.index(part)
        starts = [(i, at) for i, mask in enumerate(self._part) for at in range(0, len(mask), ROWS_PER_CHUNK)]
        if order is not None:
            order.shuffle(starts)
        for index, start in starts:
            wanted = self._part[index][start : start + ROWS_PER_CHUNK] == number
            if not wanted.any():
                continue
            sample = self.samples[index]
            features = self._files[index].features(slice(start, start + len(wanted)))[wanted]
            stratum = self.strata.index(sample.stratum)
            yield Batch(features, np.full(len(features), sample.viral), np.full(len(features), stratum))

    def shuffled(
        self, part: str, size: int, order: np.random.Generator, keep: Sequence[float] | None = None
    ) -> Iterator[Batch]:
        """Batches in random order: random blocks fill a pool of ``POOL_BYTES``, which is shuffled and dealt out.

        A batch has ``size`` rows; what is left at the end is dealt too, if more than one row (BatchNorm needs two).
        ``keep`` is the probability to keep a row, by stratum; rows are drawn anew each time.
        """
        pool_rows = max(size, POOL_BYTES // (4 * self.width))
        pool: list[Batch] = []
        held = 0
        for block in self.blocks(part, order):
            if keep is not None:
                block = block.rows(order.random(len(block.viral)) < np.asarray(keep)[block.stratum])
            pool.append(block)
            held += len(block.viral)
            if held >= pool_rows:
                pool = yield from _deal(pool, held, size, order)
                held = len(pool[0].viral)
        if held:
            (rest,) = yield from _deal(pool, held, size, order)
            if len(rest.viral) > 1:
                yield rest


def _index(sample: Sample, file: MergedEmbeddings, groups: Mapping[str, str], digest: Any) -> list[dict[str, Any]]:
    """A sample's records, in order: sample, record, genome, number of frames. What training depends on is digested."""
    shards = sorted({shard["shard"] for shard in file.provenance.get("shards", [])})
    digest.update(json.dumps([*sample.stratum, shards]).encode())
    rows: list[dict[str, Any]] = []
    with h5py.File(file.path, "r") as handle:
        for window in file.windows():
            for frame in handle["ids"].asstr()[window]:
                digest.update(f"{frame}\n".encode())
                record = frame[:-2].rpartition("_chunk_")[0]
                if not rows or rows[-1]["record"] != record:
                    genome = sample.group or groups.get(record, record)
                    rows.append({"sample": sample.name, "record": record, "genome": genome, "frames": 0})
                rows[-1]["frames"] += 1
    return rows


def _deal(pool: list[Batch], held: int, size: int, order: np.random.Generator) -> Generator[Batch, None, list[Batch]]:
    """Empty the pool in random order, batch by batch; the rows that fill no batch are returned."""
    whole = Batch(*(np.concatenate(column) for column in zip(*pool, strict=True)))
    pool.clear()  # rows are picked from the joined copy, so that no more than two copies ever exist
    shuffle = order.permutation(held)
    full = held - held % size
    for at in range(0, full, size):
        yield whole.rows(shuffle[at : at + size])
    return [whole.rows(shuffle[full:])]
