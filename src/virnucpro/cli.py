"""The ``virnucpro`` command: writes a configuration and starts the workflow with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from virnucpro import __version__, installation
from virnucpro.configuration import read_samples, resolve, schema
from virnucpro.embeddings.cache import list_cache, prune_cache
from virnucpro.errors import InputError, VirNucProError
from virnucpro.files import atomic_file


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Which of these sequences are viral?

    The commands run the same Snakemake workflow that `snakemake` runs in a clone.
    """


def from_schema(*keys: str) -> Callable[[Callable], Callable]:
    """Options for configuration keys, with the schema's descriptions."""

    def decorate(function: Callable) -> Callable:
        for key in reversed(keys):
            entry = schema()["properties"][key]
            shown = entry["default"] if entry["default"] is not None else "from the preset" if key in _PRESET_KEYS else "none"
            text = f"{entry['description']}  [default: {shown}]"
            name = f"--{key.replace('_', '-')}"
            if entry.get("type") == "boolean":
                function = click.option(name, key, is_flag=True, default=None, help=text)(function)
            else:
                metavar = "|".join(entry["enum"]) if "enum" in entry else "VALUE"
                function = click.option(name, key, default=None, metavar=metavar, help=text)(function)
        return function

    return decorate


_PRESET_KEYS = ("chunk_length", "dnabert_model", "esm_model", "classifier")
_PATH_KEYS = ("dnabert_model", "esm_model", "classifier", "cache_dir", "models_dir")


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("inputs", nargs=-1, metavar="INPUT...", required=True, type=click.Path())
@click.option("--output", "-o", default="results", show_default=True, help="Folder for everything that the run makes.")
@from_schema("preset", *_PRESET_KEYS, "precision", "compile", "attention", "tokens_per_batch", "shard_frames", "threshold")
@from_schema("device", "empty_records", "cache_dir", "models_dir")
@click.option("--cores", "-c", default=None, type=int, help="CPU cores to use  [default: all]")
@click.option("--gpus", default=None, type=int, help="GPUs to use at the same time  [default: one job at a time]")
@click.option("--dry-run", "-n", is_flag=True, help="Show what would run.")
def predict(inputs: tuple[str, ...], output: str, cores: int | None, gpus: int | None, dry_run: bool, **given: Any) -> None:
    """Predict for FASTA files (plain or gzip), each a sample named after its file.

    Results are in OUTPUT/SAMPLE: predictions.tsv, chunks.tsv, contigs.tsv, viral.fasta.gz, report.html.
    The same command again computes only what is missing. What follows `--` goes to Snakemake, for example
    `virnucpro predict reads.fa -- --profile workflow/profiles/slurm`.
    """
    split = inputs.index("--") if "--" in inputs else next((i for i, word in enumerate(inputs) if word.startswith("-")), len(inputs))
    fastas, passed = inputs[:split], [word for word in inputs[split:] if word != "--"]
    folder = Path(output).resolve()
    samples = name_samples([Path(path) for path in fastas])
    configuration = {key: value for key, value in given.items() if value is not None}
    for key in _PATH_KEYS:  # the workflow may run elsewhere
        if key in configuration and Path(configuration[key]).expanduser().exists():
            configuration[key] = str(Path(configuration[key]).expanduser().resolve())
    configuration |= {"samples": str(folder / "samples.tsv"), "output_dir": str(folder)}
    settings = resolve({key: yaml.safe_load(v) if isinstance(v, str) else v for key, v in configuration.items()})
    with atomic_file(folder / "samples.tsv") as file:
        file.write_text("sample\tfasta\n" + "".join(f"{name}\t{path}\n" for name, path in samples.items()))
    with atomic_file(folder / "config.yaml") as file:
        file.write_text(f"# Written by virnucpro {__version__}\n" + yaml.safe_dump(settings.as_dict(), sort_keys=False))
    read_samples(folder / "samples.tsv")
    command = [f"--cores={cores or os.cpu_count()}", "--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    command += [f"--resources=gpu={gpus}"] if gpus else []
    command += ["--dry-run"] if dry_run else []
    status = run_workflow([*command, *passed])
    if status == 0 and not dry_run:
        for name in samples:
            click.echo(f"{name}: {folder / name / 'report.html'}")
    sys.exit(status)


def name_samples(fastas: Sequence[Path]) -> dict[str, Path]:
    """Sample name → absolute path, each named after its file."""
    samples: dict[str, Path] = {}
    for path in fastas:
        if not path.is_file():
            raise InputError(f"{path}: no such file.")
        stem = re.sub(r"\.(fa|fna|fasta|fas|ffn)$", "", re.sub(r"\.b?gz$", "", path.name), flags=re.IGNORECASE)
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-") or "sample"
        if name in samples:
            raise InputError(f"{path} and {samples[name]} would both be sample '{name}'. Rename one, or run them apart.")
        samples[name] = path.resolve()
    return samples


def run_workflow(arguments: Sequence[str]) -> int:
    """Run the workflow with Snakemake's own arguments; returns its exit status."""
    return subprocess.run([sys.executable, "-m", "snakemake", "--snakefile", str(installation.snakefile()), *arguments]).returncode


@cli.group()
def cache() -> None:
    """The folder of embeddings shared between runs (cache_dir)."""


@cache.command("list")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
def cache_list(folder: str) -> None:
    """What FOLDER holds, per encoder."""
    click.echo("encoder\tkey\tshards\tMB\tlast_used")
    for group in list_cache(folder):
        used = time.strftime("%Y-%m-%d", time.localtime(group.last_used))
        click.echo(f"{group.family}\t{group.key}\t{group.shards}\t{group.bytes / 1e6:.1f}\t{used}")


@cache.command("prune")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--unused-days", type=float, required=True, help="Remove what nobody has used for so many days.")
def cache_prune(folder: str, unused_days: float) -> None:
    """Remove entries of FOLDER that were not used lately; runs that linked them keep theirs."""
    count, freed = prune_cache(folder, unused_days)
    click.echo(f"removed {count} entries, {freed / 1e6:.1f} MB")


def main() -> None:
    """Entry point: a user's error is one line and status 1."""
    try:
        cli(prog_name="virnucpro")
    except VirNucProError as error:
        click.echo(f"virnucpro: error: {error}", err=True)
        sys.exit(1)
