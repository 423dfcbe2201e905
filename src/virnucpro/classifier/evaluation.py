"""Result tables + labels → how good the predictions are: tables, plots, a JSON."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.classifier.labels import Label, has_fasta, read_labelled_fasta, read_labelled_records
from virnucpro.classifier.metrics import METRICS, binary_metrics, reliability
from virnucpro.classifier.tables import NO_OPEN_FRAME, UNSCORED, VIRAL
from virnucpro.errors import InputError
from virnucpro.files import atomic_file

LEVELS = {
    "frame": "frames",
    "chunk": "chunks with an open frame",
    "chunk_all": "all chunks; one without an open frame scores 0",
    "contig": "records with a scored chunk",
    "contig_all": "all records; one without a scored chunk scores 0",
}
LENGTHS = (0, 500, 1000, 3000, 10_000)
"""Lower ends, in bases, of the classes of record length."""


@dataclass(frozen=True)
class Labelled:
    """One sample's tables. ``label`` holds for every record that ``records`` doesn't name."""

    name: str
    predictions: Path
    chunks: Path
    contigs: Path
    label: Label | None = None
    records: Mapping[str, Label] = field(default_factory=dict)

    def label_of(self, record: str) -> Label:
        """A record's label; InputError if it has none."""
        label = self.records.get(record, self.label)
        if label is None:
            raise InputError(
                f"{self.contigs}: record {record} of sample {self.name} has no label. Add it to the table."
            )
        return label


class _Items:
    """Truth, score, call, category and length class of the items of one level, 12 bytes each."""

    def __init__(self) -> None:
        self._truth, self._score, self._call = array("b"), array("d"), array("b")
        self._category, self._length = array("h"), array("b")

    def add(self, label: Label, score: float, call: bool, category: int, length: int) -> None:
        self._truth.append(label.viral)
        self._score.append(score)
        self._call.append(call)
        self._category.append(category)
        self._length.append(length)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Truth (n,) bool, score (n,) float64, call (n,) bool, category (n,) int16, length class (n,) int8."""
        columns = (self._truth, self._score, self._call, self._category, self._length)
        truth, score, call, category, length = (np.array(column) for column in columns)
        return truth.astype(bool), score.astype(float), call.astype(bool), category.astype(int), length.astype(int)


def evaluate_from_table(
    table: str | Path,
    folders: Mapping[str, Path],
    output: str | Path,
    split: str | Path | None = None,
    contrasts: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """``evaluate`` with the labels of a table.

    Args:
        table: labelled files (one per sample, in order) or labelled records; see ``labels``.
        folders: sample name → folder of its tables.
        output, contrasts: see ``evaluate``.
        split: ``split.tsv`` of a training; only its test part is measured.
    """
    if has_fasta(table):
        labels = dict(zip(folders, (row.label for row in read_labelled_fasta(table)), strict=True))
        records = {}
    else:
        labels, records = {}, read_labelled_records(table)
    samples = [
        Labelled(name, *(folder / f"{level}.tsv" for level in ("predictions", "chunks", "contigs")), labels.get(name), records)
        for name, folder in folders.items()
    ]
    only = {(row["sample"], row["record"]) for row in _rows(Path(split)) if row["part"] == "test"} if split else None
    return evaluate(samples, output, only=only, contrasts=contrasts)


def evaluate(
    samples: Sequence[Labelled],
    output: str | Path,
    *,
    only: Collection[tuple[str, str]] | None = None,
    contrasts: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Measure per frame, chunk and record, and write everything to a folder.

    Levels are in ``LEVELS``. Groups within each: all items; each category; each contrast; each class of record
    length. A category of one class only is measured against all items of the other class.

    Args:
        samples: tables of ``predict`` and their labels.
        output: folder for ``metrics.tsv``, ``reliability.tsv``, ``evaluation.json``, ``.png`` and ``.svg``.
        only: (sample name, record) pairs to look at, such as the test part of a split; all otherwise.
        contrasts: name → categories that are measured apart from all others, such as phages and prokaryotes.

    Returns:
        What the JSON holds.

    Raises:
        InputError: a record has no label, or nothing is left to look at.
    """
    output = Path(output)
    categories: dict[str, int] = {}
    items = {level: _Items() for level in LEVELS}
    excluded = {True: 0, False: 0}
    for sample in samples:
        lengths: dict[str, tuple[Label, int, int]] = {}
        for row in _rows(sample.contigs):
            if only is not None and (sample.name, row["record"]) not in only:
                continue
            label = sample.label_of(row["record"])
            category = categories.setdefault(label.category, len(categories))
            length = int(np.searchsorted(LENGTHS, int(row["length"]), side="right")) - 1
            lengths[row["record"]] = (label, category, length)
            _add(items, "contig", lengths[row["record"]], row["call"], row["mean_score"], UNSCORED)
        for row in _rows(sample.chunks):
            if about := lengths.get(row["record"]):
                excluded[about[0].viral] += row["call"] == NO_OPEN_FRAME
                _add(items, "chunk", about, row["call"], row["score"], NO_OPEN_FRAME)
        for row in _rows(sample.predictions):
            if about := lengths.get(row["record"]):
                items["frame"].add(about[0], float(row["score_virus"]), row["label"] == "virus", *about[1:])
    columns = {level: part.arrays() for level, part in items.items()}
    if not len(columns["contig_all"][0]):
        raise InputError("There is nothing to evaluate: no record of these samples is in the list.")
    names = list(categories)
    measured = [
        {"level": level, "group": kind, "name": name, **binary_metrics(*(part[rows] for part in arrays[:3]))}
        for level, arrays in columns.items()
        for kind, name, rows in _groups(arrays, names, contrasts or {})
    ]
    curves = {level: reliability(truth, score) for level, (truth, score, *_) in columns.items()}
    result = {
        "levels": LEVELS,
        "samples": [sample.name for sample in samples],
        "chunks_without_open_frame": {"viral": excluded[True], "non-viral": excluded[False]},
        "metrics": measured,
        "reliability": curves,
    }
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "metrics.tsv", ("level", "group", "name", *METRICS), measured)
    flat = [{"level": level, **row} for level, rows in curves.items() for row in rows]
    _write(output / "reliability.tsv", tuple(flat[0]), flat)
    _plot(output, columns, curves)
    with atomic_file(output / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _add(
    items: Mapping[str, _Items], level: str, about: tuple[Label, int, int], call: str, score: str, without: str
) -> None:
    """Add an item to its level if it has a score, and to the level that counts all in any case."""
    label, category, length = about
    value = 0.0 if call == without else float(score)
    for name in (f"{level}_all",) if call == without else (level, f"{level}_all"):
        items[name].add(label, value, call == VIRAL, category, length)


def _groups(
    arrays: tuple[np.ndarray, ...], names: Sequence[str], contrasts: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(kind, name, rows (n,) bool) of every group of one level's items."""
    truth, _, _, category, length = arrays
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


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Run the prediction first.") from None


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})


