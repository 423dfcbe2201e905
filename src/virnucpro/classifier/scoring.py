"""The classifier's scores with NumPy alone: a few matrix products. ``classifier.model`` is the same network, to train.

The operations are PyTorch's of evaluation, in its order (BatchNorm as one product and one sum), in float32. How a BLAS
orders its sums depends on the number of rows and of threads, so whoever wants equal scores gives it equal blocks and one
thread (see ``calls.one_blas_thread``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from virnucpro.classifier.reference import Reference
from virnucpro.classifier.spec import ClassifierSpec, read_all


class Scores(NamedTuple):
    """What a classifier says of n frames, all float32."""

    scores: np.ndarray  # (n, 2) softmax: others, virus
    categories: np.ndarray | None = None  # (n, c) log-probabilities; None without a category head
    distances: np.ndarray | None = None  # (n,) from the training data; None without a reference


class Scorer:
    """(n, width) float32 features → ``Scores``.

    Args:
        arrays: weights as ``classifier.spec.check_weights`` gives them.
        eps: BatchNorm's epsilon.
        reference: that distances are measured from.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], eps: float, reference: Reference | None = None) -> None:
        self.mean, self.scale = arrays.get("input_mean"), arrays.get("input_scale")
        self.hidden = arrays["hidden_layer.weight"].T
        self.bias = arrays["hidden_layer.bias"]
        self.slope = arrays["bn1.weight"] / np.sqrt(arrays["bn1.running_var"] + np.float32(eps))
        self.shift = arrays["bn1.bias"] - arrays["bn1.running_mean"] * self.slope
        self.output = arrays["output_layer.weight"].T
        self.output_bias = arrays["output_layer.bias"]
        self.category = arrays["category_layer.weight"].T if "category_layer.weight" in arrays else None
        self.category_bias = arrays.get("category_layer.bias")
        self.reference = reference

    def __call__(self, features: np.ndarray) -> Scores:
        """The scores; ``features`` stays as it is."""
        distances = self.reference.distance(features) if self.reference else None
        if self.mean is not None and self.scale is not None:
            features = features - self.mean
            features /= self.scale
        hidden = features @ self.hidden
        hidden += self.bias
        hidden *= self.slope
        hidden += self.shift
        np.maximum(hidden, 0, out=hidden)
        logits = hidden @ self.output + self.output_bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        categories = None
        if self.category is not None:
            categories = hidden @ self.category + self.category_bias
            categories -= categories.max(axis=1, keepdims=True)
            categories -= np.log(np.exp(categories).sum(axis=1, keepdims=True))
        return Scores(odds / odds.sum(axis=1, keepdims=True), categories, distances)


def load_scorer(path: str | Path) -> tuple[Scorer, ClassifierSpec]:
    """The scorer of a classifier's file, and its specification; ModelError as ``read_classifier``."""
    arrays, reference, spec = read_all(path)
    return Scorer(arrays, spec.batchnorm_eps, reference), spec
