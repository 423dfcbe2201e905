"""Errors that a user can cause. Each message says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for an unknown word, or what there is to choose from; the end of a sentence."""
    known = list(known)
    small = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), small, n=1, cutoff=0.5)
    return f"; did you mean '{small[close[0]]}'?" if close else f"; known are {', '.join(known)}." if known else "."
