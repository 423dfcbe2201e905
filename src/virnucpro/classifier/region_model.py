"""Where in a contig the viral part is: a hidden Markov model of two states over the logits of its chunks.

A chunk's logit is the log of a likelihood ratio, so it is the emission; neighbouring chunks share errors, hence weights below 1.
How often a viral part begins and ends is per kilobase, so chunks of any length can be used. NumPy isn't needed: the odds of the
two states are one number, and a loop over a contig's chunks is faster than arrays of a few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from virnucpro.errors import ModelError

POSTERIOR = 0.5
"""Probability from which on a chunk belongs to a region, a maximal run of such chunks."""


@dataclass(frozen=True)
class RegionModel:
    """Parameters, which ``train`` and ``classifier calibrate`` fit and a classifier's file carries.

    Attributes:
        viral: share of contigs that begin in a viral part, 0 … 1.
        enter, leave: viral parts that begin per kilobase of others, and that end per kilobase of viral sequence.
        frame, partial: what the logit of a chunk counts, by its kind; 0 and more.
        limit: largest absolute weighted logit, so that no chunk alone makes or breaks a region.
        fitted_on: what it was fitted on; empty for ``DEFAULT``.
    """

    viral: float = 0.2
    enter: float = 0.002
    leave: float = 0.02
    frame: float = 0.5
    partial: float = 0.5
    limit: float = 4.0
    fitted_on: dict[str, Any] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether it is a classifier's own, and not ``DEFAULT``."""
        return self is not DEFAULT

    def posteriors(self, starts: Sequence[int], logits: Sequence[float | None], partial: Sequence[bool]) -> list[float]:
        """Probability of each chunk of one contig to be viral, given all of them.

        Args:
            starts: of its n chunks, in bases, ascending.
            logits: of its chunks; None for a chunk without a score, which tells nothing.
            partial: whether a chunk was scored by a partial frame.
        """
        n = len(starts)
        ratios = [1.0] * n
        for i, logit in enumerate(logits):
            if logit is not None:
                weighted = logit * (self.partial if partial[i] else self.frame)
                ratios[i] = math.exp(min(max(weighted, -self.limit), self.limit))
        switches = [(0.0, 0.0)] * n  # from others to viral and back, between each chunk and the one before
        for i in range(1, n):
            kilobases = (starts[i] - starts[i - 1]) / 1000
            switches[i] = -math.expm1(-self.enter * kilobases), -math.expm1(-self.leave * kilobases)
        odds = [0.0] * n  # of viral, given the chunks so far
        last = self.viral / (1 - self.viral)
        for i in range(n):
            enter, leave = switches[i]
            last = odds[i] = ratios[i] * (last * (1 - leave) + enter) / (last * leave + 1 - enter)
        later = 1.0  # ratio of the likelihoods of all later chunks
        for i in range(n - 1, -1, -1):
            both = odds[i] * later
            odds[i] = both / (1 + both)
            enter, leave = switches[i]
            seen = ratios[i] * later
            later = ((1 - leave) * seen + leave) / (enter * seen + 1 - enter)
        return odds

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold; ``from_dict`` reads them back unchanged."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path) -> RegionModel:
        """What ``to_dict`` made. ModelError names ``where``, the classifier's file, and what is missing or impossible."""
        remedy = "Calibrate or make it again."
        if not isinstance(values, Mapping) or set(values) != set(asdict(DEFAULT)):
            raise ModelError(f"{where}: its parameters of regions aren't {', '.join(asdict(DEFAULT))}. {remedy}")
        numbers = {name: value for name, value in values.items() if name != "fitted_on"}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ModelError(f"{where}: its parameters of regions have {name} {value!r}. {remedy}")
        for name, most in (("viral", 0.999999), ("limit", 50), ("leave", math.inf)):  # else odds may be infinite
            if not 0 < numbers[name] <= most:
                raise ModelError(f"{where}: its parameters of regions have {name} {numbers[name]!r}. {remedy}")
        return cls(**numbers, fitted_on=dict(values["fitted_on"]))


DEFAULT = RegionModel()
"""For classifiers whose file has none."""
