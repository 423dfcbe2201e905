"""The files of a sample's viral regions: a table, GFF3, BED and their sequences, contig by contig in one pass over chunks.tsv."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from virnucpro.calls.gzip_blocks import GzipWriter
from virnucpro.calls.regions import Chunks, Region, find_regions, is_circular, region_id
from virnucpro.calls.sequence_lines import write_sequence
from virnucpro.classifier.region_model import RegionModel
from virnucpro.errors import StorageError
from virnucpro.io import atomic_file
from virnucpro.result_tables import CHUNK_COLUMNS, DEFAULT, FITTED, PARTIAL, REGION_COLUMNS, UNSCORED
from virnucpro.sequences.read import Record

GFF_TYPE = "biological_region"
"""A term of the Sequence Ontology; those for viruses mean a whole genome."""
_GFF_SOURCE = "VirNucPro"
_SEQID = ".:^*$@!+_?-|"  # beside letters and digits, what a sequence id may hold in GFF3
_RESERVED = re.compile(r"[%;=&,\x00-\x1f\x7f]")  # in a GFF3 attribute
_MOST = 1000  # the largest score in BED

_START, _END, _KIND, _LOGIT = map(CHUNK_COLUMNS.index, ("start", "end", "kind", "logit"))


@dataclass(frozen=True)
class RegionPaths:
    """Where the files of one sample's regions go."""

    table: Path  # regions.tsv
    gff: Path  # regions.gff3
    bed: Path  # regions.bed
    sequences: Path  # viral_regions.fasta.gz


@dataclass
class RegionCounts:
    """What was written."""

    model: str  # fitted or default
    regions: int = 0
    records: int = 0  # contigs that have any
    bases: int = 0
    extents: dict[str, int] = field(default_factory=dict)  # regions by extent


class ChunkReader:
    """The rows of chunks.tsv, contig by contig, as contigs.tsv says how many each has."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        if next(file, b"").rstrip(b"\n").split(b"\t") != [name.encode() for name in CHUNK_COLUMNS]:
            raise StorageError(f"{path}: its columns aren't {', '.join(CHUNK_COLUMNS)}. Delete it and run again.")

    def skip(self, count: int) -> None:
        """Leave out the next chunks."""
        next(islice(self._file, count, count), None)

    def take(self, record: str, count: int) -> Chunks:
        """The next chunks, which must be this contig's: else StorageError."""
        chunks, name, partial = Chunks([], [], [], []), record.encode() + b"\t", PARTIAL.encode()
        for line in islice(self._file, count):
            cells = line.split(b"\t", _LOGIT + 1)
            if not line.startswith(name) or len(cells) < _LOGIT + 2:
                break
            chunks.starts.append(int(cells[_START]))
            chunks.ends.append(int(cells[_END]))
            chunks.logits.append(float(cells[_LOGIT]) if cells[_LOGIT] else None)
            chunks.partial.append(cells[_KIND] == partial)
        if len(chunks.starts) != count:
            raise StorageError(
                f"{self._path}: its chunks of {record} aren't those that contigs.tsv counts. Delete both and run again."
            )
        return chunks


class RegionFiles:
    """Context manager that writes the files; they appear together when the block succeeds.

    Args:
        paths: of the files.
        chunks: ``chunks.tsv``.
        model: how regions are found: the classifier's, or ``region_model.DEFAULT``.
        chunk_length: of the run. A shorter record, as most reads are, has no region.
        threads: that compress.
    """

    def __init__(
        self, paths: RegionPaths, chunks: Path, model: RegionModel, chunk_length: int, threads: int = 1
    ) -> None:
        self.counts = RegionCounts(FITTED if model.fitted else DEFAULT)
        self._paths, self._chunk_file, self._model = paths, chunks, model
        self._chunk_length, self._threads = chunk_length, threads

    def __enter__(self) -> RegionFiles:
        with ExitStack() as stack:  # undone if one of the files can't be made
            try:
                self._chunks = ChunkReader(self._chunk_file, stack.enter_context(open(self._chunk_file, "rb")))
            except FileNotFoundError:
                raise StorageError(f"{self._chunk_file}: no such file. Run the prediction first.") from None
            paths = (self._paths.table, self._paths.gff, self._paths.bed, self._paths.sequences)
            self._table, self._gff, self._bed, raw = (
                stack.enter_context(stack.enter_context(atomic_file(path)).open("wb")) for path in paths
            )
            self._sequences = stack.enter_context(GzipWriter(raw, self._threads))
            self._table.write("\t".join(REGION_COLUMNS).encode() + b"\n")
            self._gff.write(b"##gff-version 3\n")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, record: Record, chunks: int, call: str) -> None:
        """Write the regions of the next contig of contigs.tsv, which has so many chunks and this call."""
        length = len(record.sequence)
        if record.fastq or call == UNSCORED or length < self._chunk_length:
            self._chunks.skip(chunks)
            return
        found = self._chunks.take(record.id, chunks)
        if regions := find_regions(self._model, found, length, is_circular(record.header, record.sequence)):
            self._write(record, regions, call)

    def _write(self, record: Record, regions: list[Region], call: str) -> None:
        counts, seqid = self.counts, _seqid(record.id)
        rows, features, lines = [], [f"##sequence-region {seqid} 1 {len(record.sequence)}\n"], []
        for number, region in enumerate(regions, start=1):
            name, (start, end, among, scored, mean, lowest, extent) = region_id(record.id, number), region
            rows.append(
                f"{record.id}\t{name}\t{start}\t{end}\t{end - start + 1}\t{among}\t{scored}\t{mean}\t{lowest}\t{extent}\t{call}\t"
                f"{counts.model}\n"
            )
            features.append(
                f"{seqid}\t{_GFF_SOURCE}\t{GFF_TYPE}\t{start}\t{end}\t{mean}\t.\t.\tID={_attribute(name)};extent={extent};"
                f"lowest_posterior={lowest};call={call};model={counts.model}\n"
            )
            lines.append(f"{record.id}\t{start - 1}\t{end}\t{name}\t{round(_MOST * mean)}\t.\n")
            header = f"{name} {record.id}:{start}-{end} extent={extent} mean_posterior={mean} call={call}"
            write_sequence(self._sequences, header, record.sequence[start - 1 : end])
            counts.bases += end - start + 1
            counts.extents[extent] = counts.extents.get(extent, 0) + 1
        counts.records += 1
        counts.regions += len(regions)
        for file, text in ((self._table, rows), (self._gff, features), (self._bed, lines)):
            file.write("".join(text).encode())


def _seqid(record: str) -> str:
    """As a sequence id in GFF3."""
    return quote(record, safe=_SEQID).replace("~", "%7E")


def _attribute(text: str) -> str:
    """As the value of an attribute in GFF3."""
    return _RESERVED.sub(lambda found: f"%{ord(found.group()):02X}", text)
