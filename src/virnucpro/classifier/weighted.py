"""Figures over labelled scores in which classes and groups weigh the same: curves, AUROC, intervals, realised FDR.

``metrics`` counts every item once; here a class, and a group (genome, organism) within it, weighs the same whatever the
number of its contigs and chunks. Give held-out logits (``calibrating.hold_out``) for what new groups would see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from virnucpro.classifier.evidence import estimate_prevalence, probability, q_values
from virnucpro.classifier.metrics import BINS
from virnucpro.classifier.ranking import Ranking


class Interval(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


class Realised(NamedTuple):
    """What simulated samples had: means, and the interval that 95 % of the samples are in."""

    false_share: Interval  # of the calls; 0 where nothing is called
    recall: float
    called: float  # contigs
    prevalence: Interval  # as estimated
    told: float  # share of the samples whose prevalence could be told


def group_weights(viral: np.ndarray, group: np.ndarray, category: np.ndarray | None = None) -> np.ndarray:
    """Weights (n,) that sum to 1 in each class.

    In a class each category weighs the same (without ``category`` there is one), in it each group, in that each item. So
    a host of which there is one genome isn't lost among those of which there are many.
    """
    weights = np.zeros(len(viral))
    names, unit = np.unique(group, return_inverse=True)
    category = np.zeros(len(viral), np.int64) if category is None else np.unique(category, return_inverse=True)[1]
    unit = category * len(names) + unit  # a group's items of one category; one number, since rows are slow to sort
    for label in np.unique(viral):
        rows = viral == label
        units, place, times = np.unique(unit[rows], return_inverse=True, return_counts=True)
        groups = np.bincount(units // len(names))
        weights[rows] = 1 / (np.count_nonzero(groups) * groups[category[rows]] * times[place])
    return weights


def reliability(viral: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> list[dict[str, Any]]:
    """The calibration curve in equal-width bins of the probability at equal prior; means are weighted, items counted.

    Like ``metrics.reliability``, which weighs nothing. Each bin's ``weight`` is its share of all.
    """
    guess = probability(logits, 0.5)
    which = np.minimum((guess * BINS).astype(np.int64), BINS - 1)
    rows = []
    for number in range(BINS):
        inside = which == number
        weight = float(weights[inside].sum())
        row: dict[str, Any] = {"low": number / BINS, "high": (number + 1) / BINS, "items": int(inside.sum())}
        row["weight"] = weight / float(weights.sum())
        row["mean_probability"] = float(weights[inside] @ guess[inside]) / weight if weight else None
        row["viral_share"] = float(weights[inside] @ viral[inside]) / weight if weight else None
        rows.append(row)
    return rows


def calibration_error(viral: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> float:
    """Expected calibration error at equal prior: weighted mean |mean probability − viral share| over the bins.

    Of held-out logits (``hold_out``) with ``group_weights``, it is what a sample of new groups would see.
    """
    rows = [row for row in reliability(viral, logits, weights) if row["weight"]]
    return float(sum(row["weight"] * abs(row["mean_probability"] - row["viral_share"]) for row in rows))


def auroc(viral: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Weighted area under the ROC curve: the share of (viral, other) pairs in order, half of the ties included.

    Raises ValueError for a score that is infinite or NaN, such as a contig's without chunks.
    """
    return Ranking(viral, scores).auroc(weights)


def thresholds(
    viral: np.ndarray, logits: np.ndarray, weights: np.ndarray, share: float, missed: float
) -> tuple[float, float]:
    """The thresholds (viral, non-viral) on contig logits (n,) at which at most ``share`` and ``missed`` of a class are wrong.

    The first is the smallest with at most ``share`` of the non-viral weight at or above it; the second the largest with
    at most ``missed`` of the viral weight below it, but never above the first. Each is moved towards its own class as far
    as no call of that class is lost, so that classes that separate have no wrong calls; and it lies in the middle of the
    gap between the two logits that decide, so that no rounding changes a call.
    """
    below, last = _gap(logits[~viral], weights[~viral], logits[viral], share)
    above, first = _gap(-logits[viral], weights[viral], -logits[~viral], missed)
    high, low = _within(below, last), _within(-first, -above)
    return high, min(low, high)


