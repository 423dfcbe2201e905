"""Fits a ``Calibration`` from development data that the classifier wasn't trained on, and measures how good it is.

Everywhere both classes weigh the same, so do all categories (kinds of sequence) within a class, and all groups (genomes,
organisms) within a category, whatever their numbers of contigs and chunks. What is called held out comes from folds of whole groups: the logits of a group were made by a
calibration that saw nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from virnucpro.classifier.evidence import MISSED, PRESETS, Calibration, Preset
from virnucpro.classifier.weighted import group_weights, reliability, thresholds
from virnucpro.errors import InputError
from virnucpro.result_tables import NON_VIRAL, VIRAL

MIN_GROUPS = 5
"""Groups that each class needs: one for each fold."""
FOLDS = 5
GRID = (0.0, *(float(k) for k in np.geomspace(0.1, 50, 16)))
"""Values of k that are tried."""
PREVALENCES = (0.01, 0.05, 0.2)
"""Shares of viral contigs for which a preset's precision is measured."""

_FRAMES, _STRETCHES, _CONTIGS = "chunks with a stop-free frame", "chunks without a stop-free frame", "contigs"
_NEEDS = "To calibrate a classifier, its development data need"
_RIDGE = 0.01  # of slopes per standard deviation: little against a dozen groups, but finite where classes separate
_Pair = tuple[float, float]
_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Development:
    """Scored sequences of known labels: m chunks, those without a score left out, of n contigs.

    Raises InputError for what can't be calibrated with, and ValueError if shapes disagree.

    Attributes:
        z: (m,) float, raw log odds of the chunks (``evidence.chunk_odds``).
        partial: (m,) bool, whether a stretch was scored for want of a stop-free frame.
        share: (m,) float, that stretch's length over the chunk's, 0 … 1; not looked at for other chunks.
        contig: (m,) int, each chunk's contig, 0 … n − 1.
        start: (m,) int, of the chunk in its contig, 0-based; for regions only.
        viral: (n,) bool.
        group: (n,) str or int, kept as int 0 … in sorted order. Contigs of one group are never split between folds.
        category: (n,) str, the kind of sequence, such as phage; folds have all kinds as far as possible.
        length: (n,) int, bases.
    """

    z: np.ndarray
    partial: np.ndarray
    share: np.ndarray
    contig: np.ndarray
    start: np.ndarray
    viral: np.ndarray
    group: np.ndarray
    category: np.ndarray
    length: np.ndarray

    def __post_init__(self) -> None:
        for names in (("z", "partial", "share", "contig", "start"), ("viral", "group", "category", "length")):
            shapes = {getattr(self, name).shape for name in names}
            if len(shapes) != 1 or len(next(iter(shapes))) != 1:
                raise ValueError(f"{', '.join(names)} have shapes {shapes}")
        if self.viral.dtype != bool or self.partial.dtype != bool:
            raise ValueError("viral and partial must be bool")
        if len(self.contig) and not 0 <= self.contig.min() <= self.contig.max() < len(self.viral):
            raise ValueError("a chunk's contig isn't among the contigs")
        object.__setattr__(self, "group", np.unique(self.group, return_inverse=True)[1])  # text is slow to sort again
        share = self.share[self.partial]
        if not np.isfinite(self.z).all() or not ((share > 0) & (share <= 1)).all():
            raise InputError(
                "A chunk of the development data has a score that isn't a number, or a stretch longer than itself. "
                "Delete its embeddings and run again."
            )
        for rows, what in ((~self.partial, _FRAMES), (self.partial, _STRETCHES)):
            if rows.any() or what == _FRAMES:
                _check_groups(self.viral[self.contig[rows]], self.group[self.contig[rows]], what)

    @property
    def weights(self) -> np.ndarray:
        """(n,) float, of the contigs; see ``weighted.group_weights``."""
        return group_weights(self.viral, self.group, self.category)

    @property
    def chunks(self) -> np.ndarray:
        """(n,) int64: how many chunks each contig has here."""
        return np.bincount(self.contig, minlength=len(self.viral))


class HeldOut(NamedTuple):
    """Logits by calibrations that saw nothing of their groups."""

    chunk: np.ndarray  # (m,)
    contig: np.ndarray  # (n,), NaN for a contig without a chunk
    fold: np.ndarray  # (n,) int, the fold in which a contig was held out


