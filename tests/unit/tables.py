"""Tables of made-up scores, and what is in them."""

import numpy as np

from virnucpro.calls.tables import TablePaths, Tables
from virnucpro.result_tables import CONTIG_COLUMNS


def tables_of(folder, records, frames, chunk_length=500, threshold=0.5, batch=3):
    """Write tables for (id, score_virus) or (id, others, virus) frames; returns paths and counts."""
    paths = TablePaths(*(folder / name for name in ("predictions", "chunks", "contigs", "results", "highest")))
    rows = [(frame[0], *((1 - frame[1], frame[1]) if len(frame) == 2 else frame[1:])) for frame in frames]
    with Tables(paths, iter(records), chunk_length, threshold) as tables:
        for at in range(0, len(rows), batch):
            part = rows[at : at + batch]
            tables.add([row[0] for row in part], np.array([row[1:] for row in part], np.float32))
        counts = tables.finish()
    return paths, counts


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
