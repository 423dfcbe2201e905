"""Vectors that former results hold already: copied into a shard's file where a sequence's digest is the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.embeddings.distinct import DistinctSequences
from virnucpro.embeddings.store import ROWS_PER_CHUNK, MergedEmbeddings, ShardFile, runs
from virnucpro.errors import StorageError
from virnucpro.sequences.shards import KINDS

logger = logging.getLogger(__name__)

_ROWS_SEARCHED = 64 * ROWS_PER_CHUNK  # digests in memory at a time: 1 MB


def copy_known(
    file: ShardFile, sequences: DistinctSequences, known: Sequence[Path], role: str, key: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Write the rows of all sequences whose vectors former results hold, bit for bit.

    Args:
        file: the shard's file in the making.
        sequences: of the shard.
        known: ``embeddings.h5`` of former results; those that aren't there or were made under another key are passed
            over, those that can't be used with a warning.
        role: ``dna`` or ``protein``.
        key: the embedding key that the vectors must have been made under.

    Returns:
        (k,) bool, the distinct sequences that are written now; and the ways in which their vectors were computed.
    """
    found = np.zeros(len(sequences), bool)
    ways: list[dict[str, Any]] = []
    for path in known:
        if found.all():
            break
        if not Path(path).exists():
            continue
        for kind in KINDS:
            for numbers, vectors, computed in _matching(Path(path), kind, sequences, found, role, key, file.width):
                rows, which = sequences.rows(numbers)
                file.write_rows(rows, vectors[which])
                found[numbers] = True
                ways += [way for way in computed if way not in ways]
    return found, ways


def _matching(
    path: Path, kind: str, sequences: DistinctSequences, found: np.ndarray, role: str, key: str, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]]:
    """(m,) numbers of distinct sequences that aren't found yet, their (m, d) vectors, and how the file's were computed.

    Ends with a warning where the file can't be used.
    """
    try:
        former = MergedEmbeddings(path, kind)
        if former.provenance.get("keys", {}).get(role) != key:
            return
        computed = former.provenance["computed"][role]
        for dataset, digests, part in former.parts(role):
            if digests is None:
                continue
            for start in range(part.start, part.stop, _ROWS_SEARCHED):
                stop = min(start + _ROWS_SEARCHED, part.stop)
                numbers = sequences.find(digests[start:stop])
                rows = np.flatnonzero(numbers >= 0)
                rows = rows[~found[numbers[rows]]]
                rows = rows[np.sort(np.unique(numbers[rows], return_index=True)[1])]  # of equal ones the first
                for at in range(0, len(rows), ROWS_PER_CHUNK):
                    some = rows[at : at + ROWS_PER_CHUNK]
                    vectors = np.concatenate(
                        [dataset[start + some[run][0] : start + some[run][-1] + 1] for run in runs(some)]
                    )
                    if vectors.shape[1] != width or not np.isfinite(vectors).all():
                        raise StorageError(f"{path}: holds {role} vectors that are not finite, or of another width.")
                    yield numbers[some], vectors, computed
    # Whatever is wrong with a file of an earlier run, this one can do without.
    except (StorageError, OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        logger.warning("can't take vectors from %s, so they are computed: %s", path, error)
