"""What an evaluation found, to be read: a page, plots, and a table of the contigs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.classifier.items import CALLS, LEVELS, Level, Tables
from virnucpro.rendering import saved_figure
from virnucpro.result_tables import FITTED, write_table

CONTIG_COLUMNS = (
    *("sample", "record", "group", "category", "viral", "length"),
    *("score", "probability", "logit", "call", "named"),
)
_INTERVAL = "95 % interval"
_POINTS = 1000
"""Of a curve: more can't be seen."""


def write_contigs(path: Path, tables: Tables) -> None:
    """Write a row per contig that was measured, for figures of one's own."""
    names = ("score", "probability", "logit")

    def rows() -> Iterator[dict[str, Any]]:
        for number, (record, call, values) in enumerate(
            zip(tables.record, tables.contigs.call.tolist(), tables.contigs.numbers.tolist(), strict=True)
        ):
            group = tables.groups[tables.group[number]]
            yield {
                "sample": tables.sample[number],
                "record": record,
                "group": "" if "\t" in group else group,
                "category": tables.categories[tables.category[number]],
                "viral": int(tables.viral[number]),
                "length": int(tables.length[number]),
                **{name: value for name, value in zip(names, values, strict=True) if value == value},
                "call": CALLS[call],
                "named": tables.called[number],
            }

    write_table(path, CONTIG_COLUMNS, rows())


def summary(result: Mapping[str, Any]) -> str:
    """The figures that a person looks at first, as Markdown that can be read as it is."""
    whole = {row["level"]: row for row in result["metrics"] if row["group"] == "all"}
    calls = [row for row in result["contig_calls"] if row["weights"] == "groups"]
    overall = calls[0]
    lines = [
        "# Evaluation",
        "",
        f"{overall['viral_contigs']:,} viral contigs of {overall['viral_groups']:,} groups, "
        f"{overall['non_viral_contigs']:,} others of {overall['non_viral_groups']:,}. {_decided(result)}",
        "",
        "In what follows classes, categories and groups weigh the same, whatever their numbers of contigs and chunks; figures in",
        "which each item does are in metrics.tsv and calls.tsv. Intervals are of drawing the groups anew. * is fewer than 5 groups",
        "of a class: there the figures may not hold for others of the kind.",
        "",
        *_table(
            ("", "items", "viral", "AUROC", _INTERVAL, "recall at 1 % false positives", _INTERVAL, "calibration error"),
            [
                (
                    LEVELS[level],
                    f"{row['items']:,}",
                    f"{row['positives']:,}",
                    *_quality(row),
                    _text(row["weighted_calibration_error"]),
                )
                for level, row in whole.items()
            ],
        ),
        "",
        "## Calls of contigs",
        "",
        *_table(
            ("", "viral ones", "others"),
            [
                ("called viral", _text(overall["recall"]), _text(overall["false_positive_rate"])),
                ("ambiguous", _text(overall["ambiguous_viral"]), _text(overall["ambiguous_non_viral"])),
                ("unscored", _text(overall["unscored_viral"]), _text(overall["unscored_non_viral"])),
            ],
        ),
        "",
        "Of those called viral are right, where 1, 5 or 20 % of the contigs are viral: "
        + ", ".join(_text(overall[f"precision_{share}"]) for share in (1, 5, 20))
        + ".",
    ]
    if found := [row for row in result["false_discovery"] if row["group"] == "all"]:
        lines += ["", f"## Simulated samples of {found[0]['contigs']} contigs, fdr: {found[0]['fdr']}", ""]
        lines += _table(
            (
                "viral contigs",
                "false share of the calls",
                "in 95 % of samples",
                "recall",
                "viral, as estimated",
                "could be told",
            ),
            [
                (
                    *(f"{100 * row['viral_share']:.0f} %", _text(row["false_share"])),
                    _span(row, "false_share"),
                    *(_text(row[key]) for key in ("recall", "estimated", "told")),
                )
                for row in found
            ],
        )
    quality = {(row["group"], row["name"]): row for row in result["metrics"] if row["level"] == "contig_all"}
    if categories := [row for row in result["by_category"] if row["category"]]:
        lines += ["", "## Contigs by category, each against all of the other class", ""]
        lines += _table(
            ("", "class", "contigs", "groups", "called viral", "ambiguous", "unscored", "AUROC", _INTERVAL),
            [
                (
                    row["category"] + _mark(row),
                    "viral" if row["viral"] else "other",
                    *(f"{row[key]:,}" for key in ("contigs", "groups")),
                    *(_text(row[key]) for key in ("called_viral", "called_ambiguous", "unscored")),
                    *_quality(quality["category", row["category"]])[:2],
                )
                for row in categories
            ],
        )
    for kind, title in (("contrast", "Contigs by contrast"), ("length", "Contigs by length")):
        if rows := [row for row in calls if row["group"] == kind]:
            lines += ["", f"## {title}", ""]
            lines += _table(
                (
                    "",
                    "viral",
                    "others",
                    "AUROC",
                    _INTERVAL,
                    "recall at 1 %",
                    _INTERVAL,
                    "called viral",
                    "others called viral",
                ),
                [
                    (
                        row["name"] + _mark(row),
                        *(f"{row[key]:,}" for key in ("viral_contigs", "non_viral_contigs")),
                        *_quality(quality[kind, row["name"]]),
                        *(_text(row[key]) for key in ("recall", "false_positive_rate")),
                    )
                    for row in rows
                ],
            )
    lines += ["", "## Regions of implants", "", *_regions(result["regions"])]
    if controls := result["controls"]:
        lines += [
            "",
            "## Controls",
            "",
            "Shuffled contigs of the samples, and sequences given as not viral (docs/controls.md).",
            "",
        ]
        lines += _table(
            ("", "preset", "controls", "called viral", _INTERVAL, "ambiguous", "unscored"),
            [
                (
                    *(row["kind"], row["preset"] or "threshold", f"{row['controls']:,}", _text(row["share"])),
                    "–" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}",
                    *(f"{row[name]:,}" for name in ("ambiguous", "unscored")),
                )
                for row in controls
            ],
        )
    if confusion := result["confusion"]:
        named = sorted({row["named"] for row in confusion})
        counts = {(row["category"], row["named"]): row["contigs"] for row in confusion}
        lines += ["", "## Categories: contigs by the one that the classifier named", ""]
        lines += _table(
            ("", *(word or "none" for word in named)),
            [
                (category or "without", *(str(counts.get((category, word), 0)) for word in named))
                for category in dict.fromkeys(row["category"] for row in confusion)
            ],
        )
    return "\n".join(lines) + "\n"


