"""The kinds of sequence in the training part, and the head of a classifier that tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from virnucpro.classifier.dataset import Dataset
from virnucpro.classifier.model import Classifier
from virnucpro.classifier.spec import check_categories
from virnucpro.errors import InputError, ModelError
from virnucpro.result_tables import NON_VIRAL, VIRAL


class Kinds(NamedTuple):
    """The categories of each class that the training part has, viral ones first; the empty one is called as its class."""

    names: list[str]
    viral: list[bool]
    of_unit: np.ndarray  # (units,) int64, places in ``names``; −1: of a category that isn't in the training part

    @property
    def several(self) -> bool:
        """Whether a class has more than one, so that there is something to tell apart."""
        return max(self.viral.count(True), self.viral.count(False)) > 1

    def described(self) -> list[dict[str, Any]]:
        """What a classifier's specification says of its head."""
        return [{"name": name, "viral": viral} for name, viral in zip(self.names, self.viral, strict=True)]


def kinds_of(data: Dataset) -> Kinds:
    """The kinds of a training part. A category of both classes is named ``soil (viral)`` and ``soil (non-viral)``.

    Raises InputError for a category that no classifier's file can name, such as one with unprintable letters.
    """
    present = {unit[:2] for unit, count in zip(data.units, data.by_unit("train").tolist(), strict=True) if count}
    strata = sorted(present, key=lambda stratum: (not stratum[0], stratum[1]))
    names = [category or (VIRAL if viral else NON_VIRAL) for viral, category in strata]
    names = [
        f"{name} ({VIRAL if viral else NON_VIRAL})" if names.count(name) > 1 else name
        for name, (viral, _) in zip(names, strata, strict=True)
    ]
    places = {stratum: place for place, stratum in enumerate(strata)}
    of_unit = np.array([places.get(unit[:2], -1) for unit in data.units], np.int64)
    kinds = Kinds(names, [viral for viral, _ in strata], of_unit)
    try:
        check_categories(kinds.described(), len(names), "classifier")
    except ModelError:
        raise InputError(
            f"The categories {', '.join(map(repr, names))} of the training table can't all be named in a classifier's file. "
            "Give each another name, of printable letters."
        ) from None
    return kinds


class Head:
    """A category head in training: a linear layer on what the hidden layer gives, which its loss doesn't change.

    So the scores are those of a training without it, bit for bit. Each category weighs the same.

    Args:
        model: gets the layer; all others are there.
        data: whose training part is learnt from.
        kinds: its categories.
        seed: of the layer's first weights; the random numbers of all else stay the same.
    """

    def __init__(self, model: Classifier, data: Dataset, kinds: Kinds, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = nn.Linear(model.units, len(kinds.names))
            nn.init.xavier_uniform_(layer.weight)
        self._model, self._data, self._kinds = model, data, kinds
        device = model.output_layer.weight.device
        model.category_layer = layer.to(device)
        counts, known = data.by_unit("train"), kinds.of_unit >= 0
        of_kind = np.bincount(kinds.of_unit[known], counts[known], len(kinds.names))
        weights = np.where(known, counts.sum() / (len(of_kind) * of_kind[kinds.of_unit]), 0)
        self._weights = torch.from_numpy(weights).float().to(device)
        self._of_unit = torch.from_numpy(kinds.of_unit).clamp(min=0).to(device)

    def loss(self, hidden: Tensor, unit: Tensor) -> Tensor:
        """Weighted mean cross entropy () of n frames' activations (n, hidden); ``unit`` (n,) are their units."""
        logits, weight = self._model.categories(hidden.detach()), self._weights[unit]
        losses = nn.functional.cross_entropy(logits, self._of_unit[unit], reduction="none")
        return (losses * weight).sum() / weight.sum().clamp(min=1e-12)

    @torch.inference_mode()
    def recall(self, part: str) -> dict[str, float | None]:
        """Category → share of its frames in a part whose likeliest category it is; None if it has none there."""
        self._model.eval()
        frames, found = np.zeros(len(self._kinds.names)), np.zeros(len(self._kinds.names))
        for logits, kind in self._logits(part):
            right = logits.argmax(1).cpu().numpy() == kind
            known = kind >= 0
            frames += np.bincount(kind[known], minlength=len(frames))
            found += np.bincount(kind[known], right[known], len(frames))
        counted = zip(self._kinds.names, frames.tolist(), found.tolist(), strict=True)
        return {name: right / count if count else None for name, count, right in counted}

    def _logits(self, part: str) -> Iterator[tuple[Tensor, np.ndarray]]:
        for batch in self._data.blocks(part):
            features = torch.from_numpy(batch.features).to(self._weights.device)
            yield self._model.categories(self._model.hidden(features)), self._kinds.of_unit[batch.unit]
