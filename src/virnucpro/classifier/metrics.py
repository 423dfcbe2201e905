"""How good scores are, given the truth. scikit-learn computes; one class alone gives ``None``, not an error."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics

BINS = 10

METRICS = (
    *("items", "positives", "auroc", "average_precision", "f1", "mcc", "precision", "recall", "specificity"),
    *("brier", "calibration_error"),
)


def binary_metrics(truth: np.ndarray, scores: np.ndarray, calls: np.ndarray) -> dict[str, Any]:
    """A value for each of ``METRICS``; ``None`` where it isn't defined (no item, or one class only).

    Of n items: ``truth`` (n,) bool, viral or not; ``scores`` (n,) float in 0 … 1; ``calls`` (n,) bool.
    """
    positives, items = int(truth.sum()), len(truth)
    found: dict[str, Any] = dict.fromkeys(METRICS) | {"items": items, "positives": positives}
    if items:
        found["brier"] = float(np.mean((scores - truth) ** 2))
        found["calibration_error"] = calibration_error(reliability(truth, scores))
    if positives:
        found["recall"] = float(calls[truth].mean())
    if positives < items:
        found["specificity"] = float((~calls[~truth]).mean())
    if calls.any():
        found["precision"] = float(truth[calls].mean())
    if 0 < positives < items:
        found["auroc"] = float(metrics.roc_auc_score(truth, scores))
        found["average_precision"] = float(metrics.average_precision_score(truth, scores))
        found["f1"] = float(metrics.f1_score(truth, calls, zero_division=0))
        found["mcc"] = float(metrics.matthews_corrcoef(truth, calls))
    return found


def reliability(truth: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """Items, mean score and share of viral items in equal-width bins of the score; the last bin includes 1."""
    which = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    rows = []
    for number in range(BINS):
        inside = which == number
        row: dict[str, Any] = {"low": number / BINS, "high": (number + 1) / BINS, "items": int(inside.sum())}
        row["mean_score"] = float(np.mean(scores[inside])) if row["items"] else None
        row["viral_share"] = float(np.mean(truth[inside])) if row["items"] else None
        rows.append(row)
    return rows


def calibration_error(rows: list[dict[str, Any]]) -> float:
    """Expected calibration error: mean |score − share| over the bins, weighted by their items (Naeini et al. 2015)."""
    items = sum(row["items"] for row in rows)
    return sum(row["items"] * abs(row["mean_score"] - row["viral_share"]) for row in rows if row["items"]) / items
