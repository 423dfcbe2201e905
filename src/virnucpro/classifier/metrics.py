"""How good scores are, given the truth, with or without weights. One class alone gives ``None``, not an error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from virnucpro.classifier.ranking import Ranking

BINS = 10
FALSE_POSITIVES = 0.01
"""The share of false positives at which recall is told."""

_Z = 1.959964  # of 95 %

METRICS = (
    *("items", "positives", "auroc", "average_precision", "f1", "mcc", "precision", "recall", "specificity"),
    *("brier", "calibration_error", "recall_at_1"),
)


def binary_metrics(
    truth: np.ndarray,
    scores: np.ndarray,
    calls: np.ndarray,
    weights: np.ndarray | None = None,
    ranking: Ranking | None = None,
) -> dict[str, Any]:
    """A value for each of ``METRICS``; ``None`` where it isn't defined (no item, or one class only).

    All but ``items`` and ``positives``, which are counts, are weighted. ``recall_at_1`` is at ``FALSE_POSITIVES``.

    Args:
        truth: (n,) bool, viral or not.
        scores: (n,) float in 0 … 1.
        calls: (n,) bool.
        weights: (n,) float above 0; 1 for all if not given.
        ranking: of the same items, where they are ordered by something finer than their scores.
    """
    positives, items = int(truth.sum()), len(truth)
    found: dict[str, Any] = dict.fromkeys(METRICS) | {"items": items, "positives": positives}
    if not items:
        return found
    weights = np.ones(items) if weights is None else weights
    # Of four cells, so in one pass; a product of float and bool is slow.
    spared, wrong, missed, right = np.bincount(2 * truth.astype(np.int64) + calls, weights, 4).tolist()
    found["brier"] = float(weights @ (scores - truth) ** 2 / weights.sum())
    found["calibration_error"] = calibration_error(reliability(truth, scores, weights))
    if positives:
        found["recall"] = right / (right + missed)
    if positives < items:
        found["specificity"] = spared / (spared + wrong)
    if calls.any():
        found["precision"] = right / (right + wrong)
    if 0 < positives < items:
        ranking = ranking or Ranking(truth, scores)
        found["auroc"], found["recall_at_1"] = ranking.auroc_and_recall(weights, FALSE_POSITIVES)
        found["average_precision"] = ranking.average_precision(weights)
        found["f1"] = 2 * right / (2 * right + wrong + missed)
        spread = math.sqrt((right + wrong) * (right + missed) * (spared + wrong) * (spared + missed))
        found["mcc"] = (right * spared - wrong * missed) / spread if spread else 0.0
    return found


def reliability(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Items, mean score and share of viral items in equal-width bins of the score; the last bin includes 1.

    With ``weights`` (n,), means and shares are weighted, and ``weight`` is each bin's share of all.
    """
    which = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    given = np.ones(len(truth)) if weights is None else weights
    items = np.bincount(which, minlength=BINS)
    total, score, viral = (np.bincount(which, given * values, BINS) for values in (1, scores, truth))
    rows = []
    for number in range(BINS):
        row: dict[str, Any] = {"low": number / BINS, "high": (number + 1) / BINS, "items": int(items[number])}
        if weights is not None:
            row["weight"] = float(total[number] / total.sum()) if len(truth) else 0.0
        row["mean_score"] = float(score[number] / total[number]) if row["items"] else None
        row["viral_share"] = float(viral[number] / total[number]) if row["items"] else None
        rows.append(row)
    return rows


def calibration_error(rows: list[dict[str, Any]]) -> float:
    """Expected calibration error: mean |score − share| over the bins, by their weights or items (Naeini et al. 2015)."""
    counts = [row.get("weight", row["items"]) for row in rows]
    errors = [abs(row["mean_score"] - row["viral_share"]) if row["items"] else 0.0 for row in rows]
    return sum(count * error for count, error in zip(counts, errors, strict=True)) / sum(counts)


def wilson(found: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, ``found`` ``of`` so many (1 or more): which shares agree with that by chance."""
    share, z = found / of, _Z * _Z / of
    middle, half = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    return (middle - half) / (1 + z) if found else 0.0, (middle + half) / (1 + z) if found < of else 1.0
