"""What a trained network's file has beside the weights: a calibration, parameters of regions, and a reference of the training data.

The reference is fitted on the training part. Its limit, the calibration and the regions come from the validation part, of which training
saw only which epoch was the best.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.classifier.calibrate import write_figures, write_reason
from virnucpro.classifier.calibrating import Development, fit_calibration
from virnucpro.classifier.categories import Kinds
from virnucpro.classifier.dataset import Dataset
from virnucpro.classifier.evidence import Calibration
from virnucpro.classifier.held_back import score_part
from virnucpro.classifier.reference import Reference, fit_reference, measure_limit
from virnucpro.classifier.region_fitting import fit_regions_of
from virnucpro.classifier.scoring import Scorer
from virnucpro.classifier.spec import ClassifierSpec, check_weights
from virnucpro.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finish:
    """All three, as far as the validation part allows."""

    spec: ClassifierSpec  # with all
    reference: Reference | None
    calibration: Calibration | None
    development: Development | None  # what was calibrated on
    reason: str = ""  # why nothing was

    def write(self, folder: Path, spec: ClassifierSpec, record: Mapping[str, Any]) -> None:
        """Write ``calibration.json`` and ``calibration.tsv``; ``spec`` is that of the finished file."""
        if self.calibration is None or self.development is None:
            write_reason(folder, spec, self.reason, record)
        else:
            write_figures(folder, spec, self.calibration, self.development, record)


def finish(spec: ClassifierSpec, data: Dataset, kinds: Kinds, arrays: Mapping[str, np.ndarray], eps: float) -> Finish:
    """Fit all three. Where the validation part doesn't do for a calibration there is none, and a warning says why and what to do.

    Args:
        spec: of the trained network.
        data: what it was trained on.
        kinds: classes of the reference.
        arrays: the network's weights, as they will be stored: a prediction has no others.
        eps: BatchNorm's epsilon.

    Raises:
        InputError: all training frames are alike.
    """
    reference = _reference(data, kinds) if data.frames("validation") else None
    scored = score_part(data, "validation", Scorer(check_weights(arrays, spec.name), eps, reference))
    if reference:
        reference = replace(reference, limit=measure_limit(scored.distances, scored.weights))
        spec = replace(spec, reference=reference.described(kinds.names, data.frames("train")))
    about = {"virnucpro_version": spec.virnucpro_version, "part": "validation", "data_sha256": data.digest}
    about |= {key: getattr(spec, key) for key in ("chunk_length", "dna_encoder", "protein_encoder")}
    try:
        development = scored.development()
        calibration = fit_calibration(development, about)
    except InputError as error:
        reason = (
            f"{error} Here that is the validation part: add genomes, make its share `validation` larger, or calibrate the "
            "classifier with other labelled sequences (virnucpro classifier calibrate)."
        )
        logger.warning("%s isn't calibrated, so predictions have no probabilities. %s", spec.name, reason)
        return Finish(spec, reference, None, None, reason)
    regions = fit_regions_of(development, about)
    spec = replace(spec, calibration=calibration.to_dict(), regions=regions.to_dict() if regions else None)
    return Finish(spec, reference, calibration, development)


def _reference(data: Dataset, kinds: Kinds) -> Reference:
    """Of the training part's frames of both kinds; its limit is yet to be measured."""
    return fit_reference(
        lambda: ((batch.features, kinds.of_unit[batch.unit]) for batch in data.blocks("train")), len(kinds.names)
    )
