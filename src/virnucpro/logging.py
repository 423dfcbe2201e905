"""The log file of a job, one per attempt; an error that a user can cause is a message without a traceback."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from virnucpro import __version__
from virnucpro.errors import VirNucProError, storage_message

logger = logging.getLogger("virnucpro")
QUIET = "VIRNUCPRO_QUIET"
"""Set for jobs that show warnings and errors only, and what ``ANSWERS`` say; all is in their logs."""
ANSWERS = "virnucpro.classifier."
"""Loggers whose notes are what the user asked for: epochs, how good a classifier is."""


@contextmanager
def job(log: str | Path) -> Iterator[None]:
    """Run the block, a script's call of the library, with ``log`` as its log file.

    The logs of earlier attempts are kept as ``<name>.log.1``, ``<name>.log.2``, … A VirNucProError, a full disk, or a
    folder that can't be written or has vanished ends the process with status 1 and one message; any other error keeps
    its traceback.
    """
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        number = 1
        while (kept := log.with_name(f"{log.name}.{number}")).exists():
            number += 1
        log.rename(kept)
    handlers = (logging.FileHandler(log), logging.StreamHandler(sys.stderr))
    formatter = logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    # How far a job is stands in its log; the screen has one line for all jobs, made of those (embeddings.run_progress).
    handlers[1].addFilter(lambda record: not record.name.endswith(".progress"))
    if os.environ.get(QUIET):
        handlers[1].addFilter(lambda record: record.levelno > logging.INFO or record.name.startswith(ANSWERS))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.info("virnucpro %s on %s", __version__, ", ".join([socket.gethostname(), *_allocation()]))
    try:
        yield
        logger.info("done")
    except VirNucProError as error:
        logger.error("%s", error)
        sys.exit(1)
    except OSError as error:
        if (message := storage_message(error)) is None:
            logger.exception("stopped")
            raise
        logger.error("%s", message)
        sys.exit(1)
    except KeyboardInterrupt:
        logger.error("interrupted")
        sys.exit(128 + signal.SIGINT)
    except BaseException:
        logger.exception("stopped")
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def _allocation() -> list[str]:
    """The cluster's job and the GPUs it gave, if there are any, as ``NAME=value``."""
    return [f"{name}={os.environ[name]}" for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES") if name in os.environ]
