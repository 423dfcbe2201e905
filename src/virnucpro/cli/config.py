"""``virnucpro config``."""

from __future__ import annotations

import json

import click
import yaml

from virnucpro.cli.options import UserPath
from virnucpro.io import atomic_file
from virnucpro.outputs import refuse_existing
from virnucpro.settings.configfile import read_config, read_value
from virnucpro.settings.documents import commented_defaults
from virnucpro.settings.options import schema as read_schema
from virnucpro.settings.validation import resolve


@click.group()
def config() -> None:
    """Configuration files: write, show, print the schema."""


@config.command()
@click.argument("path", default="config.yaml", type=UserPath(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(path: str, force: bool) -> None:
    """Write every key, its meaning and its default to PATH (config.yaml).

    \b
    Then:
      virnucpro predict contigs.fa --configfile config.yaml
      snakemake --cores 8 --configfile config.yaml
    """
    refuse_existing(path, force)
    with atomic_file(path) as file:
        file.write_text(commented_defaults(), encoding="utf-8")
    click.echo(path)


@config.command()
@click.argument("path", required=False, type=UserPath(dir_okay=False))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key, as `--config` would give it.")
def show(path: str | None, settings: tuple[str, ...]) -> None:
    """Print what holds with the configuration file PATH (none: the defaults), preset and all, or what is wrong in it.

    \b
    Examples:
      virnucpro config show
      virnucpro config show out/config.yaml --set preset=virnucpro-300 --set esm_model=650M
    """
    given = read_config(path) if path else {}
    given |= {key: read_value(value) for key, _, value in (word.partition("=") for word in settings)}
    click.echo(yaml.safe_dump(resolve(given).as_dict(), sort_keys=False), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors and other programs."""
    click.echo(json.dumps(read_schema(), indent=2))
