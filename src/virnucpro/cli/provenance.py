"""``virnucpro provenance``."""

from __future__ import annotations

import json

import click
import yaml

from virnucpro.cli.options import UserPath
from virnucpro.provenance import read_provenance


@click.command()
@click.argument("file", type=UserPath())
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON; otherwise shards are only counted.")
def provenance(file: str, as_json: bool) -> None:
    """Say how a result was made.

    Models, versions, precision, configuration digest and environment switches. FILE is any output: embeddings (.h5), a
    classifier or prepared model (.safetensors), summary.json, or a table, FASTA, shard, plot or report, for which the
    record beside it answers. A folder will do: a run's, a sample's, ...
    """
    found = read_provenance(file)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if isinstance(found.get("shards"), list):
        found["shards"] = len(found["shards"])
    click.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120), nl=False)
