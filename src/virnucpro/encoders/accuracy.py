"""How far vectors are from their reference."""

from __future__ import annotations

import numpy as np

OUTLIER_FACTOR = 10
"""A dimension is an outlier if its mean magnitude is above so many times the median dimension's.

ESM-2 3B has one that holds most of a vector's norm, and so hides errors everywhere else from cosine and relative L2.
"""


def outlier_dimensions(reference: np.ndarray) -> np.ndarray:
    """(n, d) vectors -> (d,) bool."""
    magnitude = np.abs(reference).mean(0, dtype=np.float64)
    return magnitude > OUTLIER_FACTOR * np.median(magnitude)


def relative_l2(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n, d) twice -> (n,): norm of the difference over the norm of the reference."""
    difference = np.linalg.norm(found.astype(np.float64) - reference, axis=1)
    return difference / np.linalg.norm(reference.astype(np.float64), axis=1)


def relative_l2_rest(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n, d) twice -> (n,): relative L2 of what is left without the outlier dimensions."""
    rest = ~outlier_dimensions(reference)
    return relative_l2(found[:, rest], reference[:, rest])
