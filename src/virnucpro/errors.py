"""Errors that a user can cause. Each message says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

_STORAGE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
)
"""Error numbers of a disk, a quota or a mount: for the user to mend, not faults of the program."""


class VirNucProError(Exception):
    """Base of all errors that end a run with one message and no traceback."""


class InputError(VirNucProError):
    """A sequence file, sample sheet or label table that can't be used as it is."""


class ConfigError(VirNucProError):
    """A configuration key, value or environment switch that isn't valid."""


class ModelError(VirNucProError):
    """A checkpoint, tokenizer or classifier that is missing, damaged, unsafe or doesn't fit."""


class StorageError(VirNucProError):
    """An intermediate or result file that is incomplete or disagrees with another."""


class DeviceError(VirNucProError):
    """A GPU that isn't there, or that another job holds for too long."""


def storage_message(error: OSError) -> str | None:
    """The message for a full disk, or a folder that can't be written or is gone; None for any other OSError."""
    where: str = error.filename2 or error.filename or ""  # of a copy, what it is copied to
    vanished = error.errno == errno.ENOENT and where and not os.path.isdir(os.path.dirname(os.path.abspath(where)))
    if error.errno not in _STORAGE_ERRORS and not vanished:
        return None
    where = where or " ".join(str(error).split())
    return (
        f"{os.strerror(error.errno or 0)}: {where}. Mend that and give the same command again: nothing half-written is "
        "left, and what is finished is kept."
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for an unknown word, or what there is to choose from; the end of a sentence."""
    known = list(known)
    small = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), small, n=1, cutoff=0.5)
    return f"; did you mean '{small[close[0]]}'?" if close else f"; known are {', '.join(known)}." if known else "."
