"""One reading of a sample's input after its tables: the sequences called viral, and the viral regions of all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from virnucpro.calls.gzip_blocks import GzipWriter
from virnucpro.calls.region_files import RegionFiles
from virnucpro.calls.sequence_lines import write_sequence
from virnucpro.errors import StorageError
from virnucpro.io import atomic_file
from virnucpro.rendering import how_many
from virnucpro.result_tables import AMBIGUOUS, CONTIG_COLUMNS, NON_VIRAL, UNSCORED, VIRAL, read_rows
from virnucpro.sequences.read import read_fasta

logger = logging.getLogger(__name__)


def write_viral(
    contigs: Path, fastas: Sequence[str | Path], output: Path, threads: int = 1, regions: RegionFiles | None = None
) -> int:
    """Copy the sequences called viral from the input, which is read in step with ``contigs.tsv``.

    Headers are whole, letters as in the input, 80 to a line. Equal content gives equal bytes.

    Args:
        contigs: ``contigs.tsv``.
        fastas: the sample's input files, in the order that they were split in.
        output: ``viral.fasta.gz``.
        threads: that compress, besides the one that reads; the bytes are the same with any number.
        regions: gets every record, too; entered by the caller.

    Returns:
        The number of sequences written.

    Raises:
        StorageError: the input no longer holds the sequences that were scored, or ``contigs`` isn't that table; and what
            ``regions`` refuses.
    """
    changed = f"input changed, or {contigs} did. Delete that file and the folder 'shards' beside it, and run again."
    written = 0
    with atomic_file(output) as temporary, open(temporary, "wb") as raw, GzipWriter(raw, threads) as file:
        rows = read_rows(contigs, CONTIG_COLUMNS, ("record", "length", "chunks", "call"))
        for record in (record for fasta in fastas for record in read_fasta(fasta, keep_empty=True)):
            if not record.sequence:
                continue  # refused, or left out and counted, when the input was split
            identifier, length, chunks, call = next(rows, ("", "", "", ""))
            if (record.id, str(len(record.sequence))) != (identifier, length):
                raise StorageError(f"{record.file}: {record.id} isn't what was scored: the {changed}")
            if call not in (VIRAL, AMBIGUOUS, NON_VIRAL, UNSCORED):
                raise StorageError(
                    f"{contigs}: {identifier} is called {call!r}, which isn't a call. Delete it and run again."
                )
            if call == VIRAL:
                written += 1
                write_sequence(file, record.header, record.sequence)
            if regions:
                regions.add(record, int(chunks), call)
        if next(rows, None) is not None:
            raise StorageError(f"{fastas[-1]}: ends before the last record that was scored: the {changed}")
    logger.info("copied %s", how_many(written, "sequence"))
    return written
