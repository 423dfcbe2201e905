"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable

import click

from virnucpro.configuration import schema

_PRESET_KEYS = ("chunk_length", "dnabert_model", "esm_model", "classifier")


def from_schema(*keys: str) -> Callable[[Callable], Callable]:
    """Options for configuration keys, with the schema's descriptions."""

    def decorate(function: Callable) -> Callable:
        for key in reversed(keys):
            entry = schema()["properties"][key]
            shown = (
                entry["default"]
                if entry["default"] is not None
                else "from the preset"
                if key in _PRESET_KEYS
                else "none"
            )
            text = f"{entry['description']}  [default: {shown}]"
            name = f"--{key.replace('_', '-')}"
            if entry.get("type") == "boolean":
                function = click.option(name, key, is_flag=True, default=None, help=text)(function)
            else:
                metavar = "|".join(entry["enum"]) if "enum" in entry else "VALUE"
                function = click.option(name, key, default=None, metavar=metavar, help=text)(function)
        return function

    return decorate


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


def running(function: Callable) -> Callable:
    """Options of the commands that start the workflow."""
    for option in (
        click.option("--dry-run", "-n", is_flag=True, help="Show what would run."),
        click.option("--gpus", default=1, show_default=True, type=int, help="GPUs to use at the same time."),
        click.option("--cores", "-c", default=None, type=int, help="CPU cores to use  [default: all]"),
        click.option(
            "--output", "-o", default="results", show_default=True, help="Folder for everything that the run makes."
        ),
    ):
        function = option(function)
    return function
