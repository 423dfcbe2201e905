"""How far a shard job is: a line now and then in its log. ``run_progress`` puts those of a run's jobs together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger(__name__)

INTERVAL = 15.0
"""Seconds between two lines in the log."""
LINE = r": (\d+) of (\d+) (?:bases|residues) \("
"""What such a line has, as a pattern: how many are done, of how many."""


@contextmanager
def progress(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more bases or residues are done.

    Args:
        name: what is worked on.
        total: how many there are.
        unit: what is counted, ``bases`` or ``residues``.
    """
    started = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= INTERVAL:
            said, rate = now, done / (now - started)
            left = tqdm.format_interval((total - done) / rate)
            logger.info("%s: %d of %d %s (%.0f %%), %.0f per s, %s left",
                        name, done, total, unit, 100 * done / total, rate, left)  # fmt: skip

    yield advance
