"""What scores say of chunks, contigs and a sample: log odds, calls, prevalence, false discovery rates.

All logits are natural logarithms of the odds that something is viral if both classes were equally frequent, so of a
likelihood ratio; ``probability`` turns them into probabilities under any other prior. How raw scores become logits is a
``Calibration``, which ``calibrating`` fits and a classifier's file carries. NumPy only: every prediction imports this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from virnucpro.errors import ModelError
from virnucpro.result_tables import AMBIGUOUS, NON_VIRAL, VIRAL

PRESETS = {"strict": 0.01, "balanced": 0.05, "sensitive": 0.1}
"""Name → largest share of the development data's non-viral contigs that are called viral."""
MISSED = 0.01
"""Largest share of the development data's viral contigs that are called non-viral, by any preset; beyond, they are ambiguous."""
ODDS_LIMIT = 30.0
"""Raw log odds are within ± this: e^-30 is far below what a float32 score of its counterpart near 1 can tell."""
MIN_CONTIGS = 30
"""Fewer contigs than this tell no prevalence, whatever their logits: each alone moves it by more than 3 %."""
MAX_WIDTH = 0.3
"""A prevalence whose 95 % interval is wider than this is unknown for practical purposes: q-values would mean little."""

_DROP = 1.920729  # half the 0.95 quantile of chi-squared with one degree of freedom: the profile likelihood's interval
_LOGIT_LIMIT = 50.0  # of a likelihood ratio in the prevalence: e^±50 and its inverse add to any float64 without loss

Number = TypeVar("Number", float, np.ndarray)
"""A float, or a float64 array; what is computed from it has the same form."""


def chunk_odds(others: Number, virus: Number) -> Number:
    """Raw log odds ln(virus / others) of chunks' largest scores, within ± ``ODDS_LIMIT``, in float64.

    Raises ValueError for a score that is negative, infinite or NaN. Arrays are much faster than many floats.
    """
    scores = [np.asarray(score, np.float64) for score in (others, virus)]
    if not all(np.isfinite(score).all() and (score >= 0).all() for score in scores):
        raise ValueError("a score of a chunk is negative, infinite or NaN")
    low = math.exp(-ODDS_LIMIT)
    odds = np.log(np.maximum(scores[1], low)) - np.log(np.maximum(scores[0], low))
    return _like(others, np.clip(odds, -ODDS_LIMIT, ODDS_LIMIT))


def probability(logit: Number, prior: float) -> Number:
    """Probability of being viral, where a share ``prior`` (0 … 1, both included) of what was sampled is viral."""
    return _like(logit, np.exp(-np.logaddexp(0.0, -(_finite(logit) + _log_odds(prior)))))


@dataclass(frozen=True)
class Preset:
    """Thresholds on a contig's logit: from ``viral`` on it is viral, below ``non_viral`` non-viral.

    ``measured`` is how well that did on the development data (see ``calibrating``).
    """

    viral: float
    non_viral: float  # never above ``viral``
    measured: dict[str, Any]


