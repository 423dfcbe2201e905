"""Embeddings and a classifier → the scores of all frames, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from virnucpro.classifier.model import Classifier
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.errors import StorageError


def frame_scores(
    embeddings: MergedEmbeddings, model: Classifier, device: str, threads: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Ids and (n, 2) float32 softmax scores (others, virus) of n rows at a time, in the order of the file.

    Args:
        embeddings: of one sample.
        model: on ``device``, in eval mode.
        device: where it runs.
        threads: that read and score side by side. All sums over some rows are made by one thread, so the scores are
            the same with any number of them.

    Raises:
        StorageError: a value isn't finite; names the first frame of the rows it is in.
    """

    def score(rows: slice) -> tuple[list[str], np.ndarray]:
        ids, features = embeddings.read(rows)
        if not np.isfinite(features).all():
            raise StorageError(
                f"{embeddings.path}: holds values that are not finite near {ids[0]}. Delete it and run again."
            )
        return ids, model.scores(torch.from_numpy(features).to(device)).cpu().numpy()

    with ThreadPoolExecutor(threads, "score", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        ahead = deque[Future]()
        for rows in embeddings.windows():
            ahead.append(pool.submit(score, rows))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        for each in ahead:
            yield each.result()
