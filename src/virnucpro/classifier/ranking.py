"""Labelled items sorted by score once, for the figures of many weightings of them: ROC and precision-recall."""

from __future__ import annotations

import numpy as np


class Ranking:
    """n items, one or more, in the order of their scores.

    Weights (n,) are in the order in which the items were given; those of each class must have a sum above 0. With weights of 1, ``auroc``
    and ``average_precision`` are scikit-learn's; with others they are those of its ``sample_weight``. Sorting is what takes
    time, so a bootstrap asks one ranking for all of its draws. Items that are sorted already cost least.
    """

    def __init__(self, viral: np.ndarray, scores: np.ndarray) -> None:
        """``viral`` (n,) bool; ``scores`` (n,) float; ValueError if one is infinite or NaN."""
        if not np.isfinite(scores).all():
            raise ValueError("a score is infinite or NaN")
        order = np.argsort(scores, kind="stable")
        self._order = None if np.array_equal(order, np.arange(len(order))) else order
        ordered = scores[order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of equal scores
        self._viral = viral[order]

    def auroc(self, weights: np.ndarray) -> float:
        """The share of (viral, other) pairs in order, half of the ties included."""
        found, false = self._by_score(weights)
        below = np.cumsum(false) - false / 2
        return float(found @ below / (found.sum() * false.sum()))

    def average_precision(self, weights: np.ndarray) -> float:
        """The mean precision over the viral items, each at its own score as the threshold."""
        found, false = (sums[::-1] for sums in self._by_score(weights))
        right, all_ = np.cumsum(found), np.cumsum(found + false)
        return float(found @ np.divide(right, all_, out=np.zeros(len(all_)), where=all_ > 0) / right[-1])

    def recall_at(self, weights: np.ndarray, share: float) -> float:
        """Recall at the lowest threshold from which on at most ``share`` of the others' weight is."""
        return self.auroc_and_recall(weights, share)[1]

    def auroc_and_recall(self, weights: np.ndarray, share: float) -> tuple[float, float]:
        """``auroc`` and ``recall_at``, in one pass."""
        found, false = self._by_score(weights)
        up_to = np.cumsum(false)
        viral, others = found.sum(), up_to[-1]
        above = others - up_to + false  # the others' weight from each score on
        first = np.searchsorted(-above, -(share + 1e-12) * others)
        area = found @ (up_to - false / 2) / (viral * others)
        return float(area), float(found[first:].sum() / viral)

    def _by_score(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weight of the viral and of the other items at each distinct score, from the lowest score up."""
        weights = weights if self._order is None else weights[self._order]
        found = np.add.reduceat(weights * self._viral, self._starts)
        return found, np.add.reduceat(weights, self._starts) - found
