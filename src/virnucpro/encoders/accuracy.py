"""How far vectors are from their reference, and how far they may be."""

from __future__ import annotations

import numpy as np

DOMINATING = 10
"""A dimension dominates if its mean magnitude is above so many times the median dimension's.

ESM-2 3B has one that holds most of a vector's norm, and so hides errors everywhere else from cosine and relative L2.
"""

RELATIVE_L2 = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 2e-3, "bf16": 2e-2, "fp8": 2e-2}
"""The most that a precision may differ from fp32: relative L2 of a vector without its dominating dimensions."""


def dominating(reference: np.ndarray) -> np.ndarray:
    """(n, d) vectors -> (d,) bool: dimensions that dominate."""
    magnitude = np.abs(reference).mean(0, dtype=np.float64)
    return magnitude > DOMINATING * np.median(magnitude)


def relative_l2(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n, d) twice -> (n,): norm of the difference over the norm of the reference."""
    difference = np.linalg.norm(found.astype(np.float64) - reference, axis=1)
    return difference / np.linalg.norm(reference.astype(np.float64), axis=1)


def relative_l2_rest(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n, d) twice -> (n,): relative L2 of what is left without the dominating dimensions."""
    rest = ~dominating(reference)
    return relative_l2(found[:, rest], reference[:, rest])
