"""Result tables + labels → how good the predictions are: tables, plots, a JSON."""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.classifier.labels import Labelled, labelled_samples, read_test_part
from virnucpro.classifier.metrics import METRICS, binary_metrics, reliability
from virnucpro.errors import InputError
from virnucpro.io import atomic_file
from virnucpro.provenance import RunRecord, origins
from virnucpro.rendering import saved_figure
from virnucpro.result_tables import (
    CHUNK_COLUMNS,
    CONTIG_COLUMNS,
    PREDICTION_COLUMNS,
    UNSCORED,
    VIRAL,
    read_rows,
    write_table,
)

LEVELS = {
    "frame": "frames",
    "chunk": "chunks with an open frame",
    "chunk_all": "all chunks; one without an open frame scores 0",
    "contig": "records with a scored chunk",
    "contig_all": "all records; one without a scored chunk scores 0",
}
LENGTHS = (0, 500, 1000, 3000, 10_000)  # lower ends, in bases, of the classes of record length
_ITEM = np.dtype([("truth", "?"), ("score", "f8"), ("call", "?"), ("category", "i2"), ("length", "i1")])
_ITEM_FORMAT = struct.Struct("=?d?hb")  # the same layout
_Facts = tuple[bool, int, int]
"""Of a record: viral or not, its category's number, and the place of its length in ``LENGTHS``."""


