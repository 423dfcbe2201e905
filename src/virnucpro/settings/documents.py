"""Files that state options: a commented configuration file, and what the repository holds of them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import Field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from virnucpro.settings.environment import ALIASES
from virnucpro.settings.options import TITLE, TrainOptions, default, options, schema
from virnucpro.settings.presets import PRESETS

MADE = "# Made from src/virnucpro/settings/options.py by `python -m virnucpro.settings`."


def commented_defaults() -> str:
    """A configuration file that says what each key is for and sets it to its default."""
    lines = [f"# {TITLE}: every key with its default; a key that isn't given has it too."]
    for key, entry in schema()["properties"].items():
        choices = f" One of {', '.join(entry['enum'])}." if "enum" in entry else ""
        lines += ["", *textwrap.wrap(entry["description"] + choices, 118, initial_indent="# ", subsequent_indent="# ")]
        lines.append(yaml.safe_dump({key: entry["default"]}).rstrip())
    return "\n".join(lines) + "\n"


def repository_files(root: Path) -> dict[Path, str]:
    """The files of the repository that state options, and what has to be in them."""
    manual = root / "config" / "README.md"
    layout: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 1000}
    return {
        root / "config" / "config.yaml": commented_defaults(),
        root / "workflow" / "schemas" / "config.schema.yaml": f"{MADE}\n{yaml.safe_dump(schema(), **layout)}",
        manual: _with_tables(manual.read_text(encoding="utf-8")),
    }


def _with_tables(manual: str) -> str:
    """The manual with the tables of options, presets and switches as they have to be; they are known by their places."""
    columns = [*next(iter(PRESETS.values()))]
    presets = [[name, *(preset[key] for key in columns)] for name, preset in PRESETS.items()]
    switches = [[name, _given(key, on), _given(key, off)] for name, (key, on, off) in ALIASES.items()]
    sections = {each.metadata["section"] for each in options()}
    tables = [(section, _options("key", [each for each in options() if each.metadata["section"] == section]))
              for section in sections]  # fmt: skip
    tables += [
        ("With which models", _table(["preset", *columns], presets)),
        ("Environment switches", _table(["switch", "on", "off"], switches)),
        ("Training and evaluating", _options("key of training", options(TrainOptions))),
    ]
    for section, table in tables:
        header = re.escape(table.partition("\n")[0])
        found = re.search(rf"^## {section}\n(?:(?!## ).*\n)*?({header}\n(?:\|.*\n)+)", manual, flags=re.M)
        assert found, f"the manual has no place for the table of {section}"
        manual = manual[: found.start(1)] + table + manual[found.end(1) :]
    return manual


def _options(title: str, keys: Iterable[Field]) -> str:
    """The table of options: name, default as YAML, and all that is said of them."""
    rows, meanings = [], []
    for each in keys:
        choices = ", ".join(f"`{choice}`" for choice in each.metadata["limits"].get("enum", ()))
        meaning = [each.metadata["description"], f"One of {choices}." if choices else "", each.metadata["more"]]
        rows.append([each.name, yaml.safe_dump(default(each)).split("\n")[0]])
        meanings.append(" ".join(filter(None, meaning)))
    return _table([title, "default", "meaning"], rows, meanings)


def _given(key: str, value: Any) -> str:
    """An option's value as in a configuration file."""
    return "" if value is None else yaml.safe_dump({key: value}).strip()


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], last: Sequence[str] = ()) -> str:
    """A table in Markdown: cells of code, and the ``last`` column if it is text."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row, text in zip_longest(rows, last):
        cells = [f"`{cell}`" if cell != "" else "–" for cell in row] + [text] * bool(text)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
