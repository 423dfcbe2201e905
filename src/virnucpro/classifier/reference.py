"""What a classifier's training data look like, to say that a contig is unlike them. NumPy only: predictions import this.

Classes are Gaussians with one covariance, that within classes, in the leading directions of the standardised features
(Lee et al. 2018). A frame's distance is that to the nearest class, a chunk's the least one of its frames, a contig's the mean
over its scored chunks; as a share of ``limit`` it is the column ``distance`` of contigs.tsv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.errors import InputError, ModelError
from virnucpro.models.model_file import content_digest

DIRECTIONS = 64
"""Most directions that distances are measured in."""
BELOW_LIMIT = 0.99
"""So much of the weight of held-out contigs has distances up to the limit."""

_SMALLEST = 1e-3
"""Least variance within classes in any direction, as a share of the mean one: less can't be told from so many frames."""
_TENSORS = ("reference_center", "reference_projection", "reference_means")
_REMEDY = "Fetch or make it again."

Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Begins anew with each call: features (n, width) float32, and the frames' class numbers (n,)."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The Gaussians.

    Attributes:
        center: (width,) float32, subtracted from features.
        projection: (width, r) float32, onto directions in which the covariance within classes is the identity.
        means: (k, r) float32, of the classes.
        limit: the distance above which a contig is unlike the training data.
    """

    center: np.ndarray
    projection: np.ndarray
    means: np.ndarray
    limit: float = 1.0

    def distance(self, features: np.ndarray) -> np.ndarray:
        """(n, width) float32 → (n,) float32: to the nearest class's mean, √r being what a frame of it is expected to have as 1."""
        found = (features - self.center) @ self.projection
        squares = np.full(len(found), np.inf, np.float32)
        for mean in self.means:
            off = found - mean
            np.minimum(squares, np.einsum("ij,ij->i", off, off), out=squares)
        return np.sqrt(squares / np.float32(len(found.T)))

    def tensors(self) -> dict[str, np.ndarray]:
        """Names and values in a classifier's file."""
        return dict(zip(_TENSORS, (self.center, self.projection, self.means), strict=True))

    def described(self, classes: Sequence[str], rows: int) -> dict[str, Any]:
        """What a classifier's specification says of it, given the classes' names and of how many frames it was made."""
        if len(classes) != len(self.means):
            raise ValueError(f"{len(classes)} names of {len(self.means)} classes")
        return {"limit": self.limit, "classes": list(classes), "rows": rows, "sha256": _digest(self.tensors())}


def is_reference(name: str) -> bool:
    """Whether a tensor of a classifier's file belongs to its reference, not to the network."""
    return name.startswith("reference_")


def read_reference(
    stored: Mapping[str, np.ndarray], entry: Mapping[str, Any] | None, width: int, where: str | Path
) -> Reference | None:
    """The reference among the tensors of a classifier's file; None if there is none.

    Args:
        stored: all tensors for which ``is_reference`` holds.
        entry: the specification's ``reference``.
        width: columns of the features.
        where: the file, for errors.

    Raises:
        ModelError: tensors and specification disagree, a shape is wrong, or a value isn't finite.
    """
    if entry is None and not stored:
        return None
    if entry is None or sorted(stored) != sorted(_TENSORS):
        wrong = sorted(set(_TENSORS) ^ set(stored)) if entry is not None else ["reference in its metadata"]
        raise ModelError(f"{where}: its reference is incomplete or unknown ({', '.join(wrong)}). {_REMEDY}")
    limit, classes = entry.get("limit"), entry.get("classes")
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not (math.isfinite(limit) and limit > 0):
        raise ModelError(f"{where}: the limit of its reference, {limit!r}, isn't a number above 0. {_REMEDY}")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ModelError(f"{where}: the classes of its reference, {classes!r}, aren't names. {_REMEDY}")
    directions = stored[_TENSORS[1]].shape[-1] if stored[_TENSORS[1]].ndim == 2 else 0
    shapes = ((width,), (width, max(directions, 1)), (len(classes), max(directions, 1)))
    for name, shape in zip(_TENSORS, shapes, strict=True):
        value = stored[name]
        if value.shape != shape or value.dtype != np.float32:
            found = f"{value.dtype} {value.shape}"
            raise ModelError(f"{where}: {name} is {found}, expected float32 {shape}. {_REMEDY}")
        if not np.isfinite(value).all():
            raise ModelError(f"{where}: {name} holds values that aren't finite. {_REMEDY}")
    if _digest(stored) != entry.get("sha256"):
        raise ModelError(f"{where}: its reference doesn't match the digest it carries. {_REMEDY}")
    center, projection, means = (stored[name] for name in _TENSORS)
    return Reference(center, projection, means, float(limit))


