"""The ``virnucpro`` command: writes a configuration and starts the workflow with it."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from virnucpro import __version__
from virnucpro.errors import InputError, VirNucProError, nearest, storage_message

_COMMANDS = {
    "validate": "validate:validate",
    "doctor": "doctor:doctor",
    "predict": "predict:predict",
    "config": "config:config",
    "train": "training:train",
    "evaluate": "training:evaluate",
    "check": "check:check",
    "benchmark": "benchmark:benchmark",
    "classifier": "classifier:classifier",
    "models": "models:models",
    "cache": "cache:cache",
    "join": "handover:join",
    "export": "handover:export",
    "provenance": "provenance:provenance",
}
"""Command → module of this package and the object in it, in the order of the help; imported when used."""
FIRST = {
    "validate": ("virnucpro validate contigs.fa", "is the file all right?"),
    "doctor": ("virnucpro doctor contigs.fa", "will it work here, how long?"),
    "predict": ("virnucpro predict contigs.fa -o out", "results in out/contigs"),
}
"""What most people need: an example each, and what it is for."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[name].split(":")
        return getattr(import_module(f"virnucpro.cli.{module}"), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those that most people need, with examples, and all others; it fits on one screen."""
        found = {name: command for name in _COMMANDS if (command := self.get_command(ctx, name))}
        with formatter.section("Start with"):
            formatter.write_dl([*FIRST.values()], col_max=40)
        with formatter.section("All else"):
            others = [
                (name, command.get_short_help_str(limit=64)) for name, command in found.items() if name not in FIRST
            ]
            formatter.write_dl(others)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nCOMMAND --help has options and examples. The same command goes on where it stopped.\n")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{args[0]}'{nearest(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Which of these sequences are viral?"""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("The folder that you are in was deleted. Change to another one: cd FOLDER.") from None


def main() -> None:
    """Entry point: a user's error is one line and status 1; what follows ``--`` goes to Snakemake."""
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    try:
        cli(words[:own], prog_name="virnucpro", obj=words[own + 1 :])
    except VirNucProError as error:
        click.echo(f"virnucpro: error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if (message := storage_message(error)) is None:
            raise
        click.echo(f"virnucpro: error: {message}", err=True)
        sys.exit(1)