def intervals(
    statistics: Callable[[np.ndarray], Sequence[float]],
    viral: np.ndarray,
    group: np.ndarray,
    category: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """Statistics of weights (n,), such as ``auroc`` or the difference of two, with their intervals over groups.

    The values are at ``group_weights``. Each draw takes as many groups of each class as there are, with replacement, the
    same ones for all statistics. Groups are drawn within their class, not within their category: so the interval knows that a kind of sequence with one
    group might have been another one.
    """
    weights = group_weights(viral, group, category)
    random = np.random.default_rng(seed)
    place = np.empty(len(viral), np.int64)
    counts: list[int] = []
    for rows in (viral, ~viral):
        groups, place[rows] = np.unique(group[rows], return_inverse=True)
        place[rows] += sum(counts)
        counts.append(len(groups))
    values = []
    for _ in range(draws):
        times = [random.multinomial(count, np.full(count, 1 / count)) for count in counts if count]
        values.append(statistics(weights * np.concatenate(times)[place]))
    ends = np.quantile(np.array(values, float), (0.025, 0.975), axis=0)
    found = zip(statistics(weights), ends[0], ends[1], strict=True)
    return [Interval(float(value), float(low), float(high)) for value, low, high in found]


def realised_fdr(
    viral: np.ndarray,
    logits: np.ndarray,
    weights: np.ndarray,
    prevalence: float,
    size: int,
    fdr: float = 0.1,
    draws: int = 200,
    seed: int = 0,
) -> Realised:
    """What becomes of calls at a false discovery rate in simulated samples.

    Each is ``size`` contigs drawn with replacement by their weights, a share ``prevalence`` of them viral. Its prevalence
    is estimated; contigs with a q-value of at most ``fdr`` are called, none if the prevalence can't be told.

    Args:
        viral: (n,) bool.
        logits: (n,) float64, of contigs, best held out.
        weights: (n,) such as ``group_weights``.
    """
    random = np.random.default_rng(seed)
    parts = [
        (np.flatnonzero(rows), count) for rows, count in zip((viral, ~viral), _counts(size, prevalence), strict=True)
    ]
    false, recall, called, estimates, told = [], [], [], [], 0
    for _ in range(draws):
        drawn = np.concatenate(
            [random.choice(rows, count, p=weights[rows] / weights[rows].sum()) for rows, count in parts]
        )
        truth, sample = viral[drawn], logits[drawn]
        found = estimate_prevalence(sample, prior=0.5)
        calls = q_values(sample, found.value) <= fdr if found.enough else np.zeros(size, bool)
        false.append(float(np.mean(~truth[calls])) if calls.any() else 0.0)
        recall.append(float(np.sum(truth & calls)) / max(int(truth.sum()), 1))
        called.append(int(calls.sum()))
        estimates.append(found.value)
        told += found.enough
    return Realised(_mean(false), float(np.mean(recall)), float(np.mean(called)), _mean(estimates), told / draws)


def _gap(wrong: np.ndarray, weights: np.ndarray, right: np.ndarray, share: float) -> tuple[float, float]:
    """Two values: with a threshold between them, most of the ``right`` are above it for a share of the ``wrong``'s weight.

    That is at most ``share``. The second is the lowest of the right ones found, the first the highest wrong one below it.
    """
    distinct, place = np.unique(wrong, return_inverse=True)
    above = np.cumsum(np.bincount(place, weights)[::-1])[::-1]
    over = distinct[np.flatnonzero(above > share * weights.sum() + 1e-12)[-1]]
    if not np.any(right > over):
        return float(distinct[-1]), float(distinct[-1]) + 1e-6  # nothing to be found: above all
    last = right[right > over].min()
    return float(distinct[distinct < last][-1]), float(last)


def _within(low: float, high: float) -> float:
    """The middle of two values, never the lower one, even if they are neighbouring floats."""
    return max((low + high) / 2, float(np.nextafter(low, np.inf)))


def _counts(size: int, prevalence: float) -> tuple[int, int]:
    viral = round(size * prevalence)
    return viral, size - viral


def _mean(values: list[float]) -> Interval:
    return Interval(float(np.mean(values)), *map(float, np.quantile(values, (0.025, 0.975))))
