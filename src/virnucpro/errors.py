"""Errors that a user can cause. Each message says what is wrong, where, and what to do."""

import errno
import os

_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
"""Errors of a disk, a quota or a mount: for the user to mend, and no fault of the program."""


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
    if error.errno not in _STORAGE and not vanished:
        return None
    where = where or " ".join(str(error).split())
    return (
        f"{os.strerror(error.errno or 0)}: {where}. Mend that and give the same command again: nothing half-written is "
        "left, and what is finished is kept."
    )
