"""How far vectors and scores are from their reference, and how far they may be."""

from __future__ import annotations

from typing import Any

import numpy as np

from virnucpro.encoders.accuracy import outlier_dimensions, relative_l2
from virnucpro.encoders.precision import PRECISIONS

STORED_AS_FLOAT16 = 1e-3
"""How much a virus score may change where vectors are stored as float16."""
PUBLISHED = {"dna": 2e-5, "protein": 1e-4}
"""Largest difference in any dimension between fp32 vectors and published fp32 vectors, which another machine made."""


def compare_vectors(found: np.ndarray, reference: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Measures of (n, d) vectors against theirs, the worst frame's; and (n,) what the gate looks at, by frame."""
    outliers = outlier_dimensions(reference)
    rest = relative_l2(found[:, ~outliers], reference[:, ~outliers])
    a, b = found.astype(np.float64), reference.astype(np.float64)
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    measures = {
        "relative_l2": float(relative_l2(found, reference).max()),
        "relative_l2_rest": float(rest.max()),
        "relative_l2_rest_median": float(np.median(rest)),
        "outlier_dimensions": np.flatnonzero(outliers).tolist(),
        "largest_difference": float(np.abs(a - b).max()),
        "cosine": float(cosine.min()),
    }
    return measures, rest


def compare_scores(found: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Measures of (n,) virus scores against theirs."""
    return {
        "score_change": float(np.abs(found - reference).max()),
        "label_flips": int(((found > 0.5) != (reference > 0.5)).sum()),
    }


def within(row: dict[str, Any]) -> bool:
    """Whether a row of measures keeps to its precision's gate; a value that isn't finite doesn't."""
    if row.get("vectors") == "float16":
        return bool(row["score_change"] <= STORED_AS_FLOAT16)
    gate = PRECISIONS[row["precision"]].gate
    if row["reference"] == "published" and row["precision"] == "fp32" and row["encoder"] in PUBLISHED:
        vectors = row["largest_difference"] <= PUBLISHED[row["encoder"]]
    else:
        vectors = row.get("relative_l2_rest", 0.0) <= gate.relative_l2
    return bool(vectors and row["score_change"] <= gate.score)
