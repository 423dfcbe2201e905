"""Splitting samples into shards of stop-free frames named by their content, and reading them back.

The folder's layout is in docs/formats.md. Where a shard ends depends on the content, so a sequence that is
inserted, removed or appended changes only the shards next to it; the others keep their names, and with them their
embeddings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from virnucpro.errors import InputError, StorageError
from virnucpro.io import atomic_directory
from virnucpro.outputs import identity
from virnucpro.processes import Processes
from virnucpro.provenance import RunRecord, resources_used
from virnucpro.rendering import how_many
from virnucpro.sequences.records import REMEDY, RecordRow, SampleRecords, read_table
from virnucpro.sequences.shards import FRAMES, KINDS, PARTIAL, ChunkTexts, ShardWriter, counted
from virnucpro.sequences.splitter import BlockSplitter

logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the shard folder's layout."""

MANIFEST_KEYS = ("chunk_length", "shard_frames", "rna_as_dna", "samples", *KINDS, "shards", "partial_shards")
BLOCK_BYTES = 2 << 20
"""Of text or bases that a process is given at a time, about."""
BLOCKS_IN_PROCESS = 8
"""Blocks that a job reads itself before it starts processes: a start takes half a second, as does this."""


def split_samples(
    samples: Mapping[str, Sequence[Path]],
    output: Path,
    chunk_length: int,
    shard_frames: int,
    empty_records: str = "error",
    rna_as_dna: bool = True,
    threads: int = 1,
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """Write the shard folder of one sample or of several, whole or not at all, and return its manifest.

    Args:
        samples: name → FASTA or FASTQ files, in order; see ``read.read_fasta``.
        output: the folder to make; it replaces an older one.
        chunk_length: bases in a chunk, 300 or 500 for the published classifiers.
        shard_frames: most frames in a shard (a chunk's frames stay together, whatever this is).
        empty_records, rna_as_dna: see ``records.SampleRecords``.
        threads: that read, and processes that make frames; small samples are read by one, and the same is written always.
        run: kept in the manifest.

    Raises:
        InputError: what ``SampleRecords`` refuses, if no sample is left then. Of several, one that is refused is left out, and the
            manifest says why.
    """
    if chunk_length < 1 or shard_frames < 1:
        raise ValueError(f"chunk_length ({chunk_length}) and shard_frames ({shard_frames}) must be at least 1")
    began = time.perf_counter()
    with atomic_directory(output) as folder, ExitStack() as stack:
        places = {kind: shard_folder(folder, kind) for kind in KINDS}
        places[PARTIAL].mkdir()
        writers = {kind: stack.enter_context(ShardWriter(place, shard_frames)) for kind, place in places.items()}
        splitter = BlockSplitter(chunk_length, empty_records == "skip", rna_as_dna)
        alone = len(samples) == 1
        found: dict[str, dict[str, Any]] = {}
        written = dict.fromkeys(KINDS, 0)
        for sample, fastas in samples.items():
            own = folder / "samples" / sample
            own.mkdir(parents=True)
            held = {
                kind: list[ChunkTexts]() for kind in KINDS
            }  # of several samples, all is written once it is known to be right
            write = {kind: writers[kind].add if alone else held[kind].append for kind in KINDS}
            try:
                manifest = _split(fastas, own, write, splitter, empty_records, threads if alone else 1)
            except InputError as error:
                if alone:
                    raise
                logger.error("sample %s: %s", sample, error)
                found[sample] = {"refused": str(error), "identity": identity(path for path in fastas if path.exists())}
                shutil.rmtree(own)
                continue
            found[sample] = {"first": written.copy()}
            for kind in KINDS:
                for texts in held[kind]:
                    writers[kind].add(texts)
                found[sample][kind] = manifest[kind]
                written[kind] += manifest[kind]
        if all("refused" in entry for entry in found.values()):
            raise InputError("None of the samples can be read.")
        for kind, writer in writers.items():
            writer.finish()
            if written[kind] != sum(shard["frames"] for shard in writer.shards):
                raise AssertionError(f"{output}: {written[kind]} {kind}, not all in shards")
        manifest = {
            "format": FORMAT,
            "chunk_length": chunk_length,
            "shard_frames": shard_frames,
            "rna_as_dna": rna_as_dna,
            **written,
            "run": (run or RunRecord()).as_dict(),
            "job": resources_used(began),
            "samples": found,
            "shards": writers[FRAMES].shards,
            "partial_shards": writers[PARTIAL].shards,
        }
        _write_json(folder / "manifest.json", manifest)
    said = (
        f"{counted(kind, written[kind])} in {how_many(len(writer.shards), 'shard')}" for kind, writer in writers.items()
    )
    logger.info("%s, %s", how_many(len(samples), "sample"), " and ".join(said))
    return manifest


def _split(
    fastas: Sequence[Path],
    folder: Path,
    write: Mapping[str, Callable[[ChunkTexts], object]],
    splitter: BlockSplitter,
    empty_records: str,
    threads: int,
) -> dict[str, Any]:
    """Give a sample's frames of each kind to ``write``, in order; returns its manifest, written to ``folder``."""
    chunk_length, _, rna_as_dna = splitter.options
    before = identity(path for path in fastas if path.exists())  # the reader says what is wrong with one that doesn't
    chunks, counts = 0, dict.fromkeys(KINDS, 0)
    with (
        SampleRecords(fastas, folder, empty_records, rna_as_dna) as records,
        Processes(splitter, threads, BLOCKS_IN_PROCESS) as processes,
    ):
        for part in processes.map(splitter.tasks(records.blocks(BLOCK_BYTES, threads), BLOCK_BYTES)):
            records.add(part.found)
            chunks += part.chunks
            for kind, every in ((FRAMES, part.frames), (PARTIAL, part.partial)):
                for texts in every:
                    counts[kind] += int(texts.counts[:, 0].sum())
                    write[kind](texts)
        records.finish()
    found = records.found
    for path, old, new in zip(fastas, before, identity(fastas), strict=True):
        if old != new:
            raise InputError(f"{path}: changed while it was read. Run again once it is complete.")
    expected = sum(-(-length // chunk_length) for _, length, *_ in read_table(folder))
    if chunks != expected:
        raise AssertionError(f"{folder}: {chunks} chunks, not {expected}")
    for note in records.notes():
        logger.warning("%s", note)
    frames = " and ".join(counted(kind, count) for kind, count in counts.items())
    logger.info("%s, %s, %s", how_many(found.count, "record"), how_many(chunks, "chunk"), frames)
    manifest = {
        "chunk_length": chunk_length,
        "records": found.count,
        "bases": found.bases,
        "chunks": chunks,
        **counts,
        "skipped_records": found.skipped.count,
        "rna_records": found.rna.count,
        "u_ignored_records": found.u_ignored.count,
        "rna_as_dna": rna_as_dna,
        "files": [str(path) for path in fastas],
        "identity": before,
    }
    _write_json(folder / "manifest.json", manifest)
    return manifest


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def changed_inputs(folder: str | Path, samples: Mapping[str, Sequence[Path]]) -> list[str]:
    """The samples whose files aren't those, by size and time, that a shard folder was made from; none if nothing tells."""

    def changed(sample: str) -> bool:
        try:
            place = read_manifest(folder)["samples"][sample]
            made = place if "refused" in place else read_sample(folder, sample)
            return made["identity"] != identity(samples[sample])
        except (StorageError, OSError, KeyError):
            return False

    return list(filter(changed, samples))


def refusals(folder: str | Path) -> dict[str, str]:
    """Sample → why it was refused, of a shard folder; empty where there is none."""
    try:
        samples = read_manifest(folder)["samples"]
    except StorageError:
        return {}
    return {sample: place["refused"] for sample, place in samples.items() if "refused" in place}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a shard folder; StorageError if it is missing, damaged or of another format."""
    path = Path(folder) / "manifest.json"
    manifest = _read_json(path)
    if manifest.get("format") != FORMAT:
        raise StorageError(f"{path}: not a manifest of format {FORMAT}, which this version reads. {REMEDY}")
    if missing := [key for key in MANIFEST_KEYS if key not in manifest]:
        raise StorageError(f"{path}: lacks {', '.join(missing)}. {REMEDY}")
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: can't be read ({error}). {REMEDY}") from error
    return found if isinstance(found, dict) else {}


def read_sample(folder: str | Path, sample: str) -> dict[str, Any]:
    """A sample's own manifest, with ``pieces``: by kind, the rows of shards that hold its frames, in order.

    A piece has ``sha``, ``first`` (row in the shard), ``frames`` and ``of`` (frames in the shard).

    Raises:
        InputError: the sample was refused; says why.
        StorageError: the manifest is missing or damaged.
    """
    unit = read_manifest(folder)
    place = unit["samples"].get(sample)
    if place is None:
        raise StorageError(f"{folder}: doesn't hold sample '{sample}'. {REMEDY}")
    if "refused" in place:
        raise InputError(place["refused"])
    path = Path(folder) / "samples" / sample / "manifest.json"
    manifest = _read_json(path)
    if any(manifest.get(kind) != place[kind] for kind in KINDS):
        raise StorageError(f"{path}: isn't what the folder's manifest says of it. {REMEDY}")
    pieces: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        pieces[kind], row = [], 0
        begin, end = place["first"][kind], place["first"][kind] + place[kind]
        for shard in shards_of_kind(unit, kind):
            first, last = max(begin, row), min(end, row + shard["frames"])
            if first < last:
                piece = {"sha": shard["sha"], "first": first - row, "frames": last - first, "of": shard["frames"]}
                pieces[kind].append(piece)
            row += shard["frames"]
        if sum(piece["frames"] for piece in pieces[kind]) != place[kind]:
            raise StorageError(f"{folder}: its shards don't hold all {kind} of sample '{sample}'. {REMEDY}")
    return {**manifest, "pieces": pieces, "unit_frames": unit["frames"], "job": unit.get("job")}


def shards_of_kind(manifest: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The shards that a folder's manifest lists."""
    return list(manifest["shards" if kind == FRAMES else "partial_shards"])


def shard_folder(folder: Path, kind: str) -> Path:
    """Where a shard folder has its shards of a kind."""
    return folder if kind == FRAMES else folder / PARTIAL


def place_of_shard(path: Path) -> tuple[Path, str]:
    """The shard folder that a shard's FASTA lies in, and the kind of its frames."""
    return (path.parent.parent, PARTIAL) if path.parent.name == PARTIAL else (path.parent, FRAMES)


def read_shard(path: str | Path) -> tuple[list[str], list[bytes]]:
    """Frame ids and sequences of ``<sha>.fna`` or ``<sha>.faa``.

    Raises StorageError if the file's digest or number of frames isn't the manifest's.
    """
    path = Path(path)
    folder, kind = place_of_shard(path)
    manifest = read_manifest(folder)
    entry = next((shard for shard in shards_of_kind(manifest, kind) if shard["sha"] == path.stem), None)
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


def iter_records(folder: str | Path, sample: str) -> Iterator[RecordRow]:
    """Each record of a sample, in input order; StorageError if rows are missing."""
    expected, count, own = read_sample(folder, sample)["records"], 0, Path(folder) / "samples" / sample
    for count, row in enumerate(read_table(own), start=1):  # noqa: B007
        yield row
    if count != expected:
        raise StorageError(f"{own / 'records.tsv'}: {count} rows, the manifest says {expected}. {REMEDY}")


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
