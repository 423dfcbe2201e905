"""Tables of made-up scores, and what is in them."""

import numpy as np

from virnucpro.calls.blocks import MAX_CHUNKS, blocks
from virnucpro.calls.rows import BlockRows
from virnucpro.calls.tables import TablePaths, Tables
from virnucpro.result_tables import CONTIG_COLUMNS


class Frames:
    """Stands for a sample's embeddings: ids, and scores in the place of vectors."""

    def __init__(self, ids, scores, rows):
        self.ids, self.scores, self.rows, self.count = ids, scores, rows, len(ids)

    def windows(self):
        return [slice(at, min(at + self.rows, self.count)) for at in range(0, self.count, self.rows)]

    def read(self, window):
        return self.ids[window], self.scores[window]


def tables_of(folder, records, frames, chunk_length=500, threshold=0.5, batch=3, max_chunks=MAX_CHUNKS, ending=""):
    """Write tables for (id, score_virus) or (id, others, virus) frames; returns paths and counts."""
    paths = TablePaths(
        *(folder / f"{name}{ending}" for name in ("predictions", "chunks", "contigs", "results", "highest"))
    )
    scores = [(1 - frame[1], frame[1]) if len(frame) == 2 else frame[1:] for frame in frames]
    sample = Frames([frame[0] for frame in frames], np.array(scores, np.float32).reshape(-1, 2), batch)
    return paths, write(paths, records, sample, chunk_length, threshold, max_chunks)


def write(paths, records, sample, chunk_length=500, threshold=0.5, max_chunks=MAX_CHUNKS):
    """Write the tables of a sample, block by block; returns the counts."""
    with Tables(paths, threshold) as tables:
        for block in blocks(sample, iter(records), chunk_length, max_chunks):
            rows = BlockRows(block, chunk_length, threshold)
            rows.add(*sample.read(block.rows))
            tables.add(rows.finish())
        return tables.finish()


def contig_table(rows):
    """contigs.tsv as text, with a row for each mapping of columns to values; cells that aren't given are empty."""
    lines = [CONTIG_COLUMNS]
    for row in rows:
        assert row.keys() <= set(CONTIG_COLUMNS)
        lines.append([str(row.get(column, "")) for column in CONTIG_COLUMNS])
    return "".join("\t".join(line) + "\n" for line in lines)


def read(path):
    header, *lines, end = path.read_text(encoding="utf-8").split("\n")
    assert end == ""
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def column(path, name):
    return [row[name] for row in read(path)]
