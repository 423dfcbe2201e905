"""Errors that a user can cause. Each message says what is wrong, where, and what to do."""


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
