"""Fits a ``RegionModel`` to implants, and measures it on groups that it wasn't fitted to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from virnucpro.classifier.calibrating import Development, hold_out
from virnucpro.classifier.implants import FOLDS, HOST, IMPLANT, VIRUS, LabelledChunks, MadeUp, TooFewError, make_up
from virnucpro.classifier.region_measures import LEVELS, Region, Truth, find_regions, measure_regions
from virnucpro.classifier.region_model import DEFAULT, RegionModel

logger = logging.getLogger(__name__)

SHARES = {IMPLANT: 0.45, HOST: 0.45, VIRUS: 0.1}
"""What the kinds of made-up contigs weigh in the fit, before viral chunks and others get their shares."""
VIRAL_SHARE = 0.3
"""What viral chunks weigh in the fit, of all: more than their part of the bases (some 0.15), so that regions are rather too
long than too short. Chosen by the figures of the development part."""
PULL = 0.001
"""What a parameter's distance from the default, squared on the logarithmic scale, adds to the mean loss of a chunk (some
0.2): little against many groups of hosts, but with few the fit doesn't depend on one of them."""
FITTED = ("enter", "leave", "frame", "partial", "limit")
"""``RegionModel.viral`` isn't: how many contigs begin in a viral part is a matter of the sample."""
_BOUNDS = {
    "enter": (1e-4, 0.1),
    "leave": (1e-3, 0.5),
    "frame": (0.02, 2.0),
    "partial": (0.02, 2.0),
    "limit": (0.5, 20.0),
}


def fit_regions_of(data: Development, about: Mapping[str, Any]) -> RegionModel | None:
    """``fit_regions`` of what a calibration was fitted on, by logits of calibrations that saw nothing of a chunk's group."""
    chunks = LabelledChunks(
        logit=hold_out(data).chunk,
        partial=data.partial,
        start=data.start,
        contig=data.contig,
        viral=data.viral,
        group=data.group,
        category=data.category,
        length=data.length,
        name=[str(number) for number in range(len(data.viral))],
    )
    return fit_regions(chunks, about)


@dataclass(frozen=True)
class _Batch:
    """s made-up contigs side by side, (s, k) with k chunks of the longest; the rest counts for nothing."""

    logit: np.ndarray
    partial: np.ndarray
    kilobases: np.ndarray  # from the chunk before
    viral: np.ndarray
    weight: np.ndarray  # sums to 1


def fit_regions(chunks: LabelledChunks, about: Mapping[str, Any] | None = None, seed: int = 0) -> RegionModel | None:
    """Parameters by the largest mean log posterior of chunks' true states; None, and a logged sentence, for too few groups.

    Kinds of made-up contigs weigh as in ``SHARES``; in a kind all groups do alike, in these the contigs, and in those the
    chunks; then all viral chunks together as ``VIRAL_SHARE``. ``fitted_on`` says on what, and has ``held_out``: figures of implants and hosts of each fold of groups, with
    parameters that the other folds gave. ``about`` is added to it.
    """
    try:
        made = make_up(chunks, seed)
    except TooFewError as error:
        logger.warning("regions are found by default parameters, not by fitted ones: %s", error)
        return None
    model = _fit(made)
    found: list[list[Region]] = []
    tested: list[MadeUp] = []
    for number in range(FOLDS):
        apart = _fit([each for each in made if each.fold != number])
        inside = [each for each in made if each.fold == number and each.kind != VIRUS]
        tested += inside
        found += [regions_of(apart, each) for each in inside]
    held_out = {str(level): measure_regions([truth_of(each) for each in tested], found, level) for level in LEVELS}
    fitted_on = {
        "seed": seed,
        **{f"{kind}s": sum(each.kind == kind for each in made) for kind in (IMPLANT, HOST)},
        "viruses": sum(each.kind == VIRUS for each in made),
        "host_groups": len({each.host for each in made if each.host}),
        "viral_groups": len({each.unit for each in made if each.kind == IMPLANT}),
        "held_out": held_out,
    }
    logger.info("fitted regions: %s; on groups held out: %s", model, held_out)
    return replace(model, fitted_on=fitted_on | dict(about or {}))


