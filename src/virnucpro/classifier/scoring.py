"""The classifier's scores with NumPy alone: two matrix products. ``classifier.model`` is the same network, to train.

The operations are PyTorch's of evaluation, in its order (BatchNorm as one product and one sum), in float32. How a BLAS
orders its sums depends on the number of rows and of threads, so whoever wants equal scores gives it equal blocks and one
thread (see ``calls.one_blas_thread``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from virnucpro.classifier.spec import ClassifierSpec, read_classifier


class Scorer:
    """(n, width) float32 features → (n, 2) float32 softmax scores: others, virus.

    Args:
        arrays: weights as ``classifier.spec.check_weights`` gives them.
        eps: BatchNorm's epsilon.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], eps: float) -> None:
        self.mean, self.scale = arrays.get("input_mean"), arrays.get("input_scale")
        self.hidden = arrays["hidden_layer.weight"].T
        self.bias = arrays["hidden_layer.bias"]
        self.slope = arrays["bn1.weight"] / np.sqrt(arrays["bn1.running_var"] + np.float32(eps))
        self.shift = arrays["bn1.bias"] - arrays["bn1.running_mean"] * self.slope
        self.output = arrays["output_layer.weight"].T
        self.output_bias = arrays["output_layer.bias"]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The scores; ``features`` stays as it is."""
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
        return odds / odds.sum(axis=1, keepdims=True)


def load_scorer(path: str | Path) -> tuple[Scorer, ClassifierSpec]:
    """The scorer of a classifier's file, and its specification; ModelError as ``read_classifier``."""
    arrays, spec = read_classifier(path)
    return Scorer(arrays, spec.batchnorm_eps), spec
