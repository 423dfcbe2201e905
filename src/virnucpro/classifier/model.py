"""The classifier: one hidden layer over a frame's DNA and protein vectors, and writing and loading it.

Architecture and names are the original's ``MLPClassifier``: Linear, BatchNorm, ReLU, Dropout, Linear.
Class 0 is "others", class 1 is "virus". A second Linear on the same hidden layer may name the category.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from virnucpro.classifier.reference import Reference, read_reference
from virnucpro.classifier.spec import (
    CLASSES,
    IGNORED,
    ClassifierSpec,
    check_categories,
    read_classifier,
    weights_digest,
)
from virnucpro.models.empty_weights import init_empty_weights
from virnucpro.models.model_file import write_model


class Classifier(nn.Module):
    """(n, width) features → (n, 2) logits, all float32.

    Args:
        width: input columns, DNA then protein.
        hidden: units of the hidden layer (512 in the original).
        dropout: share of hidden units dropped in training (0.5 in the original).
        eps: BatchNorm's epsilon.
        standardise: subtract ``input_mean`` from, and divide by ``input_scale``, each column first.
        categories: outputs of the category head; 0: there is none.
    """

    input_mean: Tensor | None
    input_scale: Tensor | None

    def __init__(
        self,
        width: int,
        hidden: int,
        dropout: float = 0.5,
        eps: float = 1e-5,
        standardise: bool = False,
        categories: int = 0,
    ):
        super().__init__()
        self.width, self.units = width, hidden
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden, len(CLASSES))
        self.category_layer = nn.Linear(hidden, categories) if categories else None
        self.register_buffer("input_mean", torch.zeros(width) if standardise else None)
        self.register_buffer("input_scale", torch.ones(width) if standardise else None)

    def forward(self, features: Tensor) -> Tensor:
        """(n, width) float32 → logits (n, 2) float32."""
        return self.output_layer(self.hidden(features))

    def hidden(self, features: Tensor) -> Tensor:
        """(n, width) float32 → what both heads see, (n, units) float32; dropout included, in training."""
        if self.input_mean is not None and self.input_scale is not None:
            features = (features - self.input_mean) / self.input_scale
        return self.dropout(torch.relu(self.bn1(self.hidden_layer(features))))

    def categories(self, hidden: Tensor) -> Tensor:
        """(n, units) float32, of ``hidden`` → logits (n, c) float32. ValueError without a category head."""
        if self.category_layer is None:
            raise ValueError("this classifier has no category head")
        return self.category_layer(hidden)

    @torch.inference_mode()
    def scores(self, features: Tensor) -> Tensor:
        """(n, width) float32 → softmax (n, 2) float32: others, virus."""
        if self.training:
            raise RuntimeError("scores are defined in eval mode only")
        return torch.softmax(self(features), dim=1)


def build_classifier(arrays: Mapping[str, np.ndarray], eps: float) -> Classifier:
    """A classifier in eval mode that owns weights which ``check_weights`` gave."""
    hidden, width = arrays["hidden_layer.weight"].shape
    with init_empty_weights():
        categories = len(arrays.get("category_layer.bias", ()))
        model = Classifier(width, hidden, eps=eps, standardise="input_mean" in arrays, categories=categories)
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    model.load_state_dict({**state, IGNORED: torch.tensor(0)}, assign=True)
    return model.eval().requires_grad_(False)


def stored_arrays(model: Classifier, half: bool = False) -> dict[str, np.ndarray]:
    """A model's weights as its file stores them: float32, or the matrices float16 if ``half``."""
    arrays = {name: value.float().cpu().numpy() for name, value in model.state_dict().items() if name != IGNORED}
    if half:
        for name in ("hidden_layer.weight", "output_layer.weight", "category_layer.weight"):  # variances would overflow
            if name in arrays:
                arrays[name] = arrays[name].astype(np.float16)
    return arrays


def write_classifier(
    path: str | Path, model: Classifier, spec: ClassifierSpec, half: bool = False, reference: Reference | None = None
) -> ClassifierSpec:
    """Write a classifier's file and return its specification: widths and digest filled in from the model.

    For ``half`` see ``stored_arrays``; a ``reference``, which ``spec.reference`` describes (``Reference.described``), is
    always float32. Equal content gives equal bytes. ModelError if ``spec.categories`` and the model's category head, or
    ``spec.reference`` and the reference, disagree.
    """
    apart = reference.tensors() if reference else {}
    read_reference(apart, spec.reference, model.width, path)
    check_categories(spec.categories, len(model.category_layer.bias) if model.category_layer else 0, path)
    arrays = stored_arrays(model, half)
    spec = replace(spec, width=model.width, hidden=model.units, batchnorm_eps=model.bn1.eps)
    spec = replace(spec, weights_sha256=weights_digest(arrays))
    write_model(path, spec, arrays | apart)
    return spec


def load_classifier(path: str | Path, device: str = "cpu") -> tuple[Classifier, ClassifierSpec]:
    """The classifier of a file, in eval mode and fp32, and its specification; see ``read_classifier``."""
    arrays, spec = read_classifier(path)
    return build_classifier(arrays, spec.batchnorm_eps).to(device), spec