def regions_of(model: RegionModel, made: MadeUp) -> list[Region]:
    """Those that a model finds in a made-up contig."""
    return find_regions(model, made.start, made.end, made.logit, made.partial)


def truth_of(made: MadeUp) -> Truth:
    """Which part of a made-up contig is viral."""
    return Truth(made.length, made.viral_from, made.viral_to)


def batch_log_odds(model: RegionModel, batch: _Batch) -> np.ndarray:
    """Log odds (s, k) of the chunks: ``RegionModel.posteriors`` of all contigs at a time."""
    weighted = batch.logit * np.where(batch.partial, model.partial, model.frame)
    ratio = np.exp(np.clip(weighted, -model.limit, model.limit))
    enter = -np.expm1(-model.enter * batch.kilobases)
    leave = -np.expm1(-model.leave * batch.kilobases)
    odds = np.empty_like(ratio)
    last = np.full(len(ratio), model.viral / (1 - model.viral))
    for i in range(ratio.shape[1]):
        last = ratio[:, i] * (last * (1 - leave[:, i]) + enter[:, i]) / (last * leave[:, i] + 1 - enter[:, i])
        odds[:, i] = last
    later = np.ones(len(ratio))
    for i in range(ratio.shape[1] - 1, -1, -1):
        odds[:, i] *= later
        seen = ratio[:, i] * later
        later = ((1 - leave[:, i]) * seen + leave[:, i]) / (enter[:, i] * seen + 1 - enter[:, i])
    return np.log(odds)


def _fit(made: Sequence[MadeUp]) -> RegionModel:
    batch = _pack(made)
    low, high = np.log([_BOUNDS[name] for name in FITTED]).T
    wrong_way = np.where(batch.viral, -1.0, 1.0)

    def loss(at: np.ndarray) -> float:
        odds = batch_log_odds(_model(at), batch)
        return float(np.sum(batch.weight * np.logaddexp(0, wrong_way * odds)) + PULL * np.sum((at - start) ** 2))

    start = np.log([getattr(DEFAULT, name) for name in FITTED])
    found = minimize(loss, start, method="L-BFGS-B", bounds=np.column_stack([low, high]), options={"maxiter": 60})
    return _model(found.x)


def _pack(made: Sequence[MadeUp]) -> _Batch:
    """Side by side; what comes after a contig's end has a logit of 0 and no distance, so it changes nothing before it."""
    width = max(len(each.start) for each in made)
    shape = (len(made), width)
    values, distance, weight = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    partial, viral = np.zeros(shape, bool), np.zeros(shape, bool)
    units = {each.kind: {other.unit for other in made if other.kind == each.kind} for each in made}
    counts: dict[tuple[str, str], int] = {}
    for each in made:
        counts[each.kind, each.unit] = counts.get((each.kind, each.unit), 0) + 1
    for i, each in enumerate(made):
        k = len(each.start)
        values[i, :k], partial[i, :k], viral[i, :k] = each.logit, each.partial, each.viral
        distance[i, 1:k] = np.diff(each.start) / 1000
        weight[i, :k] = SHARES[each.kind] / (len(units[each.kind]) * counts[each.kind, each.unit] * k)
    weight *= np.where(viral, VIRAL_SHARE / weight[viral].sum(), (1 - VIRAL_SHARE) / weight[~viral].sum())
    return _Batch(values, partial, distance, viral, weight)


def _model(at: np.ndarray) -> RegionModel:
    """From logarithms of ``FITTED``, a scale on which all steps are alike."""
    return replace(DEFAULT, **dict(zip(FITTED, np.exp(at).tolist(), strict=True)))