def fit_calibration(data: Development, about: Mapping[str, Any] | None = None) -> Calibration:
    """The calibration of a classifier, with presets, curve and what it was fitted on; the same for the same data.

    ``about`` is added to ``fitted_on``: names, digests. Contigs without a scored chunk count for nothing here.

    Each preset's ``measured`` is ``measure`` of the contigs it was fitted on, and under ``held_out`` that of contigs
    called by calibrations and thresholds that saw nothing of their groups: expect the latter of new data.

    Raises:
        InputError: scores aren't higher for viral sequences, or a fold leaves a class without chunks of a kind.
    """
    scored = data.chunks > 0
    k, held_out = _choose(data)
    frame, partial = _fit_chunks(data, scored)
    chunk = _chunk_logits(frame, partial, data)
    contig = _fit_contigs(data, chunk, scored, k)
    viral, group = data.viral[scored], data.group[scored]
    weights = data.weights[scored]
    logits = contig[0] + contig[1] * _evidence(data, chunk, k)[scored]
    presets = {}
    for name, share in PRESETS.items():
        high, low = thresholds(viral, logits, weights, share, MISSED)
        honest = _measure_held_out(data, held_out, share)
        presets[name] = Preset(high, low, measure(viral, logits, group, weights, high, low) | {"held_out": honest})
    chunks = data.chunks
    fitted_on = {
        "contigs": {"viral": int(viral.sum()), "non-viral": int((~viral).sum())},
        "groups": {"viral": len(np.unique(group[viral])), "non-viral": len(np.unique(group[~viral]))},
        "categories": {str(name): int(np.sum(data.category[scored] == name)) for name in np.unique(data.category)},
        "bases": [int(edge) for edge in np.quantile(data.length[scored], (0, 0.5, 1))],  # lowest, median, highest
        "chunks": {"frame": int((~data.partial).sum()), "partial": int(data.partial.sum())},
        "unscored_contigs": int((chunks == 0).sum()),
    }
    return Calibration(
        frame=frame,
        partial=partial,
        contig=contig,
        presets=presets,
        curve=reliability(viral, held_out.contig[scored], weights),
        fitted_on=fitted_on | dict(about or {}),
    )


def hold_out(data: Development) -> HeldOut:
    """Logits of all chunks and contigs by group-held-out folds, for the figures of ``weighted``; errors as above."""
    return _choose(data)[1]


def measure(
    viral: np.ndarray,
    logits: np.ndarray,
    group: np.ndarray,
    weights: np.ndarray,
    high: float | np.ndarray,
    low: float | np.ndarray,
) -> dict[str, Any]:
    """How good calls by two thresholds are: weighted shares of both classes, precision by prevalence, and counts.

    ``weights`` (n,) are counted within each class; ``high`` and ``low``, as of ``thresholds``, are for all contigs or (n,). A precision is None where nothing is called.
    """
    of_viral, of_others = weights * viral / (weights @ viral), weights * ~viral / (weights @ ~viral)
    called, between = logits >= high, (logits < high) & (logits >= low)
    recall, false = float(of_viral @ called), float(of_others @ called)
    precision = {}
    for prevalence in PREVALENCES:
        found, wrong = prevalence * recall, (1 - prevalence) * false
        precision[str(prevalence)] = found / (found + wrong) if found + wrong else None
    return {
        "recall": recall,
        "false_positive_rate": false,
        "ambiguous": {"viral": float(of_viral @ between), "non-viral": float(of_others @ between)},
        "precision": precision,
        "contigs": {"viral": int(viral.sum()), "non-viral": int((~viral).sum())},
        "groups": {"viral": len(np.unique(group[viral])), "non-viral": len(np.unique(group[~viral]))},
    }


def _choose(data: Development) -> tuple[float, HeldOut]:
    """The k with the lowest weighted log loss of held-out contigs, and the held-out logits with it."""
    scored = data.chunks > 0
    fold = group_folds(data)
    chunk = np.full(len(data.z), np.nan)
    contig = np.full((len(GRID), len(fold)), np.nan)
    for number in range(FOLDS):
        apart = fold == number
        frame, partial = _fit_chunks(data, scored & ~apart)
        logits = _chunk_logits(frame, partial, data)
        chunk[apart[data.contig]] = logits[apart[data.contig]]
        for row, k in enumerate(GRID):
            offset, slope, _ = _fit_contigs(data, logits, scored & ~apart, k)
            inside = scored & apart
            contig[row, inside] = offset + slope * _evidence(data, logits, k)[inside]
    weights = data.weights[scored]
    wrong_way = np.where(data.viral[scored], -1.0, 1.0) * contig[:, scored]
    loss = np.logaddexp(0, wrong_way) @ weights
    best = int(np.argmin(np.round(loss, 6)))  # of equals, as where all contigs have one chunk, the smallest
    return GRID[best], HeldOut(chunk, contig[best], fold)


def group_folds(data: Development) -> np.ndarray:
    """(n,) int: each contig's fold, that of its group. Groups are dealt in turn by class, then category, else at random."""
    groups, first, place = np.unique(data.group, return_index=True, return_inverse=True)
    chance = np.random.default_rng(0).random(len(groups))
    order = np.lexsort((chance, data.category[first], data.viral[first]))
    fold = np.empty(len(groups), np.int64)
    fold[order] = np.arange(len(groups)) % FOLDS
    return fold[place]


