"""The configuration: one schema with defaults, strict validation, presets."""

from __future__ import annotations

import difflib
import os
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from jsonschema import Draft202012Validator, ValidationError

from virnucpro import installation
from virnucpro.errors import ConfigError, InputError, nearest
from virnucpro.paths import expand_home, user_path

PRESETS: dict[str, dict[str, Any]] = {
    f"{name}-{length}": {
        "chunk_length": length,
        "dnabert_model": dnabert,
        "esm_model": esm,
        "classifier": f"{name}-{length}",
    }
    for name, dnabert, esm in (("mini", "mini-dnabert-s", "mini-esm2"), ("virnucpro", "DNABERT-S", "3B"))
    for length in (500, 300)
}
"""What a preset puts in place of null."""
DEFAULT_MODELS_DIR = "~/.cache/virnucpro/models"


@dataclass(frozen=True)
class Settings:
    """A validated configuration; the fields are the schema's keys."""

    preset: str
    chunk_length: int
    dnabert_model: str
    esm_model: str
    classifier: str
    samples: str | None
    output_dir: str
    cache_dir: str | None
    models_dir: str
    precision: str
    compile: bool
    attention: str
    tokens_per_batch: int | str
    shard_frames: int
    threshold: float
    empty_records: str
    device: str
    gpu_lease: bool
    gpu_lease_timeout: float
    gpu_lease_dir: str
    training_data: str | None
    training: dict[str, Any]
    labels: str | None
    evaluate_split: str | None
    contrasts: dict[str, list[str]]
    check_frames: int
    check_published: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping, for YAML and JSON."""
        return asdict(self)


@cache
def schema() -> dict[str, Any]:
    """The JSON schema; its ``default`` entries are the only defaults there are."""
    path = installation.root() / "workflow" / "schemas" / "config.schema.yaml"
    return yaml.safe_load(path.read_text())


def defaults() -> dict[str, Any]:
    """Every key with its default."""
    return {key: entry["default"] for key, entry in schema()["properties"].items()}


def resolve(given: Mapping[str, Any]) -> Settings:
    """Validate what the user gave, and fill in defaults and the preset.

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
    if values["threshold"] != values["threshold"]:
        raise ConfigError("Configuration key 'threshold' can't be NaN: it must be a number.")
    for error in Draft202012Validator(schema()).iter_errors(values):
        raise _explain(error, values, properties)
    for key, value in PRESETS[values["preset"]].items():
        if values[key] is None:
            values[key] = value
    if values["models_dir"] is None:
        values["models_dir"] = expand_home(DEFAULT_MODELS_DIR)
    for key, entry in properties.items():
        if values[key] is not None and "format" in entry:
            values[key] = _user_path(key, values[key], entry["format"])
    return Settings(**values)


def path_keys() -> list[str]:
    """The keys that take a path; those that take a model's name or its path are in ``models.KEYS``."""
    return [key for key, entry in schema()["properties"].items() if entry.get("format") == "path"]


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
    known = schema()["properties"]
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


def commented_defaults() -> str:
    """A configuration file that says what each key is for and sets it to its default."""
    lines = [f"# {schema()['title']}: every key with its default; a key that isn't given has it too."]
    for key, entry in schema()["properties"].items():
        choices = f" One of {', '.join(entry['enum'])}." if "enum" in entry else ""
        lines += ["", *textwrap.wrap(entry["description"] + choices, 118, initial_indent="# ", subsequent_indent="# ")]
        lines.append(yaml.safe_dump({key: entry["default"]}).rstrip())
    return "\n".join(lines) + "\n"


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


def _explain(error: ValidationError, values: Mapping[str, Any], properties: Mapping[str, Any]) -> ConfigError:
    path = [str(step) for step in error.path]
    if error.validator == "additionalProperties":
        known = properties[path[0]]["properties"]
        unknown = next(key for key in values[path[0]] if key not in known)
        return ConfigError(f"Unknown configuration key '{path[0]}: {unknown}'{nearest(unknown, known)}")
    about = f"Configuration key '{': '.join(path)}' can't be {error.instance!r}"
    entry = cast(Mapping[str, Any], error.schema)
    if gone := _REMOVED.get((path[-1], str(error.instance))):
        return ConfigError(f"{about} any more: {gone}")
    if "enum" in entry:
        return ConfigError(f"{about}{nearest(str(error.instance), [str(choice) for choice in entry['enum']])}")
    kinds = entry.get("type", [])
    text = " or ".join(_WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    limits = [f"{word} {entry[name]}" for name, word in _LIMITS.items() if name in entry]
    return ConfigError(f"{about}: it must be {' '.join([text, *limits])}.")


_REMOVED = {("attention", "varlen"): "'triton' computes the same, faster. Name that one, or 'auto'."}
"""(Key, value) → what takes the place of a value that there was."""

_WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"} | {
    "object": "a mapping",
    "array": "a list",
}
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "pattern": "matching"}
