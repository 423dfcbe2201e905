"""The classifier: one hidden layer over a frame's DNA and protein vectors, and its file.

Architecture and names are the original's ``MLPClassifier``: Linear, BatchNorm, ReLU, Dropout, Linear.
Class 0 is "others", class 1 is "virus".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from virnucpro.classifier.spec import ClassifierSpec, read_classifier_spec
from virnucpro.errors import ModelError
from virnucpro.files import atomic_file

CLASSES = ("others", "virus")
_HALVED = ("hidden_layer.weight", "output_layer.weight")  # variances would overflow in fp16
_IGNORED = "bn1.num_batches_tracked"  # counts training steps; plays no part in a score


class Classifier(nn.Module):
    """(n, width) features → (n, 2) logits, all float32.

    Args:
        width: input columns, DNA then protein.
        hidden: units of the hidden layer (512 in the original).
        dropout: share of hidden units dropped in training (0.5 in the original).
        eps: BatchNorm's epsilon.
        standardise: subtract ``input_mean`` from, and divide by ``input_scale``, each column first.
    """

    input_mean: Tensor | None
    input_scale: Tensor | None

    def __init__(self, width: int, hidden: int, dropout: float = 0.5, eps: float = 1e-5, standardise: bool = False):
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden, len(CLASSES))
        self.register_buffer("input_mean", torch.zeros(width) if standardise else None)
        self.register_buffer("input_scale", torch.ones(width) if standardise else None)

    @property
    def width(self) -> int:
        """Input columns."""
        return self.hidden_layer.in_features

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return self.hidden_layer.out_features

    def forward(self, features: Tensor) -> Tensor:
        """(n, width) float32 → logits (n, 2) float32."""
        if self.input_mean is not None and self.input_scale is not None:
            features = (features - self.input_mean) / self.input_scale
        return self.output_layer(self.dropout(torch.relu(self.bn1(self.hidden_layer(features)))))

    @torch.inference_mode()
    def scores(self, features: Tensor) -> Tensor:
        """(n, width) float32 → softmax (n, 2) float32: others, virus."""
        if self.training:
            raise RuntimeError("scores are defined in eval mode only")
        return torch.softmax(self(features), dim=1)


def classifier_from_tensors(tensors: Mapping[str, Tensor], eps: float, where: str | Path) -> Classifier:
    """Build a classifier in eval mode and fp32; every width comes from the tensors.

    Raises:
        ModelError: names what is missing, unknown, misshapen or not finite.
    """
    tensors = {name: tensor.float() for name, tensor in tensors.items() if name != _IGNORED}
    weight = tensors.get("hidden_layer.weight")
    if weight is None or weight.ndim != 2 or 0 in weight.shape:
        raise ModelError(f"{where}: not a VirNucPro classifier (it has no matrix hidden_layer.weight).")
    hidden, width = weight.shape
    with torch.device("meta"):
        model = Classifier(width, hidden, eps=eps, standardise="input_mean" in tensors)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name != _IGNORED}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name))
        raise ModelError(
            f"{where}: not a VirNucPro classifier ({wrong[0]} has shape {found.get(wrong[0], 'missing')}, "
            f"expected {expected.get(wrong[0], 'nothing')})."
        )
    for name, value in tensors.items():
        if not torch.isfinite(value).all() or (name == "bn1.running_var" and (value < 0).any()):
            raise ModelError(f"{where}: {name} holds values that no classifier can have. Fetch the file again.")
    model.load_state_dict({**tensors, _IGNORED: torch.tensor(0)}, assign=True)
    return model.eval().requires_grad_(False)


def write_classifier(path: str | Path, model: Classifier, spec: ClassifierSpec, half: bool = False) -> ClassifierSpec:
    """Write the canonical file. The same content gives the same bytes.

    Args:
        path: the file to make.
        model: its weights; written as float32, or the two matrices as float16 if ``half``.
        spec: what to record; widths and digest are filled in from the model.

    Returns:
        The specification as written.
    """
    tensors = {
        name: value.detach().cpu().to(torch.float16 if half and name in _HALVED else torch.float32).contiguous()
        for name, value in model.state_dict().items()
        if name != _IGNORED
    }
    spec = replace(
        spec, width=model.width, hidden=model.hidden, batchnorm_eps=model.bn1.eps, weights_sha256=_digest(tensors)
    )
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"virnucpro": spec.to_json()})
    return spec


def load_classifier(path: str | Path, device: str = "cpu") -> tuple[Classifier, ClassifierSpec]:
    """Read a canonical file: the classifier in eval mode and fp32, whatever the file stores, and its specification.

    Raises:
        ModelError: the file is missing, damaged, or not a canonical classifier.
    """
    spec = read_classifier_spec(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path}: can't be read ({error}). Make it again.") from error
    if _digest(tensors) != spec.weights_sha256:
        raise ModelError(f"{path}: its weights don't match the digest it carries. Fetch or make it again.")
    model = classifier_from_tensors(tensors, spec.batchnorm_eps, path)
    if (model.width, model.hidden) != (spec.width, spec.hidden):
        raise ModelError(f"{path}: weights and metadata disagree on the widths. Make it again.")
    return model.to(device), spec


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