def _fit_chunks(data: Development, contigs: np.ndarray) -> tuple[_Pair, _Triple | None]:
    """(slope, offset) of frames and (slope, offset, slope of ln share) of stretches, from some contigs' (n,) bool chunks."""
    inside = contigs[data.contig]
    rows = inside & ~data.partial
    offset, (slope,) = _logistic(data.z[rows, None], data, data.contig[rows], _FRAMES)
    if not data.partial.any():
        return (slope, offset), None
    rows = inside & data.partial
    part_offset, (part_slope, of_share) = _logistic(
        np.stack([data.z[rows], np.log(data.share[rows])], axis=1), data, data.contig[rows], _STRETCHES
    )
    return (slope, offset), (part_slope, part_offset, of_share)


def _chunk_logits(frame: _Pair, partial: _Triple | None, data: Development) -> np.ndarray:
    """(m,) logits of all chunks."""
    made = Calibration(frame, partial, (0.0, 1.0, 0.0), {}, [], {})
    logits = made.frame_logit(data.z)
    if partial is not None:
        logits = np.where(data.partial, made.partial_logit(data.z, np.where(data.partial, data.share, 1.0)), logits)
    return logits


def _fit_contigs(data: Development, logits: np.ndarray, contigs: np.ndarray, k: float) -> _Triple:
    """(offset, slope, k), from the (m,) chunk logits of some contigs, (n,) bool."""
    evidence = _evidence(data, logits, k)[contigs, None]
    offset, (slope,) = _logistic(evidence, data, np.flatnonzero(contigs), _CONTIGS)
    return offset, slope, k


def _evidence(data: Development, logits: np.ndarray, k: float) -> np.ndarray:
    """(n,) mean · n / (n + k) of each contig's chunk logits; 0 without chunks."""
    total = np.bincount(data.contig, logits, len(data.viral))
    return total / np.maximum(data.chunks + k, 1)


def _logistic(features: np.ndarray, data: Development, contig: np.ndarray, what: str) -> tuple[float, list[float]]:
    """Offset and slopes by weighted logistic regression, a group counting as one observation on average.

    ``contig`` (m,) int says which one each row of the features (m, f) belongs to. Raises InputError if a class is missing, or the first slope isn't positive.
    """
    viral, group = data.viral[contig], data.group[contig]
    if viral.all() or not viral.any():
        raise InputError(f"{_NEEDS} {what} in more groups of each class, so that folds of groups have both.")
    weights = group_weights(viral, group, data.category[contig]) * len(np.unique(group)) / 2
    middle, scale = features.mean(axis=0), features.std(axis=0)  # so that the ridge is the same for all k and units
    scale[scale == 0] = 1
    columns = np.column_stack([np.ones(len(features)), (features - middle) / scale])
    ridge = np.array([0.0] + [_RIDGE] * features.shape[1])

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        logit = columns @ at
        value = weights @ (np.logaddexp(0, logit) - logit * viral) + ridge @ at**2 / 2
        return float(value), columns.T @ (weights * (expit(logit) - viral)) + ridge * at

    def curvature(at: np.ndarray) -> np.ndarray:
        guess = expit(columns @ at)
        curve: np.ndarray = (columns.T * (weights * guess * (1 - guess))) @ columns + np.diag(ridge)
        return curve

    # scikit-learn's Newton solver warns here and falls back to its lbfgs, which is far slower for two or three columns
    start = np.zeros(len(ridge))
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-7}).x
    slopes = [float(slope) for slope in found[1:] / scale]
    if slopes[0] <= 0:
        raise InputError(
            f"The scores of the development data's {what} aren't higher for viral than for other sequences, so there is "
            "nothing to calibrate. Are the labels right, and does the classifier fit these data?"
        )
    return float(found[0] - middle @ slopes), slopes


def _check_groups(viral: np.ndarray, group: np.ndarray, what: str) -> None:
    for label, name in ((True, VIRAL), (False, NON_VIRAL)):
        if (found := len(np.unique(group[viral == label]))) < MIN_GROUPS:
            remedy = " Set partial_frames to false, or add sequences with such chunks." if what == _STRETCHES else ""
            raise InputError(
                f"{_NEEDS} {what} of at least {MIN_GROUPS} {name} groups (genomes, organisms); there are {found}.{remedy}"
            )


def _measure_held_out(data: Development, held_out: HeldOut, share: float) -> dict[str, Any]:
    """``measure`` of the held-out logits, each fold's contigs called by thresholds that all others gave."""
    scored = data.chunks > 0
    viral, group, category = data.viral[scored], data.group[scored], data.category[scored]
    logits, fold = held_out.contig[scored], held_out.fold[scored]
    high, low = np.empty(len(logits)), np.empty(len(logits))
    for number in range(FOLDS):
        rest = fold != number
        weights = group_weights(viral[rest], group[rest], category[rest])
        high[~rest], low[~rest] = thresholds(viral[rest], logits[rest], weights, share, MISSED)
    return measure(viral, logits, group, data.weights[scored], high, low)
