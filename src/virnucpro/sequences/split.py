"""Splitting a sample's FASTA files into content-named shards of open frames, and reading them back.

The folder's layout is in docs/architecture.md. Shards close where the content says so, so that a record
inserted, removed or appended changes only the shards next to it and the others keep their names, and
with them their embeddings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.errors import InputError, StorageError
from virnucpro.files import atomic_directory
from virnucpro.provenance import RunRecord
from virnucpro.sequences.chunks import chunk_id
from virnucpro.sequences.duplicates import DuplicateCheck
from virnucpro.sequences.fasta import read_fasta
from virnucpro.sequences.frames import FRAME_NAMES, FrameBatch, open_frames_of
from virnucpro.sequences.shards import ShardWriter

logger = logging.getLogger(__name__)

FORMAT = 1  # of the shard folder's layout

_AGAIN = "Delete the shard folder and run again."
_HEADER = "record\tlength\tfile\n"
_KEYS = ("chunk_length", "shard_frames", "records", "bases", "chunks", "frames", "skipped_records", "files", "shards")
_NAMES = [name.encode() for name in FRAME_NAMES]


def split_fasta(
    fastas: Sequence[Path],
    output: Path,
    chunk_length: int,
    shard_frames: int,
    empty_records: str = "error",
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """Write a sample's shard folder, whole or not at all, and return its manifest.

    Args:
        fastas: FASTA files, in order; see ``fasta.read_fasta``.
        output: the folder to make; it replaces an older one.
        chunk_length: bases in a chunk, 300 or 500 for the published classifiers.
        shard_frames: most frames in a shard (a chunk's frames stay together, whatever this is).
        empty_records: "error", or "skip" to leave them out and count them.
        run: kept in the manifest.

    Raises:
        InputError: what ``read_fasta`` refuses; a record id that occurs twice in the sample.
    """
    if empty_records not in ("error", "skip"):
        raise ValueError(f"empty_records must be 'error' or 'skip', not {empty_records!r}")
    if chunk_length < 1 or shard_frames < 1:
        raise ValueError(f"chunk_length ({chunk_length}) and shard_frames ({shard_frames}) must be at least 1")
    with atomic_directory(output) as folder:
        writer = ShardWriter(folder, shard_frames)
        chunks = frames = 0
        with _Records(folder, fastas, empty_records == "skip") as records:
            for batch in open_frames_of(records.sequences(), chunk_length):
                chunks += batch.chunks
                frames += len(batch.frame)
                _write_batch(batch, records, writer)
            writer.finish()
            records.finish()
        manifest = {
            "format": FORMAT,
            "chunk_length": chunk_length,
            "shard_frames": shard_frames,
            "records": records.count,
            "bases": records.bases,
            "chunks": chunks,
            "frames": frames,
            "skipped_records": records.skipped,
            "files": [str(path) for path in fastas],
            "run": (run or RunRecord()).as_dict(),
            "shards": writer.shards,
        }
        expected = sum(-(-length // chunk_length) for _, length, _ in _read_records(folder))
        if chunks != expected or frames != sum(shard["frames"] for shard in writer.shards):
            raise AssertionError(f"{output}: {chunks} chunks, not {expected}, or {frames} frames not all in shards")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    if records.skipped:
        logger.warning("left out %d records without a sequence", records.skipped)
    logger.info("%d records, %d chunks, %d frames, %d shards", records.count, chunks, frames, len(writer.shards))
    return manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a shard folder; StorageError if it is missing, damaged or of another format."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: can't be read ({error}). {_AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StorageError(f"{path}: not a manifest of format {FORMAT}, which this version reads. {_AGAIN}")
    if missing := [key for key in _KEYS if key not in manifest]:
        raise StorageError(f"{path}: lacks {', '.join(missing)}. {_AGAIN}")
    return manifest


def read_shard(path: str | Path) -> tuple[list[str], list[bytes]]:
    """Frame ids and sequences of ``<sha>.fna`` or ``<sha>.faa``.

    Raises StorageError if the file isn't what the manifest beside it says, byte for byte.
    """
    path = Path(path)
    manifest = read_manifest(path.parent)
    entry = next((shard for shard in manifest["shards"] if shard["sha"] == path.stem), None)
    if entry is None or path.suffix not in (".fna", ".faa"):
        raise StorageError(f"{path}: not a shard of the manifest beside it. {_AGAIN}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: can't be read ({error}). {_AGAIN}") from error
    if hashlib.sha256(content).hexdigest() != entry[f"{path.suffix[1:]}_sha256"]:
        raise StorageError(f"{path}: cut short or changed since it was written. {_AGAIN}")
    lines = content.split(b"\n")
    ids = [line[1:].decode("utf-8") for line in lines[0:-1:2]]
    sequences = lines[1::2]
    if len(ids) != entry["frames"] or len(sequences) != len(ids):
        raise StorageError(f"{path}: holds {len(ids)} frames, the manifest says {entry['frames']}. {_AGAIN}")
    return ids, sequences


def iter_records(folder: str | Path) -> Iterator[tuple[str, int, str]]:
    """(record, length, file) of each record of a sample, in input order; StorageError if rows are missing."""
    expected, count = read_manifest(folder)["records"], 0
    for count, row in enumerate(_read_records(Path(folder)), start=1):  # noqa: B007
        yield row
    if count != expected:
        raise StorageError(f"{Path(folder) / 'records.tsv'}: {count} rows, the manifest says {expected}. {_AGAIN}")


def check_protein(path: str | Path, sequences: Sequence[bytes]) -> None:
    """Refuse a file whose residues are all A, C, G, T or N: DNA given where proteins are expected.

    Judged over the whole file and only from 1,001 residues on, since short peptides may look like DNA.
    """
    residues = 0
    for sequence in sequences:
        if sequence.translate(None, b"ACGTNacgtn"):
            return
        residues += len(sequence)
    if residues > 1000:
        raise InputError(
            f"{path}: all {residues} residues are A, C, G, T or N: DNA where proteins are expected. Give the proteins."
        )


def _read_records(folder: Path) -> Iterator[tuple[str, int, str]]:
    path = folder / "records.tsv"
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            if next(file, "") != _HEADER:
                raise StorageError(f"{path}: not a table of records. {_AGAIN}")
            for line in file:
                record, length, source = line.removesuffix("\n").split("\t")
                yield record, int(length), source
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: can't be read ({error}). {_AGAIN}") from error


class _Records:
    """Reads the records, lists them in ``records.tsv`` and checks that no id occurs twice."""

    def __init__(self, folder: Path, fastas: Sequence[Path], skip_empty: bool) -> None:
        for path in fastas:
            if any(space in str(path) for space in "\t\r\n"):
                raise InputError(f"{str(path)!r}: a tab or line break in a file's name. Rename it.")
        self._folder, self._fastas, self._skip_empty = folder, fastas, skip_empty
        self._table = open(folder / "records.tsv", "w", encoding="utf-8", newline="\n")
        self._table.write(_HEADER)
        self._duplicates = DuplicateCheck(folder)
        self.ids: deque[str] = deque()  # of the records that are being translated
        self.first = 0  # index of the first of them
        self.count = self.bases = self.skipped = 0

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self._duplicates.close()

    def sequences(self) -> Iterator[bytes]:
        """The sequences of all records with one, noting what else is needed of them."""
        for path in self._fastas:
            for record in read_fasta(path, keep_empty=self._skip_empty):
                if not record.sequence:
                    self.skipped += 1
                    continue
                self._table.write(f"{record.id}\t{len(record.sequence)}\t{path}\n")
                self._duplicates.add(record.id)
                self.ids.append(record.id)
                self.count += 1
                self.bases += len(record.sequence)
                yield record.sequence

    def finish(self) -> None:
        """Refuse an id that occurs twice."""
        self._table.flush()
        found = self._duplicates.first((record, file) for record, _, file in _read_records(self._folder))
        if found:
            record, one, other = found
            where = f"twice in {one}" if one == other else f"in {one} and in {other}"
            raise InputError(f"record '{record}' occurs {where}. Ids must be unique in a sample: rename one.")


def _write_batch(batch: FrameBatch, records: _Records, writer: ShardWriter) -> None:
    """Hand the frames of a batch to the writer, chunk by chunk."""
    while records.first < batch.first_record:  # whose frames are all written
        records.ids.popleft()
        records.first += 1
    if not batch.proteins:
        return
    changes = (np.diff(batch.record) != 0) | (np.diff(batch.chunk) != 0)
    begins = np.flatnonzero(np.append(True, changes))
    ends = np.append(begins, len(batch.frame))[1:]
    nucleotides, proteins, names = batch.nucleotides, batch.proteins, [_NAMES[frame] for frame in batch.frame.tolist()]
    bases, residues = (
        np.add.reduceat(np.fromiter(map(len, texts), np.int64, len(texts)), begins) for texts in (nucleotides, proteins)
    )
    columns = (begins, ends, batch.record[begins] - records.first, batch.chunk[begins], bases, residues)
    for begin, end, record, chunk, *letters in zip(*(column.tolist() for column in columns), strict=True):
        name = b">" + chunk_id(records.ids[record], chunk).encode()
        dna = protein = b""
        for row in range(begin, end):
            title = name + names[row]
            dna += b"%b\n%b\n" % (title, nucleotides[row])
            protein += b"%b\n%b\n" % (title, proteins[row])
        writer.add(dna, protein, (end - begin, *letters))
