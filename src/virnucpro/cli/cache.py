"""``virnucpro cache``."""

from __future__ import annotations

import time

import click

from virnucpro.cli.options import UserPath
from virnucpro.embeddings.cache import list_cache, prune_cache


@click.group()
def cache() -> None:
    """The folder of embeddings that runs share: list, prune."""


@cache.command("list")
@click.argument("folder", type=UserPath(exists=True, file_okay=False))
def cache_list(folder: str) -> None:
    """What FOLDER holds, per encoder."""
    click.echo("encoder\tkey\tshards\tMB\tlast_used")
    for group in list_cache(folder):
        used = time.strftime("%Y-%m-%d", time.localtime(group.last_used))
        click.echo(f"{group.architecture}\t{group.key}\t{group.shards}\t{group.bytes / 1e6:.1f}\t{used}")


@cache.command("prune")
@click.argument("folder", type=UserPath(exists=True, file_okay=False))
@click.option("--unused-days", type=float, required=True, help="Remove what nobody has used for so many days.")
def cache_prune(folder: str, unused_days: float) -> None:
    """Remove entries of FOLDER that were not used lately; runs that used them keep theirs."""
    count, freed = prune_cache(folder, unused_days)
    click.echo(f"removed {count} entries, {freed / 1e6:.1f} MB")
