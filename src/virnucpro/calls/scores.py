"""A block of a sample → the scores of its frames and its rows in all tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from virnucpro.calls.blocks import Block
from virnucpro.calls.rows import BlockRows, BlockTables
from virnucpro.calls.rules import Rules
from virnucpro.classifier.scoring import Scores, load_scorer
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.errors import StorageError
from virnucpro.sequences.shards import FRAMES, KINDS, PARTIAL

SCORED_ROWS = 1024
"""Frames that are scored at once: 27 MB for 3,328 numbers each."""


class ScoreBlock:
    """Reads, scores and writes down one block after the other; the same here and in another process.

    Its ``spec`` is the classifier's.

    Args:
        merged: ``embeddings.h5``.
        classifier: a classifier's file that fits.
        rules: of the calls; calibration, limit and categories are taken from the classifier's file.
    """

    def __init__(self, merged: Path, classifier: Path, rules: Rules) -> None:
        self._given = (merged, classifier, rules)
        self._embeddings = {kind: MergedEmbeddings(merged, kind) for kind in KINDS}
        self._scorer, self.spec = load_scorer(classifier)
        self.rules = replace(
            rules,
            calibration=self.spec.read_calibration(classifier),
            limit=self._scorer.reference.limit if self._scorer.reference else None,
            categories=tuple((each["name"], each["viral"]) for each in self.spec.categories or ()),
        )

    def __reduce__(self) -> tuple[type[ScoreBlock], tuple[Path, Path, Rules]]:
        return ScoreBlock, self._given  # another process opens the files itself

    def __call__(self, block: Block) -> BlockTables:
        """A block's rows; StorageError for what ``scores`` and ``BlockRows`` refuse."""
        rows = BlockRows(block, self.rules, self._embeddings[FRAMES].scores_partial)
        for ids, scores in self.scores(PARTIAL, block.partial):
            rows.add_partial(ids, scores)
        for ids, scores in self.scores(FRAMES, block.rows):
            rows.add(ids, scores)
        return rows.finish()

    def scores(self, kind: str, rows: slice) -> Iterator[tuple[list[str], Scores]]:
        """Ids and scores of n rows at a time, in order.

        Raises:
            StorageError: a value isn't finite; names its frame.
        """
        embeddings = self._embeddings[kind]
        for start in range(rows.start or 0, rows.stop, SCORED_ROWS):
            ids, features = embeddings.read(slice(start, min(start + SCORED_ROWS, rows.stop)))
            finite = np.isfinite(features)
            if not finite.all():
                raise StorageError(
                    f"{embeddings.path}: holds values that are not finite near "
                    f"{ids[int(np.argmin(finite.all(axis=1)))]}. Delete it and run again."
                )
            yield ids, self._scorer(features)