@dataclass(frozen=True)
class Calibration:
    """How raw log odds of chunks become logits of chunks and contigs, and which logits are called what.

    Attributes:
        frame: (slope, offset) of a chunk whose stop-free frames were scored.
        partial: (slope, offset, slope of ln share) of a chunk without any, whose longest stop-free stretch was scored;
            None if the classifier isn't calibrated for such chunks.
        contig: (offset, slope, k). The logits of one contig's chunks share an error of its own, so n chunks count as
            n / (n + k): k = 0 means that further chunks only make the mean more exact, a large k that they add up.
        presets: by the names of ``PRESETS``.
        curve: a dict per bin of the calibration curve, with ``mean_probability`` (of viral, at equal prior),
            ``viral_share`` and ``items``.
        fitted_on: the development data: numbers of contigs, groups and chunks, and what else was recorded.
    """

    frame: tuple[float, float]
    partial: tuple[float, float, float] | None
    contig: tuple[float, float, float]
    presets: dict[str, Preset]
    curve: list[dict[str, Any]]
    fitted_on: dict[str, Any]

    def frame_logit(self, z: Number) -> Number:
        """slope · z + offset, for raw log odds ``z`` of a chunk with stop-free frames."""
        slope, offset = self.frame
        return slope * z + offset

    def partial_logit(self, z: Number, share: Number) -> Number:
        """slope · z + offset + slope of ln share · ln x, for raw log odds ``z`` of the stretch.

        x, ``share``, is the stretch's length over the chunk's, both in bases (above 0, up to 1). Raises ModelError if the
        classifier isn't calibrated for such chunks.
        """
        if self.partial is None:
            raise ModelError(
                "This classifier isn't calibrated for chunks without a stop-free frame. Set partial_frames to false, "
                "or calibrate it on data with such chunks (virnucpro classifier calibrate)."
            )
        slope, offset, slope_of_share = self.partial
        return _like(z, slope * z + offset + slope_of_share * np.log(share))

    def contig_logit(self, sum_of_logits: Number, n: Number) -> Number:
        """offset + slope · mean · n / (n + k), where mean is ``sum_of_logits`` / ``n`` of the contig's n scored chunks.

        Raises ValueError if there is a contig without any.
        """
        if not np.all(np.asarray(n) >= 1):
            raise ValueError("a contig without a scored chunk has no logit")
        offset, slope, k = self.contig
        logit: Number = offset + slope * sum_of_logits / (n + k)
        return logit

    @property
    def shortest(self) -> int:
        """Bases that a sequence needs to be called: half of the shortest contig that this was fitted on; 0 if that isn't known."""
        return int(self.fitted_on.get("bases", (0,))[0]) // 2

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values that JSON can hold; ``from_dict`` reads them back unchanged."""
        plain = asdict(self)
        plain |= {name: list(plain[name]) for name in ("frame", "contig")}
        return plain | {"partial": None if self.partial is None else list(self.partial)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path = "the classifier's file") -> Calibration:
        """What ``to_dict`` made. ModelError names ``where``, and what is missing, not finite or impossible."""
        read = _Reader(values, f"{where}: its calibration")
        presets = read.mapping("presets")
        made = {}
        for name in PRESETS:
            preset = _Reader(presets.mapping(name).values, f"{presets.where}, preset {name}")
            viral, non_viral = preset.number("viral"), preset.number("non_viral")
            if non_viral > viral:
                raise preset.error(f"non_viral, {non_viral}, above viral, {viral}")
            made[name] = Preset(viral, non_viral, dict(preset.mapping("measured").values))
        frame, contig = read.numbers("frame", 2), read.numbers("contig", 3)
        partial = None if read.value("partial") is None else read.numbers("partial", 3)
        if contig[2] < 0:
            raise read.error(f"the negative k {contig[2]} in contig")
        curve = read.value("curve")
        if not isinstance(curve, list) or not all(isinstance(row, dict) for row in curve):
            raise read.error("no list of bins in curve")
        fitted_on = dict(read.mapping("fitted_on").values)
        return cls(frame, partial, contig, made, [dict(row) for row in curve], fitted_on)  # type: ignore[arg-type]


def call(logit: float, preset: Preset) -> str:
    """``viral``, ``ambiguous`` or ``non-viral``, for a contig's logit."""
    if not math.isfinite(logit):
        raise ValueError("a logit is infinite or NaN")
    return VIRAL if logit >= preset.viral else NON_VIRAL if logit < preset.non_viral else AMBIGUOUS


@dataclass(frozen=True)
class Prevalence:
    """Share of viral contigs in a sample: the most likely one, its 95 % interval, and of how many contigs.

    The interval is that of chance among the contigs. It doesn't cover kinds of sequence for which the calibration is
    wrong, such as hosts that it never saw. A ``value`` of exactly 0 or 1 is the bound: no contig speaks for any other.
    """

    value: float
    low: float
    high: float
    contigs: int

    @property
    def reason(self) -> str:
        """Why ``value`` isn't to be relied on; empty if it is."""
        if self.contigs < MIN_CONTIGS:
            return f"fewer than {MIN_CONTIGS} contigs"
        return f"an interval wider than {MAX_WIDTH}" if self.high - self.low > MAX_WIDTH else ""

    @property
    def enough(self) -> bool:
        """Whether these contigs tell a prevalence: ``MIN_CONTIGS`` of them, an interval of at most ``MAX_WIDTH``."""
        return not self.reason


