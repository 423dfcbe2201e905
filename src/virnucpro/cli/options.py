"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from virnucpro.configuration import PRESETS, schema

MODEL_KEYS = ("preset", "chunk_length", "dnabert_model", "esm_model", "models_dir")
COMPUTE_KEYS = (
    "precision",
    "compile",
    "attention",
    "tokens_per_batch",
    "shard_frames",
    "device",
    "empty_records",
    "cache_dir",
)


def from_schema(*keys: str) -> Callable[[Callable], Callable]:
    """Options for configuration keys, with the schema's descriptions."""

    def decorate(function: Callable) -> Callable:
        for key in reversed(keys):
            entry = schema()["properties"][key]
            preset = any(key in values for values in PRESETS.values())
            shown = "from the preset" if preset else "none" if entry["default"] is None else entry["default"]
            settings: dict[str, Any] = {"help": f"{entry['description']}  [default: {shown}]", "default": None}
            if entry.get("type") == "boolean":
                settings["is_flag"] = True
            else:
                choices = entry.get("enum", [])
                settings["metavar"] = "|".join(choices) or "VALUE"
                settings["shell_complete"] = _completing(choices)
            function = click.option(f"--{key.replace('_', '-')}", key, **settings)(function)
        return function

    return decorate


def running(function: Callable) -> Callable:
    """Options of the commands that start the workflow."""
    for option in (
        click.option("--dry-run", "-n", is_flag=True, help="Show what would run, and write nothing."),
        click.option("--gpus", default=None, type=int, help="GPUs to use at the same time  [default: 1]"),
        click.option("--cores", "-c", default=None, type=int, help="CPU cores to use  [default: all]"),
        click.option("--profile", help="A Snakemake profile: its folder, or the name of one of this workflow's."),
        click.option(
            "--configfile", type=click.Path(dir_okay=False), help="YAML file with configuration keys; options go first."
        ),
        click.option(
            "--output", "-o", default="results", show_default=True, help="Folder for everything that the run makes."
        ),
    ):
        function = option(function)
    return function


def _completing(choices: list[str]) -> Callable[..., list[CompletionItem]]:
    return lambda context, parameter, begun: [CompletionItem(word) for word in choices if word.startswith(begun)]