def _regions(found: Mapping[str, Any]) -> list[str]:
    """How well viral parts of contigs were found, or why that isn't known."""
    if not found["metrics"]:
        return [f"Not measured: {found['reason']}."]
    first = found["metrics"][0]
    origin = "the classifier's own" if found["model"] == FITTED else "the default ones: this classifier's file has none"
    return [
        f"Viral contigs put into joined contigs of one non-viral group: {first['implants']:,} with such an implant, "
        f"{first['contigs'] - first['implants']:,} without.",
        f"Parameters of regions are {origin}. A region counts at 0.9 if the mean posterior of its chunks is at least that.",
        "implants.tsv has each implant.",
        "",
        *_table(
            (
                *("mean posterior", "bases found", "precision in bases", "false regions a megabase"),
                *("implants found", "boundary error, median kb"),
            ),
            [
                (
                    str(row["posterior"]),
                    *(_text(row[key]) for key in ("bases_found", "precision", "false_per_mb")),
                    f"{row['implants_found']:,}",
                    _text(row["boundary_kb"]),
                )
                for row in found["metrics"]
            ],
        ),
    ]


def write_plot(stem: Path, levels: Mapping[str, Level], curves: Mapping[str, Any]) -> None:
    """ROC, precision-recall and reliability of each level in one figure, as PNG and SVG; each item weighs the same."""
    with saved_figure(stem, 13, 4) as figure:
        roc, recall_precision, reliable = figure.subplots(1, 3)
        for name, level in levels.items():
            if level.both:
                recall, false, precision = _curve(level)
                roc.plot(false, recall, label=name)
                recall_precision.plot(recall[1:], precision[1:], label=name)
            points = [(row["mean_score"], row["viral_share"]) for row in curves[name] if row["items"]]
            reliable.plot(*zip(*points, strict=True) if points else ([], []), marker="o", label=name)
        roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        recall_precision.set(title="precision-recall", xlabel="recall", ylabel="precision")
        reliable.set(title="reliability", xlabel="mean score", ylabel="viral share")
        for axes in (roc, recall_precision, reliable):
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for axes in (roc, reliable):
            axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
        reliable.legend(frameon=False)


def _curve(level: Level) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, false positive rate and precision at up to ``_POINTS`` thresholds, from the highest; the first calls nothing."""
    viral = level.viral[::-1]
    ends = np.flatnonzero(np.append(np.diff(level.rank[::-1]) != 0, True))  # the last of equals
    kept = ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).round().astype(int))]
    right, called = np.append(0, np.cumsum(viral)[kept]), np.append(0, kept + 1)
    false = called - right
    return right / right[-1], false / false[-1], right / np.maximum(called, 1)


def _decided(result: Mapping[str, Any]) -> str:
    """What contigs were ordered and called by."""
    options = [made.get("configuration") or {} for made in result["predicted"]]
    if not result["calibrated"]:
        return (
            "The classifier isn't calibrated: figures are of its scores, nothing is ambiguous, and there are no "
            "probabilities to test (virnucpro classifier calibrate makes them)."
        )
    if options and options[0].get("threshold") is not None:
        return f"Ordered by calibrated logits; called by the threshold {options[0]['threshold']} of scores."
    return "Ordered by calibrated logits" + (
        f"; calls: {options[0]['calls']}." if options and "calls" in options[0] else "."
    )


def _quality(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """AUROC, its interval, recall at 1 % false positives, its interval."""
    auroc, recall = "weighted_auroc", "weighted_recall_at_1"
    return _text(row[auroc]), _span(row, auroc), _text(row[recall]), _span(row, recall)


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _span(row: Mapping[str, Any], key: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return "–" if low is None else f"{low:.3f} to {high:.3f}"


def _mark(row: Mapping[str, Any]) -> str:
    return " *" if row["few_groups"] else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns; all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return f"| {' | '.join([first.ljust(widths[0]), *right])} |"

    return [line(head), line(ruler), *map(line, rows)]
