"""The rules of the calls: from scores of chunks to what a chunk and a contig are called, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from virnucpro.classifier.evidence import ODDS_LIMIT, Calibration, Preset, call
from virnucpro.result_tables import AMBIGUOUS, NON_VIRAL, VIRAL

DEFAULT_THRESHOLD = 0.5
LOW_COMPLEXITY = 0.5
"""From this share of repeated words on (see ``sequences.composition``) a contig is at most ambiguous, as tandem repeats resemble
viral sequences to the encoders."""
FEW_CHUNKS = 2
"""So many scored chunks are named as a reason where a contig is ambiguous."""
MANY_OTHERS = 0.1
"""So large a share of letters other than A, C, G and T is, too."""

READ = "read"
"""The reason of a contig without a call that is much shorter than all that the classifier was calibrated on, as reads are."""
UNUSUAL = "unusual"
"""The reason of an ambiguous contig that is unlike the training data."""

_SMALLEST = math.exp(-ODDS_LIMIT)


def is_unusual(distance: float | None) -> bool:
    """Whether a contig of this distance (as a share of the limit; None: unknown) is unlike the training data."""
    return distance is not None and distance > 1


@dataclass(frozen=True)
class Rules:
    """What the user chose, and what the classifier's file says.

    Attributes:
        chunk_length: bases per chunk.
        threshold: score from which a chunk or contig is viral. None: contigs follow ``preset`` where the classifier is calibrated,
            else 0.5 holds.
        preset: name of the calibration's thresholds.
        fdr: if set, a viral contig must have at most this q-value.
        prior: share of viral sequences that probabilities assume.
        min_length, min_chunks: contigs with fewer bases or scored chunks are unscored.
        calibration: the classifier's; None if its file has none.
        limit: the distance of its reference above which a contig is unlike the training data; None if its file has none.
        categories: name of each output of its category head, and whether it is viral; none if its file has none.
    """

    chunk_length: int = 500
    threshold: float | None = None
    preset: str = "balanced"
    fdr: float | None = None
    prior: float = 0.2
    min_length: int = 0
    min_chunks: int = 1
    calibration: Calibration | None = None
    limit: float | None = None
    categories: tuple[tuple[str, bool], ...] = ()

    @property
    def by_threshold(self) -> bool:
        """Whether calls follow the threshold alone."""
        return self.threshold is not None or self.calibration is None

    @property
    def score_threshold(self) -> float:
        """Of chunks' scores and frames' labels."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold

    @cached_property
    def thresholds(self) -> Preset:
        """The calibration's, by the name of the preset."""
        assert self.calibration
        return self.calibration.presets[self.preset]

    @cached_property
    def _prior_odds(self) -> float:
        return math.log(self.prior / (1 - self.prior))

    def probability(self, logit: float) -> float:
        """Of being viral under the prior."""
        odds = logit + self._prior_odds
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0

    def chunk_logit(self, others: float, virus: float, share: float | None) -> float:
        """Log odds of a chunk's largest scores, calibrated if the classifier is.

        ``share`` is what a partial frame covers of its chunk (0 … 1), None for a chunk with stop-free frames. A classifier that was
        calibrated without partial frames takes them for stop-free ones.
        """
        odds = math.log(max(virus, _SMALLEST) / max(others, _SMALLEST))
        odds = min(max(odds, -ODDS_LIMIT), ODDS_LIMIT)
        if self.calibration is None:
            return odds
        if share is None or self.calibration.partial is None:
            return self.calibration.frame_logit(odds)
        return self.calibration.partial_logit(odds, share)

    def chunk_is_viral(self, score: float, logit: float) -> bool:
        """By the threshold, or whether the evidence speaks for it."""
        return score >= self.score_threshold if self.by_threshold else logit >= 0

    def unscored(self, length: int, scored: int) -> str:
        """Why a contig is unscored; empty if it isn't."""
        if length < self.min_length:
            return "short"
        if self.calibration and not self.by_threshold and length < self.calibration.shortest:
            return READ
        if not scored:
            return "no_scored_chunk"
        return "few_chunks" if scored < self.min_chunks else ""

    def contig_call(
        self,
        mean: float,
        logit: float | None,
        scored: int,
        low_complexity: float,
        n_share: float,
        distance: float | None = None,
    ) -> tuple[str, str]:
        """Call, and the reasons if it is ambiguous; ``logit`` is the contig's (unused where the threshold decides).

        ``distance`` is that from the training data, as a share of the limit; None if it isn't known. It changes no call.
        """
        if self.by_threshold or logit is None:
            return (VIRAL if mean >= self.score_threshold else NON_VIRAL), ""
        found, repetitive = call(logit, self.thresholds), low_complexity >= LOW_COMPLEXITY
        if found == NON_VIRAL or (found == VIRAL and not repetitive):
            return found, ""
        reasons = {
            "between_thresholds": found == AMBIGUOUS,
            "low_complexity": repetitive,
            "few_chunks": scored <= FEW_CHUNKS,
            "many_n": n_share >= MANY_OTHERS,
            UNUSUAL: is_unusual(distance),
        }
        return AMBIGUOUS, ",".join(reason for reason, holds in reasons.items() if holds)
