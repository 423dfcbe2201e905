"""Labelled items sorted by score once, for the figures of many weightings of them: ROC and precision-recall."""

from __future__ import annotations

import numpy as np


class Ranking:
    """Items of both classes in the order of their scores.

    Weights (n,) are in the order in which the n items were given; those of each class must have a sum above 0. ``auroc`` and
    ``average_precision`` are scikit-learn's, with its ``sample_weight``. Sorting is what takes time, so a bootstrap asks one
    ranking for all of its draws.
    """

    def __init__(self, viral: np.ndarray, scores: np.ndarray) -> None:
        """``viral`` (n,) bool; ``scores`` (n,) float; ValueError if one is infinite or NaN."""
        if not np.isfinite(scores).all():
            raise ValueError("a score is infinite or NaN")
        order = np.argsort(scores, kind="stable")
        self._viral, self._others = order[viral[order]], order[~viral[order]]  # places in weights, by score
        found, false = scores[self._viral], scores[self._others]
        self._below = np.searchsorted(false, found)  # of each viral item: how many others are below it
        self._up_to = np.searchsorted(false, found, side="right")
        self._above = np.searchsorted(found, false, side="right")  # of each other: the first viral item above it
        self._equal = np.searchsorted(found, found)  # of each viral item: the first one with its score

    def auroc(self, weights: np.ndarray) -> float:
        """The share of (viral, other) pairs in order, half of the ties included."""
        return self.auroc_and_recall(weights, 0)[0]

    def recall_at(self, weights: np.ndarray, share: float) -> float:
        """Recall at the lowest threshold from which on at most ``share`` of the others' weight is."""
        return self.auroc_and_recall(weights, share)[1]

    def auroc_and_recall(self, weights: np.ndarray, share: float) -> tuple[float, float]:
        """``auroc`` and ``recall_at``, in one pass."""
        found, false = weights[self._viral], self._summed(weights)
        viral, others = found.sum(), false[-1]
        area = found @ (false[self._below] + false[self._up_to]) / (2 * viral * others)
        # The highest of the others from which on there is too much: what is called lies above it.
        last = np.searchsorted(false[:-1], others * (1 - share - 1e-12)) - 1
        return float(area), float(found[self._above[last] :].sum() / viral)

    def average_precision(self, weights: np.ndarray) -> float:
        """The mean precision over the viral items, each at its own score as the threshold."""
        found, false = weights[self._viral], self._summed(weights)
        right = np.cumsum(found[::-1])[::-1][self._equal]
        return float(found @ (right / (right + false[-1] - false[self._below])) / found.sum())

    def _summed(self, weights: np.ndarray) -> np.ndarray:
        """(others + 1,) float: the weight of the lowest 0, 1, … others."""
        sums = np.zeros(len(self._others) + 1)
        np.cumsum(weights[self._others], out=sums[1:])
        return sums
