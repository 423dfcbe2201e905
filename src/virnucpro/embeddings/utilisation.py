"""How busy a job keeps its GPU, as the driver counts it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks; the driver's own average is over at most one second."""


@contextmanager
def gpu_utilisation(device: str) -> Iterator[dict[str, Any]]:
    """Yield a dictionary for a job's record that is filled when the block ends; on a CPU it stays empty.

    ``gpu_name``; and ``gpu_utilisation``, the share of the block's time (0 to 1) in which the GPU had work, of
    whatever process. That is left out where the driver doesn't say, as for MIG instances, and for blocks of less than
    ``INTERVAL``.
    """
    record: dict[str, Any] = {}
    if device == "cpu":
        yield record
        return
    import torch

    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(INTERVAL):
            try:
                seen.append(torch.cuda.utilization())
            except Exception as error:  # whatever it is: a job doesn't end for want of a measurement
                logger.info("GPU utilisation isn't measured: %s", error)
                return

    watcher = threading.Thread(target=look, name="gpu-utilisation", daemon=True)
    watcher.start()
    try:
        yield record
    finally:
        over.set()
        watcher.join()
    record["gpu_name"] = torch.cuda.get_device_name()
    if seen:
        record["gpu_utilisation"] = sum(seen) / len(seen) / 100
