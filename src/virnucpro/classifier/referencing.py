"""Embeddings of labelled samples → the reference of a classifier's file, its limit from groups that were held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.classifier.calibrating import FOLDS, Development, group_folds
from virnucpro.classifier.reference import ContigDistances, Moments, Reference, frame_record, measure_limit
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.errors import StorageError
from virnucpro.result_tables import NON_VIRAL, VIRAL
from virnucpro.sequences.shards import KINDS


@dataclass(frozen=True)
class FittedReference:
    """A reference, and what it was fitted on."""

    reference: Reference
    classes: list[str]
    rows: int  # frames, partial ones included

    def described(self) -> dict[str, Any]:
        """The classifier's specification of it."""
        return self.reference.described(self.classes, self.rows)


def reference_of_samples(
    embeddings: Mapping[str, Path], contigs: Mapping[tuple[str, str], int], data: Development, width: int
) -> FittedReference:
    """The reference of all frames of some contigs, stop-free and partial.

    Classes are the categories, viral and non-viral ones apart; the empty one is called as the class. The limit is what
    99 % of the contigs stay below, each measured by a reference of the other four folds of groups. Two passes over the vectors; memory holds
    seven matrices of width × width.

    Args:
        embeddings: sample → its ``embeddings.h5``.
        contigs: (sample, record) → its number in ``data``; frames of other records are left out.
        data: the contigs.
        width: columns that the classifier takes.

    Raises:
        InputError: there are no such frames, or all are alike.
        StorageError: a file can't be read, or its vectors are of another width.
    """
    files = [(sample, MergedEmbeddings(path, kind)) for sample, path in embeddings.items() for kind in KINDS]
    for _, file in files:
        if file.width != width:
            raise StorageError(
                f"{file.path}: has {file.width:,} columns, the classifier takes {width:,}. Delete it and run again."
            )
    names = [
        category or (VIRAL if viral else NON_VIRAL)
        for viral, category in zip(data.viral.tolist(), data.category.tolist(), strict=True)
    ]
    strata = sorted(set(zip(data.viral.tolist(), names, strict=True)), reverse=True)
    number = np.array([strata.index(each) for each in zip(data.viral.tolist(), names, strict=True)])
    fold = group_folds(data)
    parts = [Moments(len(strata), width) for _ in range(FOLDS)]
    for _, _, features, contig in _blocks(files, contigs):
        for place, moments in enumerate(parts):
            if (rows := fold[contig] == place).any():
                moments.add(features[rows], number[contig[rows]])
    references = [_sum(parts[:place] + parts[place + 1 :]).reference() for place in range(FOLDS)]
    whole = _sum(parts)
    del parts
    found = {sample: ContigDistances() for sample in embeddings}
    for sample, ids, features, contig in _blocks(files, contigs):
        distances = np.empty(len(features), np.float32)
        for place, reference in enumerate(references):
            if (rows := fold[contig] == place).any():
                distances[rows] = reference.distance(features[rows])
        found[sample].add(ids, distances)
    held_out = {contigs[sample, record]: value for sample in found for record, value in found[sample].means().items()}
    limit = measure_limit(np.array(list(held_out.values())), data.weights[list(held_out)])
    there = [name for (_, name), count in zip(strata, whole.counts, strict=True) if count]
    return FittedReference(replace(whole.reference(), limit=limit), there, int(whole.counts.sum()))


def _blocks(
    files: Sequence[tuple[str, MergedEmbeddings]], contigs: Mapping[tuple[str, str], int]
) -> Iterator[tuple[str, list[str], np.ndarray, np.ndarray]]:
    """Sample, n frame ids, features (n, width) float32 and contigs (n,) of the frames of some contigs, block by block."""
    for sample, file in files:
        for window in file.windows():
            ids, features = file.read(window)
            contig = np.array([contigs.get((sample, frame_record(identifier)), -1) for identifier in ids])
            if (known := contig >= 0).any():
                yield sample, [ids[row] for row in np.flatnonzero(known)], features[known], contig[known]


def _sum(parts: Sequence[Moments]) -> Moments:
    whole = Moments(*parts[0].shape)
    for part in parts:
        whole.add_moments(part)
    return whole
