"""The check's table and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.check.measure import STORED_AS_FLOAT16
from virnucpro.encoders.precision import PRECISIONS
from virnucpro.errors import ModelError
from virnucpro.rendering import how_many, saved_figure, text_table

_COLUMNS = {
    "encoder": "",
    "precision": "",
    "backend": "",
    "batching": "",
    "vectors": "",
    "reference": "",
    "relative_l2": ".1e",
    "relative_l2_rest": ".1e",
    "largest_difference": ".1e",
    "cosine": ".7f",
    "score_change": ".1e",
    "label_flips": "d",
}


def table(result: dict[str, Any]) -> str:
    """The rows as text; ``*`` marks the chosen way, which decides."""
    head = ["", *(name.replace("relative_l2", "rel_L2") for name in _COLUMNS), "gate"]
    lines = [head]
    for row in result["rows"]:
        cells = [format(row[name], spec) if name in row else "" for name, spec in _COLUMNS.items()]
        lines.append(["*" * row["chosen"], *cells, "passed" if row["passed"] else "FAILED"])
    frames = how_many(result["frames"], "frame")
    if result["partial_frames"]:
        frames += f" and {how_many(result['partial_frames'], 'partial frame')}"
    about = [
        f"{frames} on {result['device']}: {'PASSED' if result['passed'] else 'FAILED'}",
        "*: the chosen way of computing, which decides. The worst frame counts; rel_L2_rest leaves out outlier"
        " dimensions.",
        "Gates for rel_L2_rest (score_change): "
        + ", ".join(f"{name} {each.gate.relative_l2:g} ({each.gate.score:g})" for name, each in PRECISIONS.items())
        + f"; vectors stored as float16 ({STORED_AS_FLOAT16:g})",
    ]
    if rest := len(result["not_available"]):
        about.append(f"{rest} other precisions or backends can't run here; not_available in check.json says why.")
    return "\n".join([text_table(lines, left=len(head)), "", *about])


def plot(output: Path, rows: Sequence[tuple[dict[str, Any], np.ndarray | None]]) -> None:
    """The errors of all frames, a box for each row with vectors, and its gate: ``check.png`` and ``check.svg``."""
    shown = [(row, np.maximum(errors, 1e-9)) for row, errors in rows if errors is not None][::-1]
    with saved_figure(output / "check", 9, 1.2 + 0.35 * len(shown)) as figure:
        axes = figure.subplots()
        axes.boxplot([errors for _, errors in shown], orientation="horizontal", whis=(0, 100))
        for place, (row, _) in enumerate(shown, start=1):
            gate = PRECISIONS[row["precision"]].gate.relative_l2
            axes.plot([gate, gate], [place - 0.4, place + 0.4], color="C0" if row["passed"] else "C3", linewidth=3)
        names = ("encoder", "precision", "backend", "reference")
        labels = [("* " if row["chosen"] else "") + " · ".join(row[name] for name in names) for row, _ in shown]
        axes.set(xscale="log", yticks=range(1, len(shown) + 1), yticklabels=labels)
        axes.set(xlabel="relative L2 to the reference without outlier dimensions, per frame; bar: gate")


def refuse_failed(path: Path) -> None:
    """Raise ModelError if the chosen way of computing exceeded a gate, by what ``check.json`` says."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    if failed := [row for row in rows if row["chosen"] and not row["passed"]]:
        names = ", ".join(f"{row['encoder']} against {row['reference']}" for row in failed)
        raise ModelError(
            f"The chosen way of computing differs too much from its reference: {names}. See {path.with_suffix('.txt')}; "
            "choose another precision or attention backend, batching: original, or vectors: float32."
        )
