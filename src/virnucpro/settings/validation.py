"""What a user gave, validated and resolved; messages name the key, the value and the nearest valid one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError

from virnucpro.errors import ConfigError, InputError, nearest
from virnucpro.paths import expand_home, user_path
from virnucpro.settings.environment import overrides
from virnucpro.settings.options import Settings, defaults, schema
from virnucpro.settings.presets import DEFAULT_MODELS_DIR, ORIGINAL, PRESETS

REMOVED = {
    ("attention", "varlen"): "'triton' computes the same, faster. Name that one, or 'auto'.",
    ("precision", "fp8"): "'int8' takes its place, with half of the error. Name that one, or 'auto'.",
}
"""(Key, value) → what takes the place of a value that there was."""


def resolve(given: Mapping[str, Any], switches: Mapping[str, bool] | None = None) -> Settings:
    """Validate what the user gave, and fill in defaults, the preset, and what environment switches say instead.

    Raises:
        ConfigError: names the key, the value, and the nearest valid name.
    """
    properties = schema()["properties"]
    for key in given:
        if key not in properties:
            raise ConfigError(f"Unknown configuration key '{key}'{nearest(key, properties)}")
    values = defaults() | {key: _coerce(value, properties[key]) for key, value in given.items()}
    for key, value in values.items():
        _refuse_lost_spelling(key, value, properties[key])
    for key in ("threshold", "fdr", "prior"):
        if values[key] != values[key]:
            raise ConfigError(f"Configuration key '{key}' can't be NaN: it must be a number.")
    for error in Draft202012Validator(schema()).iter_errors(values):
        raise _explain(error, values, properties)
    values |= overrides(switches or {})
    if values["batching"] == "original":
        values |= ORIGINAL
    for key, value in PRESETS[values["preset"]].items():
        if values[key] is None:
            values[key] = value
    if values["models_dir"] is None:
        values["models_dir"] = expand_home(DEFAULT_MODELS_DIR)
    for key, entry in properties.items():
        if values[key] is not None and "format" in entry:
            values[key] = _user_path(key, values[key], entry["format"])
    return Settings(**values)


def _coerce(value: Any, entry: Mapping[str, Any]) -> Any:
    """Undo what the command line's parser can't know: every value there starts as text."""
    kinds = entry.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, Mapping):
        inside = entry.get("properties", {})
        return {key: _coerce(item, inside.get(key, {})) for key, item in value.items()}
    for kind, convert in (("integer", int), ("number", float)):
        if kind in kinds and isinstance(value, str):
            with suppress(ValueError):
                value = convert(value)
                break
    if isinstance(value, bool) and "true" in entry.get("enum", ()):  # which YAML doesn't leave as text
        return str(value).lower()
    if isinstance(value, str):
        if "boolean" in kinds and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if "null" in kinds and value.lower() in ("", "null", "none"):
            return None
    if value is None and "null" not in kinds:
        return entry.get("default")
    if "integer" in kinds and isinstance(value, float):  # 500.0, which the schema would take for a whole number
        return int(value) if value.is_integer() else value
    return value


def _refuse_lost_spelling(key: str, value: Any, entry: Mapping[str, Any]) -> None:
    """Raise ConfigError for text that YAML or Snakemake read as something else: 2024_01_15 is 20240115 then."""
    kinds = entry.get("type", [])
    if "string" not in kinds or "integer" in kinds or not isinstance(value, bool | int | float | date):
        return
    read_as = "true or false" if isinstance(value, bool) else "a date" if isinstance(value, date) else "a number"
    raise ConfigError(
        f"Configuration key '{key}' was read as {read_as} ({value}), so its spelling is lost. Begin it with ./ "
        f'(snakemake --config {key}=./...), or quote it in the file ({key}: "...").'
    )


def _user_path(key: str, value: str, kind: str) -> str:
    """A path in one spelling; of a model, which may be a name, only the home folder is put in."""
    try:
        path = str(user_path(value))
    except InputError as error:
        raise ConfigError(f"Configuration key '{key}': {error}") from None
    return path if kind == "path" else expand_home(value)


def _explain(error: ValidationError, values: Mapping[str, Any], properties: Mapping[str, Any]) -> ConfigError:
    path = [str(step) for step in error.path]
    if error.validator == "additionalProperties":
        known = properties[path[0]]["properties"]
        unknown = next(key for key in values[path[0]] if key not in known)
        return ConfigError(f"Unknown configuration key '{path[0]}: {unknown}'{nearest(unknown, known)}")
    about = f"Configuration key '{': '.join(path)}' can't be {error.instance!r}"
    entry = cast(Mapping[str, Any], error.schema)
    if successor := REMOVED.get((path[-1], str(error.instance))):
        return ConfigError(f"{about} any more: {successor}")
    if "enum" in entry:
        return ConfigError(f"{about}{nearest(str(error.instance), [str(choice) for choice in entry['enum']])}")
    kinds = entry.get("type", [])
    text = " or ".join(_WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    limits = [f"{word} {entry[name]}" for name, word in _LIMITS.items() if name in entry]
    return ConfigError(f"{about}: it must be {' '.join([text, *limits])}.")


_WORDS = {
    **{"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"},
    **{"object": "a mapping", "array": "a list"},
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "pattern": "matching",
}
