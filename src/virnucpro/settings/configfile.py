"""Configuration files, and values as they are written in one: YAML, strictly."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from virnucpro.errors import ConfigError
from virnucpro.settings.options import defaults


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file, as they are; ConfigError if it isn't a YAML mapping."""
    try:
        values = _yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't read the configuration ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter for what isn't UTF-8, or a date such as 2024-13-01
        raise ConfigError(f"{path}{_problem(error)}. Correct that line.") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}: holds no 'key: value' lines. `virnucpro config init` writes an example.")
    return values or {}


def check_config_file(path: str | Path) -> bool:
    """Whether a configuration file is there and sets keys.

    Raises:
        ConfigError: it can't be read, or has a key of another workflow.
    """
    if not os.path.lexists(path):
        return False
    known = defaults()
    given = read_config(path)
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.7)
            other = "If it is another workflow's, start in another folder (snakemake --directory FOLDER, or --output FOLDER)."
            raise ConfigError(
                f"{path} in {os.getcwd()}: unknown configuration key '{key}'"
                + (f"; did you mean '{close[0]}'?" if close else f". {other}")
            )
    return bool(given)


def read_value(text: str) -> Any:
    """What ``key=TEXT`` gives the key, as in a configuration file; ConfigError if that isn't YAML."""
    try:
        return _yaml(text or "null")
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{text}{_problem(error)}. Quote it.") from None


class _Loader(yaml.SafeLoader):
    """YAML in which no key is twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _problem(error: Exception) -> str:
    """Where and why something isn't YAML; what follows the file's name."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f", line {error.problem_mark.line + 1}: isn't YAML: {error.problem}"
    return f": isn't YAML: {' '.join(str(error).split())}"
