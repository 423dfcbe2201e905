"""Result tables + labels → how good the predictions are: tables, plots, a JSON, and a page to read.

Figures come in two ways: plain, in which each item weighs the same, and weighted, in which classes, categories and
groups do (``weighted.group_weights``). A sample of new kinds of sequence sees the latter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.classifier.control_evaluation import COLUMNS as CONTROL_COLUMNS
from virnucpro.classifier.control_evaluation import evaluate_controls
from virnucpro.classifier.evaluation_files import summary, write_contigs, write_plot
from virnucpro.classifier.items import CALLS, LEVELS, Level, Tables, read_tables
from virnucpro.classifier.labels import Labelled, labelled_samples, read_test_part
from virnucpro.classifier.metrics import FALSE_POSITIVES, METRICS, binary_metrics, reliability
from virnucpro.classifier.region_evaluation import IMPLANT_COLUMNS, REGION_COLUMNS, evaluate_regions
from virnucpro.classifier.region_model import DEFAULT, RegionModel
from virnucpro.classifier.spec import read_classifier_spec
from virnucpro.classifier.weighted import intervals, realised_fdr
from virnucpro.io import atomic_file
from virnucpro.provenance import RunRecord, origins
from virnucpro.result_tables import AMBIGUOUS, NON_VIRAL, UNSCORED, VIRAL, write_table

logger = logging.getLogger(__name__)

LENGTHS = (0, 500, 1000, 3000, 10_000)
"""Lower ends, in bases, of the classes of record length."""
LONG = 3000
"""Contrasts are measured a second time on records of so many bases and more."""
MIN_GROUPS = 5
"""With fewer groups, a category's figures are marked: they may not hold for others of its kind."""
PREVALENCES = (0.01, 0.05, 0.2)
"""Shares of viral contigs for which the precision of calls is told."""
SIMULATED = (0.05, 0.2)
"""Those of the simulated samples."""
SIZE, FDR = 500, 0.1
"""Contigs of a simulated sample, and the false discovery rate that is asked for."""
DRAWS = 500
"""Of groups, for an interval."""

_INTERVALS = ("auroc", "recall_at_1")
_UNWEIGHTED = ("items", "positives")
METRIC_COLUMNS = (
    *("level", "group", "name", *METRICS, "viral_groups", "non_viral_groups", "few_groups"),
    *(f"weighted_{name}" for name in METRICS if name not in _UNWEIGHTED),
    *(f"weighted_{name}_{end}" for name in _INTERVALS for end in ("low", "high")),
)
CALL_COLUMNS = (
    *(
        "group",
        "name",
        "weights",
        "viral_contigs",
        "non_viral_contigs",
        "viral_groups",
        "non_viral_groups",
        "few_groups",
    ),
    *(
        "recall",
        "false_positive_rate",
        "ambiguous_viral",
        "ambiguous_non_viral",
        "unscored_viral",
        "unscored_non_viral",
    ),
    *("precision_1", "precision_5", "precision_20"),
)
FDR_COLUMNS = (
    *("group", "name", "viral_share", "contigs", "fdr", "false_share", "false_share_low", "false_share_high"),
    *("recall", "called", "estimated", "estimated_low", "estimated_high", "told"),
)
CATEGORY_COLUMNS = (
    *("category", "viral", "contigs", "groups", "few_groups"),
    *("called_viral", "called_ambiguous", "called_non_viral", "unscored"),
)
CONFUSION_COLUMNS = ("category", "named", "contigs", "share")
RELIABILITY_COLUMNS = ("level", "weights", "low", "high", "items", "weight", "mean_score", "viral_share")
_Group = tuple[str, str, np.ndarray]