def _plot(output: Path, columns: Mapping[str, tuple[np.ndarray, ...]], curves: Mapping[str, Any]) -> None:
    """ROC, precision-recall and reliability of each level in one figure, as PNG and SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve, roc_curve

    # Without the salt and the date, equal data would give different files.
    with rc_context({"svg.hashsalt": "virnucpro"}):
        figure = Figure(figsize=(13, 4), layout="constrained")
        titles = ("ROC", "precision-recall", "reliability")
        axes = dict(zip(titles, figure.subplots(1, 3), strict=True))
        for level, (truth, score, *_) in columns.items():
            if 0 < truth.sum() < len(truth):
                false, true, _ = roc_curve(truth, score)
                axes["ROC"].plot(false, true, label=level)
                precision, recall, _ = precision_recall_curve(truth, score)
                axes["precision-recall"].plot(recall, precision, label=level)
            rows = [row for row in curves[level] if row["items"]]
            points = [row["mean_score"] for row in rows], [row["viral_share"] for row in rows]
            axes["reliability"].plot(*points, marker="o", label=level)
        for title, x, y in zip(
            titles,
            ("false positive rate", "recall", "mean score"),
            ("true positive rate", "precision", "viral share"),
            strict=True,
        ):
            axes[title].set(title=title, xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for title in ("ROC", "reliability"):
            axes[title].plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        axes["reliability"].legend(frameon=False)
        for kind in ("png", "svg"):
            with atomic_file(output / f"evaluation.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
