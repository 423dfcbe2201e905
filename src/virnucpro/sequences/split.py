"""Splitting a sample's files into shards of stop-free frames named by their content, and reading them back.

The folder's layout is in docs/formats.md. Where a shard ends depends on the content, so a sequence that is
inserted, removed or appended changes only the shards next to it; the others keep their names, and with them their
embeddings.
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
from virnucpro.io import atomic_directory
from virnucpro.outputs import identity
from virnucpro.provenance import RunRecord
from virnucpro.sequences.chunks import chunk_id
from virnucpro.sequences.frames import FRAME_NAMES, FrameBatch, stop_free_frames
from virnucpro.sequences.records import REMEDY, SampleRecords, read_table
from virnucpro.sequences.shards import ShardWriter

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the shard folder's layout."""

MANIFEST_KEYS = (
    "chunk_length",
    "shard_frames",
    "records",
    "bases",
    "chunks",
    "frames",
    "skipped_records",
    "files",
    "shards",
)
_FRAME_SUFFIXES = [name.encode() for name in FRAME_NAMES]


def split_fasta(
    fastas: Sequence[Path],
    output: Path,
    chunk_length: int,
    shard_frames: int,
    empty_records: str = "error",
    rna_as_dna: bool = True,
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """Write a sample's shard folder, whole or not at all, and return its manifest.

    Args:
        fastas: FASTA or FASTQ files, in order; see ``read.read_fasta``.
        output: the folder to make; it replaces an older one.
        chunk_length: bases in a chunk, 300 or 500 for the published classifiers.
        shard_frames: most frames in a shard (a chunk's frames stay together, whatever this is).
        empty_records, rna_as_dna: see ``records.SampleRecords``.
        run: kept in the manifest.

    Raises:
        InputError: what ``SampleRecords`` refuses.
    """
    if chunk_length < 1 or shard_frames < 1:
        raise ValueError(f"chunk_length ({chunk_length}) and shard_frames ({shard_frames}) must be at least 1")
    before = identity(path for path in fastas if path.exists())  # the reader says what is wrong with one that doesn't
    with atomic_directory(output) as folder:
        writer = ShardWriter(folder, shard_frames)
        chunks = frames = 0
        ids = deque[str]()  # of the records that aren't written yet
        first = 0  # the number of the first of them
        with SampleRecords(fastas, folder, empty_records, rna_as_dna) as records:
            for batch in stop_free_frames(_sequences(records, ids), chunk_length):
                chunks += batch.chunks
                frames += len(batch.frame)
                for _ in range(batch.first_record - first):
                    ids.popleft()
                first = batch.first_record
                _write_batch(batch, ids, writer)
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
            "skipped_records": records.skipped.count,
            "rna_records": records.rna.count,
            "u_ignored_records": records.u_ignored.count,
            "rna_as_dna": rna_as_dna,
            "files": [str(path) for path in fastas],
            "identity": before,
            "run": (run or RunRecord()).as_dict(),
            "shards": writer.shards,
        }
        for path, old, new in zip(fastas, before, identity(fastas), strict=True):
            if old != new:
                raise InputError(f"{path}: changed while it was read. Run again once it is complete.")
        expected = sum(-(-length // chunk_length) for _, length, _ in read_table(folder))
        if chunks != expected or frames != sum(shard["frames"] for shard in writer.shards):
            raise AssertionError(f"{output}: {chunks} chunks, not {expected}, or {frames} frames not all in shards")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for note in records.notes():
        logger.warning("%s", note)
    logger.info("%d records, %d chunks, %d frames, %d shards", records.count, chunks, frames, len(writer.shards))
    return manifest


def changed_input(folder: str | Path, fastas: Sequence[Path]) -> bool:
    """Whether these aren't the files, by size and time, that a shard folder was made from; False if nothing tells."""
    try:
        return read_manifest(folder).get("identity", now := identity(fastas)) != now
    except (StorageError, OSError):
        return False


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a shard folder; StorageError if it is missing, damaged or of another format.

    In one of an earlier version, which read RNA as the original does, the keys about RNA are filled in.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: can't be read ({error}). {REMEDY}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StorageError(f"{path}: not a manifest of format {FORMAT}, which this version reads. {REMEDY}")
    if missing := [key for key in MANIFEST_KEYS if key not in manifest]:
        raise StorageError(f"{path}: lacks {', '.join(missing)}. {REMEDY}")
    return {"rna_records": 0, "u_ignored_records": 0, "rna_as_dna": None, **manifest}


def read_shard(path: str | Path) -> tuple[list[str], list[bytes]]:
    """Frame ids and sequences of ``<sha>.fna`` or ``<sha>.faa``.

    Raises StorageError if the file's digest or number of frames isn't the manifest's.
    """
    path = Path(path)
    manifest = read_manifest(path.parent)
    entry = next((shard for shard in manifest["shards"] if shard["sha"] == path.stem), None)
    if entry is None or path.suffix not in (".fna", ".faa"):
        raise StorageError(f"{path}: not a shard of the manifest beside it. {REMEDY}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: can't be read ({error}). {REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != entry[f"{path.suffix[1:]}_sha256"]:
        raise StorageError(f"{path}: cut short or changed since it was written. {REMEDY}")
    lines = content.split(b"\n")
    ids = [line[1:].decode("utf-8") for line in lines[0:-1:2]]
    sequences = lines[1::2]
    if len(ids) != entry["frames"] or len(sequences) != len(ids):
        raise StorageError(f"{path}: holds {len(ids)} frames, the manifest says {entry['frames']}. {REMEDY}")
    return ids, sequences


def iter_records(folder: str | Path) -> Iterator[tuple[str, int, str]]:
    """(record, length, file) of each record of a sample, in input order; StorageError if rows are missing."""
    expected, count = read_manifest(folder)["records"], 0
    for count, row in enumerate(read_table(Path(folder)), start=1):  # noqa: B007
        yield row
    if count != expected:
        raise StorageError(f"{Path(folder) / 'records.tsv'}: {count} rows, the manifest says {expected}. {REMEDY}")


def check_protein(path: str | Path, sequences: Sequence[bytes]) -> None:
    """Refuse a file whose residues are all A, C, G, T or N: DNA where proteins are expected.

    Only from 1,001 residues in all on, since short peptides may look like DNA.
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


def _sequences(records: SampleRecords, ids: deque[str]) -> Iterator[bytes]:
    """The records' sequences; appends their ids to ``ids``."""
    for record in records:
        ids.append(record.id)
        yield record.sequence


def _write_batch(batch: FrameBatch, ids: Sequence[str], writer: ShardWriter) -> None:
    """Give the frames of a batch to the writer, chunk by chunk; ``ids`` are those of its records."""
    if not batch.proteins:
        return
    changes = (np.diff(batch.record) != 0) | (np.diff(batch.chunk) != 0)
    begins = np.flatnonzero(np.append(True, changes))
    ends = np.append(begins, len(batch.frame))[1:]
    nucleotides, proteins, names = (
        batch.nucleotides,
        batch.proteins,
        [_FRAME_SUFFIXES[frame] for frame in batch.frame.tolist()],
    )
    bases, residues = (
        np.add.reduceat(np.fromiter(map(len, texts), np.int64, len(texts)), begins) for texts in (nucleotides, proteins)
    )
    columns = (begins, ends, batch.record[begins] - batch.first_record, batch.chunk[begins], bases, residues)
    for begin, end, record, chunk, *letters in zip(*(column.tolist() for column in columns), strict=True):
        name = b">" + chunk_id(ids[record], chunk).encode()
        dna = protein = b""
        for row in range(begin, end):
            title = name + names[row]
            dna += b"%b\n%b\n" % (title, nucleotides[row])
            protein += b"%b\n%b\n" % (title, proteins[row])
        writer.add(dna, protein, (end - begin, *letters))
