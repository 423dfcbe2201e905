"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from virnucpro.errors import ConfigError, InputError
from virnucpro.models.sources import BUNDLED, KEYS, PUBLISHED
from virnucpro.paths import expand_home, user_path
from virnucpro.settings.configfile import read_config
from virnucpro.settings.options import options, schema
from virnucpro.settings.presets import PRESETS

_NAMES = {key: [*BUNDLED[role], *PUBLISHED[role]] for role, key in KEYS.items()}
_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")

RUN_KEYS = tuple(each.name for each in options() if each.metadata["command"])
"""Configuration keys that are options of the commands that start the workflow."""


class UserPath(click.Path):
    """A path in any spelling that the library understands; never empty, as an unset variable makes it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name = param.get_error_hint(ctx) if param and ctx else "a path"
        if value == "":
            raise ConfigError(f"empty {name}. Give a name; perhaps a variable isn't set.")
        try:
            user_path(value)
        except InputError as error:
            raise ConfigError(f"{name}: {error}") from None
        return super().convert(expand_home(value), param, ctx)


inputs = click.argument("inputs", nargs=-1, metavar="INPUT...", required=True, type=click.Path(allow_dash=True))
configfile = click.option(
    "--configfile", type=UserPath(dir_okay=False), help="YAML file with configuration keys; options go first."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def from_schema(*keys: str, without: Collection[str] = ()) -> Callable[[Callable], Callable]:
    """Options for configuration keys, with the schema's descriptions."""

    def decorate(function: Callable) -> Callable:
        for key in reversed([key for key in keys if key not in without]):
            entry = schema()["properties"][key]
            preset = any(key in values for values in PRESETS.values())
            shown = "from the preset" if preset else "none" if entry["default"] is None else entry["default"]
            settings: dict[str, Any] = {"help": f"{entry['description']}  [default: {shown}]", "default": None}
            word = key.replace("_", "-")
            if entry.get("type") == "boolean":
                settings["is_flag"] = True
                word = f"{word}/--no-{word}" if entry["default"] else word
            else:
                choices = entry.get("enum", [])
                settings["type"] = UserPath() if "format" in entry else None
                settings["metavar"] = "|".join(choices) or "VALUE"
                settings["shell_complete"] = completing(choices or _NAMES.get(key, []), files=not choices)
            function = click.option(f"--{word}", key, **settings)(function)
        return function

    return decorate


class GPUs(click.ParamType):
    """A number of GPUs, or a list of their indices, UUIDs or MIG ids: gives (number, list or None)."""

    name = "N|LIST"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str | None]:
        if value.isdecimal():
            return int(value), None
        chosen = [entry.strip() for entry in value.split(",") if entry.strip()]
        if not chosen or len(set(chosen)) < len(chosen) or not all(map(_GPU.fullmatch, chosen)):
            self.fail(f"{value!r} is neither a number of GPUs nor a list of different ones, such as 2,3")
        return len(chosen), ",".join(chosen)


def running(function: Callable) -> Callable:
    """Options of the commands that start the workflow."""
    for option in (
        click.option("--dry-run", "-n", is_flag=True, help="Show what would run, and write nothing."),
        click.option("--verbose", "-v", is_flag=True, help="Show all that Snakemake and the jobs say; it is in OUTPUT/logs "
                     "and OUTPUT/.snakemake/log, too."),
        click.option("--gpus", type=GPUs(), help="How many GPUs to use (2), or which (2,3; a comma after a single one; "
                     "ids are fine)  [default: all]"),
        click.option("--cores", "-c", type=click.IntRange(1), help="CPU cores to use  [default: all]"),
        click.option("--profile", type=UserPath(),
                     help="A Snakemake profile: its folder, or the name of one of this workflow's."),
        configfile,
        click.option("--output", "-o", default="results", show_default=True, type=UserPath(), metavar="FOLDER",
                     help="Folder for everything that the run makes."),
    ):  # fmt: skip
        function = option(function)
    return function


def given_keys(given: Mapping[str, Any], configfile: str | None = None) -> dict[str, Any]:
    """The configuration keys that the user gave: in the file, and as options, which go first (None: not given)."""
    return (read_config(configfile) if configfile else {}) | {k: v for k, v in given.items() if v is not None}


def completing(words: Iterable[str], files: bool = False) -> Callable[..., list[CompletionItem]]:
    """Completion with the words that fit, or else, if wanted, with the names of files."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        found = [CompletionItem(word) for word in words if word.startswith(begun)]
        return found or [CompletionItem(begun, type="file")] * files

    return complete
