"""The configuration: one schema with defaults, strict validation, presets, the sample sheet."""

from __future__ import annotations

import csv
import difflib
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from jsonschema import Draft202012Validator, ValidationError

from virnucpro import installation
from virnucpro.errors import ConfigError, InputError
from virnucpro.files import matching

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

_COMPRESSED = re.compile(r"\.(gz|bgz|zst|zstd)$", re.IGNORECASE)
RESERVED = ("benchmarks", "check", "evaluation", "inputs", "logs", "models", "report.html", "training")
"""Names in ``output_dir`` that no sample may have."""


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
    if values["threshold"] != values["threshold"]:
        raise ConfigError("Configuration key 'threshold' can't be NaN: it must be a number.")
    for error in Draft202012Validator(schema()).iter_errors(values):
        raise _explain(error, values, properties)
    for key, value in PRESETS[values["preset"]].items():
        if values[key] is None:
            values[key] = value
    if values["models_dir"] is None:
        values["models_dir"] = str(Path.home() / ".cache" / "virnucpro" / "models")
    for key in ("output_dir", "cache_dir", "models_dir", "gpu_lease_dir"):  # one spelling for one folder
        if values[key] is not None:
            values[key] = os.path.normpath(Path(values[key]).expanduser())
    return Settings(**values)


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file, as they are; ConfigError if it isn't a YAML mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't read the configuration ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: isn't YAML: {' '.join(str(error).split())}. Correct that line.") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}: holds no 'key: value' lines. `virnucpro config init` writes an example.")
    return values or {}


def commented_defaults() -> str:
    """A configuration file that says what each key is for and sets it to its default."""
    lines = [f"# {schema()['title']}: every key with its default; a key that isn't given has it too."]
    for key, entry in schema()["properties"].items():
        choices = f" One of {', '.join(entry['enum'])}." if "enum" in entry else ""
        lines += ["", *textwrap.wrap(entry["description"] + choices, 118, initial_indent="# ", subsequent_indent="# ")]
        lines.append(yaml.safe_dump({key: entry["default"]}).rstrip())
    return "\n".join(lines) + "\n"


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for an unknown word, or what there is to choose from; the end of a sentence."""
    known = list(known)
    small = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), small, n=1, cutoff=0.5)
    return f"; did you mean '{small[close[0]]}'?" if close else f"; known are {', '.join(known)}." if known else "."


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
    if "string" in kinds and "integer" not in kinds and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is None and "null" not in kinds:
        return entry.get("default")
    if "integer" in kinds and isinstance(value, float):  # 500.0, which the schema would take for a whole number
        return int(value) if value.is_integer() else value
    return value


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


def read_samples(path: str | Path | None) -> dict[str, list[Path]]:
    """Read the sample sheet; None is the bundled example's.

    Returns:
        Sample name → its FASTA or FASTQ files, both in the sheet's order; relative paths start at its folder, and a
        pattern (``reads/*.fq.gz``) stands for its files, sorted.

    Raises:
        InputError: no such file, missing columns, a bad sample name, a file given twice, a pattern without a file.
    """
    path = Path(path or installation.root() / "config" / "samples.tsv")
    if not path.is_file():
        raise InputError(
            f"{path}: no such sample sheet. Give a tab-separated file with the columns sample and fasta as 'samples'."
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            lines = [line for line in handle if line.strip() and not line.startswith("#")]
    except UnicodeDecodeError:
        raise InputError(f"{path}: isn't UTF-8 text. Save the sample sheet as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path}: can't read the sample sheet ({error.strerror}).") from None
    table = csv.DictReader(lines, delimiter="\t")
    columns = [name.strip() for name in table.fieldnames or []]
    table.fieldnames = columns
    for name in ("sample", "fasta"):
        if name not in columns:
            raise InputError(
                f"{path}: has no column '{name}'; its columns are {', '.join(columns) or 'none'}. The file must be tab-separated."
            )
    samples: dict[str, list[Path]] = {}
    for number, row in enumerate(table, start=1):
        sample, fasta = ((row[name] or "").strip() for name in ("sample", "fasta"))
        where = f"{path}, row {number}"
        check_sample_name(sample, where)
        if not fasta:
            raise InputError(f"{where}: sample '{sample}' has no FASTA path.")
        for file in matching(Path(os.path.normpath(path.parent / Path(fasta).expanduser()))):
            if file in samples.setdefault(sample, []):
                raise InputError(f"{where}: {file} is listed twice for sample '{sample}'.")
            samples[sample].append(file)
    if not samples:
        raise InputError(f"{path}: lists no samples.")
    return samples


def check_sample_name(sample: str, where: str) -> None:
    """Raise InputError for a name that can't be a folder of the results; ``where`` begins the message."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", sample):
        raise InputError(
            f"{where}: sample name {sample!r} must consist of letters, digits, '.', '_' and '-' and start with a letter or digit."
        )
    if sample in RESERVED:
        raise InputError(f"{where}: sample name '{sample}' is reserved for other results. Choose another.")


def name_samples(fastas: Iterable[Path]) -> dict[str, list[Path]]:
    """Samples named after their files, one each.

    Raises:
        InputError: two files would give the same name.
    """
    samples: dict[str, list[Path]] = {}
    for path in fastas:
        name = sample_name(path)
        if name in samples:
            raise InputError(
                f"{path} and {samples[name][0]} would both be sample '{name}'. Rename one, or run them apart."
            )
        samples[name] = [path]
    return samples


def sample_name(path: Path) -> str:
    """A file's name without what tells its format, as the name of a sample."""
    stem = re.sub(r"\.(fa|fna|fasta|fas|ffn|fq|fastq)$", "", _COMPRESSED.sub("", path.name), flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-") or "sample"
    return f"{name}_sample" if name in RESERVED else name


def missing_fasta(path: Path, sheet: str | Path | None) -> InputError:
    """The error for a FASTA file, listed in ``sheet`` if not None, that neither exists nor is made by a rule."""
    listed = f" It is listed in {sheet}." if sheet else ""
    if path.is_dir():
        return InputError(f"{path}: is a folder. Give its files, with a pattern such as '{path}/*.fa'.{listed}")
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings) if difflib.get_close_matches(path.name, siblings, cutoff=0.5) else "."
    return InputError(f"{path}: no such file{hint}{listed}")
