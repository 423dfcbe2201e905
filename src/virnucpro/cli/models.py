"""``virnucpro models``."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import click

from virnucpro.cli.options import completing, from_schema
from virnucpro.downloads import obtain, verify
from virnucpro.errors import ModelError
from virnucpro.models.registry import PROTEIN
from virnucpro.models.sources import BUNDLED, KEYS, PUBLISHED, ModelSource, find, find_published
from virnucpro.settings.validation import resolve

_NAMES = [name for known in PUBLISHED.values() for name in known]


@click.group()
def models() -> None:
    """The published models: fetch before a run, list, verify."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):  # of huggingface_hub 1 and 2
        logging.getLogger(client).setLevel(logging.WARNING)


def _folder(models_dir: str | None) -> str:
    return resolve({"models_dir": models_dir}).models_dir


@models.command("fetch")
@click.argument("names", nargs=-1, metavar="NAME...", required=True, shell_complete=completing(_NAMES))
@from_schema("models_dir")
def fetch(names: tuple[str, ...], models_dir: str | None) -> None:
    """Fetch what isn't there: a preset's models (virnucpro-500), or 3B, DNABERT-S, facebook/esm2_t33_650M_UR50D, ...

    A download that was broken off goes on. What is there already is compared with its recorded SHA-256.
    """
    wanted = [(name, source) for name in names for source in find_published(name, _folder(models_dir))]
    for asked, source in wanted:
        obtain(replace(source, name=asked))  # so that a message names what fetches all that was asked for
        click.echo(source.path)


@models.command("list")
@from_schema("models_dir")
def list_models(models_dir: str | None) -> None:
    """Every model that has a name, and where it is."""
    click.echo("key\tMB\tstate\tnames\tpath")
    for role, key in KEYS.items():
        names: dict[ModelSource, list[str]] = {}
        for name in (*BUNDLED[role], *PUBLISHED[role]):
            names.setdefault(replace(find(role, name, _folder(models_dir)), name=""), []).append(name)
        for source, aliases in names.items():
            state = "bundled" if not source.published else "here" if source.path.exists() else "not fetched"
            click.echo(f"{key}\t{source.megabytes}\t{state}\t{', '.join(aliases)}\t{source.path}")


@models.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=completing(_NAMES))
@from_schema("models_dir")
def verify_models(names: tuple[str, ...], models_dir: str | None) -> None:
    """Compare models on disk, all unless some are named, with their recorded SHA-256."""
    folder = _folder(models_dir)
    named = [source for name in names for source in find_published(name, folder)]
    others = Path(folder).glob("*--*.sha256")  # Hugging Face ids that have no other name, of whichever role
    every = [find(role, name, folder) for role, known in PUBLISHED.items() for name in known]
    every += [ModelSource(PROTEIN.name, file.stem.replace("--", "/", 1), file.with_suffix("")) for file in others]
    sources = {source.path: source for source in named or every if named or source.path.exists()}
    if not sources:
        click.echo(f"no published models in {folder}", err=True)
        sys.exit(1)
    wrong = 0
    for source in sources.values():
        try:
            for name, digest in verify(source).items():
                click.echo(f"{digest}  {name}")
        except ModelError as error:
            wrong += 1
            click.echo(f"virnucpro: error: {error}", err=True)
    sys.exit(min(wrong, 1))


@models.command("path")
@click.argument("name", shell_complete=completing(_NAMES))
@from_schema("models_dir")
def path(name: str, models_dir: str | None) -> None:
    """Where a published model lies, or will when it is fetched."""
    for source in find_published(name, _folder(models_dir)):
        click.echo(source.path)