class Moments:
    """Sums over frames of known classes, in float64, from which the Gaussians follow.

    Args:
        classes: their number.
        width: columns of the features.
    """

    def __init__(self, classes: int, width: int) -> None:
        self.counts = np.zeros(classes)
        self._sums, self._products = np.zeros((classes, width)), np.zeros((width, width))

    @property
    def shape(self) -> tuple[int, int]:
        """Classes and width."""
        return self._sums.shape  # type: ignore[return-value]

    def add(self, features: np.ndarray, numbers: np.ndarray) -> None:
        """Frames' features (n, width) float32 and class numbers (n,)."""
        values = features.astype(np.float64)
        self._products += values.T @ values
        for number in np.unique(numbers):
            rows = numbers == number
            self._sums[number] += values[rows].sum(axis=0)
            self.counts[number] += np.count_nonzero(rows)

    def add_moments(self, other: Moments) -> None:
        """The sums of other frames of the same classes."""
        self.counts += other.counts
        self._sums += other._sums
        self._products += other._products

    def reference(self) -> Reference:
        """The Gaussians of all classes that have frames; the limit is 1. InputError if all frames are alike."""
        there = self.counts > 0
        counts, rows = self.counts[there], self.counts.sum()
        if not rows:
            raise InputError("A reference of the training data needs frames, and there are none. Give more sequences.")
        means, center = self._sums[there] / counts[:, None], self._sums.sum(axis=0) / rows
        total = self._products / rows - np.outer(center, center)
        scale = np.sqrt(np.maximum(np.diag(total), 0))
        # A constant column stays constant, as when training standardises.
        scale[scale < 1e-6 * np.maximum(np.abs(center), 1)] = 1
        values, vectors = np.linalg.eigh(total / np.outer(scale, scale))
        leading = np.argsort(values)[::-1][:DIRECTIONS]
        leading = leading[values[leading] > 1e-9 * max(values.max(), 1e-9)]
        if not len(leading):
            raise InputError("A reference of the training data needs frames that differ, and these are all alike.")
        directions = vectors[:, leading] / scale[:, None]
        between = (means - center) @ directions
        within = directions.T @ total @ directions - (between.T * (counts / rows)) @ between
        spread, axes = np.linalg.eigh(within)
        spread = np.maximum(spread, _SMALLEST * max(spread.mean(), np.finfo(np.float32).tiny))
        whitened = axes / np.sqrt(spread)
        return Reference(center.astype(np.float32), _single(directions @ whitened), _single(between @ whitened))


def fit_reference(blocks: Blocks, classes: int) -> Reference:
    """The Gaussians of frames whose classes are known; the limit is 1 until ``measure_limit`` told it.

    One pass, whose sums are float64; memory holds a few matrices of width × width.

    Args:
        blocks: the frames.
        classes: their number; class numbers are below it.

    Raises:
        InputError: a class has no frame, or all frames are alike.
    """
    moments = None
    for features, numbers in blocks():
        moments = moments or Moments(classes, features.shape[1])
        moments.add(features, numbers)
    if moments is None or not moments.counts.all():
        raise InputError("A reference of the training data needs frames of every class. Give sequences of each.")
    return moments.reference()


def measure_limit(distances: np.ndarray, weights: np.ndarray) -> float:
    """The least of held-out contigs' distances (n,) up to which ``BELOW_LIMIT`` of their weight (n,) lies.

    ``weights`` are those of ``weighted.group_weights``. Raises InputError without a contig.
    """
    if not len(distances):
        raise InputError("A reference of the training data needs held-out contigs with a scored chunk. Give more.")
    order = np.argsort(distances, kind="stable")
    reached = np.cumsum(weights[order]) >= BELOW_LIMIT * weights.sum() * (1 - 1e-12)
    return float(distances[order][int(np.argmax(reached))])


class ContigDistances:
    """Adds frames' distances up to those of contigs, in whatever blocks they come. Memory holds two numbers per contig."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # by record: sum over chunks that ended, and their number
        self._chunk, self._least = "", math.inf

    def add(self, ids: Sequence[str], distances: np.ndarray) -> None:
        """Add frames, or partial frames: n ids in order, chunk by chunk, and their distances (n,) (``Reference.distance``)."""
        for identifier, distance in zip(ids, distances.tolist(), strict=True):
            chunk = _chunk(identifier)
            if chunk != self._chunk:
                self._end()
                self._chunk, self._least = chunk, distance
            elif distance < self._least:
                self._least = distance

    def means(self) -> dict[str, float]:
        """Record → mean over its chunks of their frames' least distance."""
        self._end()
        self._chunk = ""
        return {record: total / chunks for record, (total, chunks) in self._sums.items()}

    def _end(self) -> None:
        if self._chunk:
            sums = self._sums.setdefault(_record(self._chunk), [0.0, 0])
            sums[0] += self._least
            sums[1] += 1


def frame_record(identifier: str) -> str:
    """The record of a frame or partial frame, by its id."""
    return _record(_chunk(identifier))


def _chunk(identifier: str) -> str:
    """``a_chunk_1`` of the frame ``a_chunk_1F2`` and of the partial frame ``a_chunk_1F2:4-90``."""
    frame = identifier if identifier[-2] in "FR" else identifier.rpartition(":")[0]
    return frame[:-2]


def _record(chunk: str) -> str:
    return chunk.rpartition("_chunk_")[0]


def _single(matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix, np.float32)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return content_digest("", sorted(arrays.items()), {"float32": "torch.float32"})