def evaluate_from_table(
    table: str | Path,
    folders: Mapping[str, Path],
    output: str | Path,
    split: str | Path | None = None,
    contrasts: Mapping[str, Collection[str]] | None = None,
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """``evaluate`` with the labels of a table of files (one per sample, in order) or of records; see ``labels``.

    ``folders`` are sample name → folder of its tables; of a training's ``split.tsv`` only the test part is measured.
    """
    only = read_test_part(split) if split else None
    return evaluate(labelled_samples(table, folders), output, only=only, contrasts=contrasts, run=run)


def evaluate(
    samples: Sequence[Labelled],
    output: str | Path,
    *,
    only: Collection[tuple[str, str]] | None = None,
    contrasts: Mapping[str, Collection[str]] | None = None,
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """Measure per frame, chunk and record (``LEVELS``), write everything to a folder, and return what the JSON holds.

    Groups within each level: all items; each category; each contrast; each class of record length. A category of
    one class only is measured against all items of the other class.

    Args:
        samples: tables of ``predict`` and their labels.
        output: folder for ``metrics.tsv``, ``reliability.tsv``, ``evaluation.json``, ``.png``, ``.svg``.
        only: (sample name, record) pairs to look at, such as the test part of a split; all otherwise.
        contrasts: name → categories that are measured apart from all others, such as phages and prokaryotes.
        run: kept in the JSON, as is how the tables were made.

    Raises:
        InputError: a record has no label, or nothing is left to look at.
    """
    output = Path(output)
    categories: dict[str, int] = {}
    items = {level: bytearray() for level in LEVELS}
    excluded = {True: 0, False: 0}
    for sample in samples:
        facts: dict[str, _Facts] = {}
        wanted: tuple[str, ...] = ("record", "length", "mean_score", "probability", "call")
        for record, length, score, probability, call in read_rows(
            sample.folder / "contigs.tsv", CONTIG_COLUMNS, wanted
        ):
            if only is not None and (sample.name, record) not in only:
                continue
            label = sample.label_of(record)
            category = categories.setdefault(label.category, len(categories))
            facts[record] = (label.viral, category, bisect_right(LENGTHS, int(length)) - 1)
            _add(items, "contig", facts[record], probability or score, call)
        wanted = ("record", "score", "probability", "call")
        for record, score, probability, call in read_rows(sample.folder / "chunks.tsv", CHUNK_COLUMNS, wanted):
            if record in facts:
                excluded[facts[record][0]] += call == UNSCORED
                _add(items, "chunk", facts[record], probability or score, call)
        wanted = ("record", "score_virus", "label")
        for record, score, frame_label in read_rows(sample.folder / "predictions.tsv", PREDICTION_COLUMNS, wanted):
            if record in facts:
                items["frame"] += _pack(facts[record], float(score), frame_label == "virus")
    columns = {level: np.frombuffer(packed, _ITEM) for level, packed in items.items()}
    if not len(columns["contig_all"]):
        raise InputError("There is nothing to evaluate: no record of these samples is in the list.")
    names = list(categories)
    measured = [
        {"level": level, "group": kind, "name": name}
        | binary_metrics(table["truth"][rows], table["score"][rows], table["call"][rows])
        for level, table in columns.items()
        for kind, name, rows in _groups(table, names, contrasts or {})
    ]
    curves = {level: reliability(table["truth"], table["score"]) for level, table in columns.items()}
    result = {
        "run": (run or RunRecord()).as_dict(),
        "levels": LEVELS,
        "samples": [sample.name for sample in samples],
        "predicted": origins(sample.folder for sample in samples),
        "chunks_without_open_frame": {"viral": excluded[True], "non-viral": excluded[False]},
        "metrics": measured,
        "reliability": curves,
    }
    output.mkdir(parents=True, exist_ok=True)
    write_table(output / "metrics.tsv", ("level", "group", "name", *METRICS), measured)
    flat = [{"level": level, **row} for level, rows in curves.items() for row in rows]
    write_table(output / "reliability.tsv", tuple(flat[0]), flat)
    _plot(output, columns, curves)
    with atomic_file(output / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _add(items: Mapping[str, bytearray], level: str, facts: _Facts, score: str, call: str) -> None:
    """Add an item to the level that counts all, and to its own level if it has a score."""
    packed = _pack(facts, float(score or 0), call == VIRAL)
    items[f"{level}_all"] += packed
    if score:
        items[level] += packed


def _pack(facts: _Facts, score: float, call: bool) -> bytes:
    viral, category, length = facts
    return _ITEM_FORMAT.pack(viral, score, call, category, length)


def _groups(
    table: np.ndarray, names: Sequence[str], contrasts: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(kind, name, rows (n,) bool) of every group of one level's items."""
    truth, category, length = table["truth"], table["category"], table["length"]
    yield "all", "", np.ones(len(truth), bool)
    for number, name in enumerate(names):
        rows = category == number
        if name and rows.any():
            classes = set(truth[rows].tolist())
            if len(classes) == 1:
                rows = rows | (truth != classes.pop())
            yield "category", name, rows
    for name, members in contrasts.items():
        yield "contrast", name, np.isin(category, [i for i, known in enumerate(names) if known in members])
    for number, low in enumerate(LENGTHS):
        rows = length == number
        if rows.any():
            high = f"-{LENGTHS[number + 1] - 1}" if number + 1 < len(LENGTHS) else "+"
            yield "length", f"{low}{high}", rows


def _plot(output: Path, columns: Mapping[str, np.ndarray], curves: Mapping[str, Any]) -> None:
    """ROC, precision-recall and reliability of each level in one figure, as PNG and SVG."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    with saved_figure(output / "evaluation", 13, 4) as figure:
        roc, recall_precision, reliable = figure.subplots(1, 3)
        for level, table in columns.items():
            if 0 < table["truth"].sum() < len(table):
                false, true, _ = roc_curve(table["truth"], table["score"])
                roc.plot(false, true, label=level)
                precision, recall, _ = precision_recall_curve(table["truth"], table["score"])
                recall_precision.plot(recall, precision, label=level)
            points = [(row["mean_score"], row["viral_share"]) for row in curves[level] if row["items"]]
            reliable.plot(*zip(*points, strict=True) if points else ([], []), marker="o", label=level)
        roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        recall_precision.set(title="precision-recall", xlabel="recall", ylabel="precision")
        reliable.set(title="reliability", xlabel="mean score", ylabel="viral share")
        for axes in (roc, recall_precision, reliable):
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for axes in (roc, reliable):
            axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        reliable.legend(frameon=False)
