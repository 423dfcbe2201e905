"""Tables of made-up scores, and what is in them."""

import math

import numpy as np

from virnucpro.calls.blocks import MAX_CHUNKS, blocks
from virnucpro.calls.rows import BlockRows
from virnucpro.calls.rules import Rules
from virnucpro.calls.tables import TablePaths, Tables
from virnucpro.classifier.evidence import Calibration, Preset
from virnucpro.classifier.scoring import Scores
from virnucpro.result_tables import CONTIG_COLUMNS
from virnucpro.sequences.records import RecordRow


class Frames:
    """Stands for a sample's embeddings: ids, and scores in the place of vectors; (id, score_virus) or (id, others, virus).

    ``distances`` and ``categories`` are None, or by frame's id.
    """

    def __init__(self, frames, rows=1000, distances=None, categories=None):
        self.distances, self.categories = (
            None if each is None else np.array([each[frame[0]] for frame in frames], np.float32).reshape(shape)
            for each, shape in ((distances, (len(frames),)), (categories, (len(frames), -1) if frames else (0, 3)))
        )
        scores = [(1 - frame[1], frame[1]) if len(frame) == 2 else frame[1:] for frame in frames]
        self.names, self.rows, self.count = [frame[0] for frame in frames], rows, len(frames)
        self.scores = np.array(scores, np.float32).reshape(-1, 2)

    def windows(self):
        return [slice(at, min(at + self.rows, self.count)) for at in range(0, self.count, self.rows)]

    def ids(self, window):
        return self.names[window]

    def read(self, window):
        return self.names[window], Scores(
            self.scores[window], *(None if each is None else each[window] for each in (self.categories, self.distances))
        )


def tables_of(folder, records, frames, batch=3, max_chunks=MAX_CHUNKS, ending="", partial=None, likeness=None, **rules):
    """Write tables of (name, length) records and their frames, and partial ones if these are scored; returns paths, counts."""
    paths = TablePaths(
        *(folder / f"{name}{ending}" for name in ("predictions", "chunks", "contigs", "results", "highest", "scores"))
    )
    given = likeness or {}
    return paths, write(paths, records, Frames(frames, batch, **given), max_chunks, partial, given, **rules)


def write(paths, records, sample, max_chunks=MAX_CHUNKS, partial=None, likeness=None, **rules):
    """Write the tables of a sample, block by block; returns the counts."""
    rules, rest = Rules(**rules), Frames(partial or [], **(likeness or {}))
    records = (record if len(record) > 2 else RecordRow(*record, "x.fa", 0.5, 0.0, 0.0) for record in records)
    with Tables(paths, rules) as tables:
        for block in blocks(sample, rest, records, rules.chunk_length, max_chunks):
            rows = BlockRows(block, rules, partial is not None)
            rows.add_partial(*rest.read(block.partial))
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


def calibration(**changes):
    """Frames as they are, partial ones shifted by what they cover; viral from 2 on, non-viral below −1."""
    preset = Preset(2.0, -1.0, {})
    facts = {"frame": (1.0, 0.0), "partial": (1.0, -1.7, 0.2), "contig": (0.5, 1.0, 0.0), "curve": [], "fitted_on": {}}
    return Calibration(**{**facts, "presets": dict.fromkeys(("strict", "balanced", "sensitive"), preset), **changes})


def odds(value):
    """A frame's scores whose log odds are this."""
    virus = 1 / (1 + math.exp(-value))
    return 1 - virus, virus


def many_contigs(viral, others):
    """Contigs of one chunk: their records and frames, the viral ones first."""
    logits = [*[6.0] * viral, *[-6.0] * others]
    return [(f"r{i}", 400) for i in range(len(logits))], [(f"r{i}_chunk_1F1", *odds(x)) for i, x in enumerate(logits)]


CATEGORIES = (("phage", True), ("plant virus", True), ("bacterium", False))


def like(frames, partial, seed=0):
    """Random log-probabilities and distances by id."""
    random = np.random.default_rng(seed)
    names = [frame[0] for frame in [*frames, *partial]]
    return {
        "categories": {name: np.log(random.dirichlet(np.ones(3))) for name in names},
        "distances": dict(zip(names, random.uniform(0, 3, len(names)), strict=True)),
    }