def estimate_prevalence(logits: np.ndarray, prior: float) -> Prevalence:
    """A sample's prevalence from the logits (n,) of its contigs; look at ``enough`` before using it.

    This is the fixed point of EM (Saerens et al. 2002), the maximum of Σ ln(p · ratio + 1 − p). That is concave in p, so
    it is found by bisection of its slope, which also converges at the bounds, where EM takes for ever. The interval is
    that of the profile likelihood. ``prior`` (0 … 1), where EM would begin, is the value if the logits tell nothing.

    Raises ValueError if a logit is infinite or NaN.
    """
    if not 0 < prior < 1:
        raise ValueError(f"the prior {prior} isn't between 0 and 1")
    ratio = np.exp(np.clip(_finite(logits), -_LOGIT_LIMIT, _LOGIT_LIMIT)).ravel()
    if not np.any(ratio != 1):
        return Prevalence(prior, 0.0, 1.0, len(ratio))
    gain = ratio - 1

    def climbs(p: float) -> bool:
        return float(np.sum(gain / (p * ratio + (1 - p)))) > 0

    def likelihood(p: float) -> float:
        return float(np.sum(np.log(p * ratio + (1 - p))))

    if not climbs(0.0):
        value = 0.0
    elif climbs(1.0):
        value = 1.0
    else:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if climbs(middle) else (low, middle)
        value = (low + high) / 2
    enough = likelihood(value) - _DROP
    ends = []
    for bound in (0.0, 1.0):
        outside, inside = bound, value
        if likelihood(bound) >= enough:
            inside = bound
        else:
            for _ in range(24):  # 6e-8
                middle = (outside + inside) / 2
                outside, inside = (outside, middle) if likelihood(middle) >= enough else (middle, inside)
        ends.append(inside)
    return Prevalence(value, ends[0], ends[1], len(ratio))


def q_values(logits: np.ndarray, prevalence: float) -> np.ndarray:
    """The q-value (n,) of each contig, in the given order: of all with at least its logit, the expected false share.

    A contig's local false discovery probability is 1 − ``probability`` under the prevalence; its q-value is their mean
    over all contigs whose logit (n,) is at least as high. Equal logits have equal q-values, higher ones none higher.
    """
    logits = _finite(logits)
    if logits.ndim != 1:
        raise ValueError(f"expected logits of shape (n,), got {logits.shape}")
    false = np.exp(-np.logaddexp(0.0, logits + _log_odds(prevalence)))
    distinct, place, times = np.unique(-logits, return_inverse=True, return_counts=True)
    sums = np.zeros(len(distinct))
    sums[place] = false
    mean = np.cumsum(sums * times) / np.cumsum(times)
    return np.clip(np.maximum.accumulate(mean), 0, 1)[place]


class _Reader:
    """Takes values out of a mapping; its ModelErrors say of which, and which value is wrong."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def error(self, wrong: str) -> ModelError:
        return ModelError(f"{self.where} has {wrong}. Calibrate it again (virnucpro classifier calibrate).")

    def value(self, name: str) -> Any:
        if not isinstance(self.values, Mapping) or name not in self.values:
            raise self.error(f"no {name}")
        return self.values[name]

    def mapping(self, name: str) -> _Reader:
        if not isinstance(value := self.value(name), Mapping):
            raise self.error(f"{value!r} as {name}, which isn't a table of values")
        return _Reader(value, self.where)

    def number(self, name: str) -> float:
        return self._number(self.value(name), name)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        value = self.value(name)
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise self.error(f"{value!r} as {name}, which isn't {count} numbers")
        return tuple(self._number(each, name) for each in value)

    def _number(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(f"{value!r} in {name}, which isn't a finite number")
        return float(value)


def _log_odds(prior: float) -> float:
    """ln(prior / (1 − prior)): −inf at 0, inf at 1."""
    if not 0 <= prior <= 1:
        raise ValueError(f"the share {prior} isn't within 0 to 1")
    return math.log(prior / (1 - prior)) if 0 < prior < 1 else math.copysign(math.inf, prior - 0.5)


def _finite(logits: float | np.ndarray) -> np.ndarray:
    """As float64; ValueError if one is infinite or NaN."""
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("a logit is infinite or NaN")
    return logits


def _like(given: Number, values: Any) -> Number:
    """``values`` in the form of what they were computed from."""
    result: Number = values if isinstance(given, np.ndarray) else float(values)
    return result