def evaluate_from_table(
    table: str | Path,
    folders: Mapping[str, Path],
    output: str | Path,
    split: str | Path | None = None,
    contrasts: Mapping[str, Collection[str]] | None = None,
    classifier: str | Path | None = None,
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """``evaluate`` with the labels of a table of files (one per sample, in order) or of records; see ``labels``.

    ``folders`` are sample name → folder of its tables; of a training's ``split.tsv`` only the test part is measured.
    ``classifier`` is the file whose parameters find the regions; the default ones do without.
    """
    only = read_test_part(split) if split else None
    samples = labelled_samples(table, folders, headers=True)
    regions = read_classifier_spec(classifier).read_regions(classifier) if classifier else DEFAULT
    return evaluate(samples, output, only=only, contrasts=contrasts, regions=regions, run=run)


def evaluate(
    samples: Sequence[Labelled],
    output: str | Path,
    *,
    only: Collection[tuple[str, str]] | None = None,
    contrasts: Mapping[str, Collection[str]] | None = None,
    regions: RegionModel = DEFAULT,
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """Measure per frame, chunk and record (``LEVELS``), write everything to a folder, and return what the JSON holds.

    Parts of each level: all items; each category; each contrast, and of it records of ``LONG`` bases and more; each class
    of record length. A category of one class only is measured against all items of the other class. Intervals are of
    all parts of ``contig_all``, of other levels for all items and contrasts, which keeps it fast.

    Args:
        samples: tables of ``predict`` and their labels.
        output: folder for ``metrics.tsv``, ``calls.tsv``, ``fdr.tsv``, ``categories.tsv``, ``confusion.tsv``,
            ``reliability.tsv``, ``region_metrics.tsv``, ``implants.tsv``, ``controls.tsv``, ``contigs.tsv``, ``evaluation.json``, ``.md``, ``.png``, ``.svg``.
        only: (sample name, record) pairs to look at, such as the test part of a split; all otherwise.
        contrasts: name → categories that are measured apart from all others, such as phages and prokaryotes.
        regions: the classifier's parameters of regions, which are measured on implants made of the tables.
        run: kept in the JSON, as is how the tables were made.

    Raises:
        InputError: a record has no label, nothing is left to look at, or only some samples have probabilities.
        StorageError: a table is missing, or of another version.
    """
    output = Path(output)
    tables = read_tables(samples, only)
    logger.info(
        "read %d contigs, %d chunks, %d frames",
        *(len(of.contig) for of in (tables.contigs, tables.chunks, tables.frames)),
    )
    levels = {name: tables.level(name) for name in LEVELS}
    contrasts = contrasts or {}
    unscored = tables.chunks.call == CALLS.index(UNSCORED)
    of_class = tables.viral[tables.chunks.contig]
    curves = {name: reliability(level.viral, level.score) for name, level in levels.items()}
    weighted_curves = {
        name: reliability(level.viral, level.even, level.weights) for name, level in levels.items() if level.both
    }
    result: dict[str, Any] = {
        "run": (run or RunRecord()).as_dict(),
        "levels": LEVELS,
        "samples": [sample.name for sample in samples],
        "predicted": origins(sample.folder for sample in samples),
        "calibrated": tables.calibrated,
        "unscored_chunks": {"viral": int(sum(unscored & of_class)), "non-viral": int(sum(unscored & ~of_class))},
        "metrics": [
            {"level": name, "group": kind, "name": part} | _figures(name, kind, level.part(rows))
            for name, level in levels.items()
            for kind, part, rows in _groups(level, tables.categories, contrasts)
        ],
        "contig_calls": list(_all_calls(levels["contig_all"], tables.categories, contrasts)),
        "false_discovery": list(_false_discovery(levels["contig"], tables.categories, contrasts)),
        "by_category": list(_by_category(levels["contig_all"], tables.categories)),
        "confusion": list(_confusion(tables)),
        "regions": evaluate_regions(tables, regions),
        "controls": evaluate_controls(sample.folder for sample in samples),
        "reliability": curves,
        "weighted_reliability": weighted_curves,
    }
    text = summary(result)
    output.mkdir(parents=True, exist_ok=True)
    write_table(output / "metrics.tsv", METRIC_COLUMNS, result["metrics"])
    write_table(output / "calls.tsv", CALL_COLUMNS, result["contig_calls"])
    write_table(output / "fdr.tsv", FDR_COLUMNS, result["false_discovery"])
    write_table(output / "categories.tsv", CATEGORY_COLUMNS, result["by_category"])
    write_table(output / "confusion.tsv", CONFUSION_COLUMNS, result["confusion"])
    write_table(output / "region_metrics.tsv", REGION_COLUMNS, result["regions"]["metrics"])
    write_table(output / "implants.tsv", IMPLANT_COLUMNS, result["regions"]["implants"])
    write_table(output / "controls.tsv", CONTROL_COLUMNS, result["controls"])
    flat = [
        {"level": level, "weights": weights, **row}
        for weights, of in (("items", curves), ("groups", weighted_curves))
        for level, rows in of.items()
        for row in rows
    ]
    write_table(output / "reliability.tsv", RELIABILITY_COLUMNS, flat)
    write_contigs(output / "contigs.tsv", tables)
    write_plot(output / "evaluation", levels, curves)
    with atomic_file(output / "evaluation.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_file(output / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    logger.info("how good it is, as in %s:\n\n%s", output / "evaluation.md", text)
    return result


def _groups(level: Level, names: Sequence[str], contrasts: Mapping[str, Collection[str]]) -> Iterator[_Group]:
    """(kind, name, rows (n,) bool) of every part of a level that is measured."""
    yield "all", "", np.ones(len(level.viral), bool)
    for number, name in enumerate(names):
        rows = level.category == number
        if name and rows.any():
            classes = set(level.viral[rows].tolist())
            if len(classes) == 1:
                rows = rows | (level.viral != classes.pop())
            yield "category", name, rows
    yield from _contrasts(level, names, contrasts)
    for number, low in enumerate(LENGTHS):
        rows = np.searchsorted(LENGTHS, level.length, side="right") - 1 == number
        if rows.any():
            high = f"-{LENGTHS[number + 1] - 1}" if number + 1 < len(LENGTHS) else "+"
            yield "length", f"{low}{high}", rows


def _contrasts(level: Level, names: Sequence[str], contrasts: Mapping[str, Collection[str]]) -> Iterator[_Group]:
    """(kind, name, rows) of each contrast, and of its long records."""
    for name, members in contrasts.items():
        rows = np.isin(level.category, [i for i, known in enumerate(names) if known in members])
        yield "contrast", name, rows
        yield "contrast", f"{name}, {LONG}+", rows & (level.length >= LONG)


def _figures(name: str, kind: str, part: Level) -> dict[str, Any]:
    """A row of ``metrics.tsv``, all but its first three columns."""
    called = part.call == CALLS.index(VIRAL)
    row: dict[str, Any] = dict.fromkeys(METRIC_COLUMNS[3:]) | _counted(part)
    row |= binary_metrics(part.viral, part.score, called, None, part.ranking if part.both else None)
    if not part.both:
        return row
    weights, ranking = part.weights, part.ranking
    weighted = binary_metrics(part.viral, part.even, called, weights, ranking)
    row |= {f"weighted_{key}": value for key, value in weighted.items() if key not in _UNWEIGHTED}
    # One group can't be drawn otherwise: it would look as if its class were known exactly.
    drawable = min(row["viral_groups"], row["non_viral_groups"]) > 1
    if drawable and (name == "contig_all" or kind in ("all", "contrast")):
        both = intervals(
            lambda drawn: ranking.auroc_and_recall(drawn, FALSE_POSITIVES), part.viral, part.group, part.category, DRAWS
        )
        for key, found in zip(_INTERVALS, both, strict=True):
            row |= {f"weighted_{key}_low": found.low, f"weighted_{key}_high": found.high}
    return row


def _counted(part: Level) -> dict[str, Any]:
    """Groups of each class, and whether one that is there has few."""
    counts = {"viral_groups": part.groups(True), "non_viral_groups": part.groups(False)}
    return counts | {"few_groups": any(0 < count < MIN_GROUPS for count in counts.values())}


def _all_calls(
    level: Level, names: Sequence[str], contrasts: Mapping[str, Collection[str]]
) -> Iterator[dict[str, Any]]:
    """The rows of ``calls.tsv``: of each part, with groups and with contigs weighing the same."""
    for kind, name, rows in _groups(level, names, contrasts):
        part = level.part(rows)
        about = {"viral_contigs": int(part.viral.sum()), "non_viral_contigs": int((~part.viral).sum())} | _counted(part)
        for which, weights in (("groups", part.weights), ("items", np.ones(len(part.viral)))):
            shares = {
                viral: _shares(part.call[of], weights[of]) for viral, of in ((True, part.viral), (False, ~part.viral))
            }
            recall, false = (shares[viral].get(VIRAL) for viral in (True, False))
            row: dict[str, Any] = {"group": kind, "name": name, "weights": which, **about}
            row |= {"recall": recall, "false_positive_rate": false}
            for call in (AMBIGUOUS, UNSCORED):
                row |= {f"{call}_viral": shares[True].get(call), f"{call}_non_viral": shares[False].get(call)}
            for prevalence in PREVALENCES:
                row[f"precision_{100 * prevalence:.0f}"] = _precision(recall, false, prevalence)
            yield row


def _shares(calls: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Call → weighted share of these calls (n,); empty without any."""
    if not len(calls):
        return {}
    found = np.bincount(calls, weights, len(CALLS)) / weights.sum()
    return dict(zip(CALLS, found.tolist(), strict=True))


def _precision(recall: float | None, false: float | None, prevalence: float) -> float | None:
    """Share of the calls that are right where a share ``prevalence`` is viral; None if nothing is called."""
    if recall is None or false is None or not recall + false:
        return None
    return prevalence * recall / (prevalence * recall + (1 - prevalence) * false)


def _false_discovery(
    level: Level, names: Sequence[str], contrasts: Mapping[str, Collection[str]]
) -> Iterator[dict[str, Any]]:
    """The rows of ``fdr.tsv``: all contigs, and each contrast, in simulated samples; none without logits of both classes."""
    if not level.calibrated:
        return
    for kind, name, rows in (("all", "", np.ones(len(level.viral), bool)), *_contrasts(level, names, contrasts)):
        part = level.part(rows)
        for share in SIMULATED if part.both else ():
            found = realised_fdr(part.viral, part.rank, part.weights, share, SIZE, FDR)
            row = {"group": kind, "name": name, "viral_share": share, "contigs": SIZE, "fdr": FDR}
            for key, interval in (("false_share", found.false_share), ("estimated", found.prevalence)):
                row |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
            yield row | {"recall": found.recall, "called": found.called, "told": found.told}


def _by_category(level: Level, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of ``categories.tsv``: how the contigs of each category and class are called; groups weigh the same."""
    for viral in (True, False):
        for number, name in enumerate(names):
            part = level.part((level.category == number) & (level.viral == viral))
            if not len(part.viral):
                continue
            groups, shares = part.groups(viral), _shares(part.call, part.weights)
            yield {
                "category": name,
                "viral": viral,
                "contigs": len(part.viral),
                "groups": groups,
                "few_groups": groups < MIN_GROUPS,
                "called_viral": shares[VIRAL],
                "called_ambiguous": shares[AMBIGUOUS],
                "called_non_viral": shares[NON_VIRAL],
                "unscored": shares[UNSCORED],
            }


def _confusion(tables: Tables) -> Iterator[dict[str, Any]]:
    """The rows of ``confusion.tsv``: contigs by category and by the one named, if the classifier names any."""
    if not any(tables.called):
        return
    named = np.array(tables.called)
    for number, name in enumerate(tables.categories):
        rows = tables.category == number
        words, counts = np.unique(named[rows], return_counts=True)
        for word, count in zip(words.tolist(), counts.tolist(), strict=True):
            yield {"category": name, "named": word, "contigs": count, "share": count / int(rows.sum())}
