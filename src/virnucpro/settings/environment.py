"""Environment variables that stand for settings: read once, while the workflow is parsed, and recorded with the results.

They override the configuration. Jobs get settings as parameters and never look at their own environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from virnucpro.errors import ConfigError


class Alias(NamedTuple):
    """The option that a variable stands for, and what it is where that is on or off; None leaves it."""

    option: str
    on: Any
    off: Any = None


PREFIX = "VIRNUCPRO_"
ALIASES = {
    "VIRNUCPRO_V1_ATTENTION": Alias("batching", "original"),
    "VIRNUCPRO_DISABLE_PACKING": Alias("batching", "single"),
    "VIRNUCPRO_DISABLE_FP16": Alias("precision", "fp32"),
    "VIRNUCPRO_COMPILE_MODEL": Alias("compile", True, False),
}
OTHERS = (
    *("VIRNUCPRO_ESM_URL", "VIRNUCPRO_CLASSIFIER_URL"),
    *("VIRNUCPRO_TEST_TOKENIZER", "VIRNUCPRO_UNMADE_SAMPLES", "VIRNUCPRO_QUIET"),
)
"""Variables of that prefix that stand for no option: where models are fetched from, the tests', what jobs are told."""

_VALUES = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


def read_switches(environment: Mapping[str, str]) -> dict[str, bool]:
    """The variables of ``ALIASES`` that are set in an environment; an empty value is none.

    Raises:
        ConfigError: an unknown ``VIRNUCPRO_`` name, a value that is neither on nor off, a contradiction.
    """
    found = {}
    for name, value in environment.items():
        if not name.startswith(PREFIX) or name in OTHERS:
            continue
        if name not in ALIASES:
            close = difflib.get_close_matches(name, ALIASES, n=1, cutoff=0.7)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(ALIASES)}."
            raise ConfigError(f"Unknown environment switch {name}{hint} Unset it or correct its name.")
        if value:
            if value.lower() not in _VALUES:
                raise ConfigError(f"Environment switch {name} can't be {value!r}: set it to 1 or 0, or unset it.")
            found[name] = _VALUES[value.lower()]
    on = [name for name in ALIASES if found.get(name)]
    for other in ("VIRNUCPRO_DISABLE_PACKING", "VIRNUCPRO_COMPILE_MODEL"):
        if {"VIRNUCPRO_V1_ATTENTION", other} <= set(on):
            raise ConfigError(
                f"VIRNUCPRO_V1_ATTENTION and {other} are both on, but the original's way of computing has its own batches "
                "and isn't compiled: unset one of them."
            )
    return {name: found[name] for name in ALIASES if name in found}


def overrides(switches: Mapping[str, bool]) -> dict[str, Any]:
    """The options that switches set, with their values."""
    asked = ((ALIASES[name].option, ALIASES[name].on if on else ALIASES[name].off) for name, on in switches.items())
    return {option: value for option, value in asked if value is not None}
