"""Starting the workflow: the one place where the command becomes a Snakemake run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from virnucpro import __version__, installation
from virnucpro.configuration import resolve
from virnucpro.files import atomic_file
from virnucpro.models import KEYS, is_name


def start(
    target: str, folder: Path, made: Sequence[Path], *, cores: int | None, gpus: int, dry_run: bool, **given: Any
) -> None:
    """Write the configuration to the output folder, run the workflow there, say what was made, and exit."""
    configuration = {key: value for key, value in given.items() if value is not None} | {"output_dir": folder}
    for key in ("cache_dir", "models_dir"):  # the workflow runs in the output folder
        if key in configuration:
            configuration[key] = Path(configuration[key]).expanduser().absolute()
    for family, key in KEYS.items():
        if key in configuration and not is_name(family, configuration[key]):
            configuration[key] = Path(configuration[key]).expanduser().absolute()
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in configuration.items()}
    settings = resolve(plain)
    with atomic_file(folder / "config.yaml") as file:
        file.write_text(f"# Written by virnucpro {__version__}\n" + yaml.safe_dump(settings.as_dict(), sort_keys=False))
    arguments = [target, f"--cores={cores or os.cpu_count()}", "--directory", str(folder)]
    arguments += ["--configfile", str(folder / "config.yaml")]
    arguments += [f"--resources=gpu={gpus}"]
    arguments += ["--dry-run"] if dry_run else []
    status = run_workflow([*arguments, *click.get_current_context().obj])
    if status == 0 and not dry_run:
        for path in made:
            click.echo(path)
    sys.exit(status)


def run_workflow(arguments: Sequence[str]) -> int:
    """Run the workflow with Snakemake's own arguments; returns its exit status."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(installation.snakefile()), *arguments]
    ).returncode
