"""The ``virnucpro`` command: writes a configuration and starts the workflow with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from virnucpro import __version__, installation
from virnucpro.configuration import missing_fasta, name_samples, resolve, schema
from virnucpro.embeddings.cache import list_cache, prune_cache
from virnucpro.errors import VirNucProError
from virnucpro.files import atomic_file
from virnucpro.models import KEYS, is_name


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Which of these sequences are viral?

    The commands run the same Snakemake workflow that `snakemake` runs in a clone. What follows `--` goes to Snakemake,
    for example `virnucpro predict contigs.fa -- --rerun-triggers mtime`.
    """


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


_PRESET_KEYS = ("chunk_length", "dnabert_model", "esm_model", "classifier")
_MODEL_KEYS = ("preset", "chunk_length", "dnabert_model", "esm_model", "models_dir")
_COMPUTE_KEYS = (
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


@cli.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...", required=True, type=click.Path())
@from_schema(*_MODEL_KEYS, "classifier", *_COMPUTE_KEYS, "threshold")
@running
def predict(inputs: tuple[str, ...], output: str, **given: Any) -> None:
    """Predict for FASTA files (plain or gzip), each a sample named after its file.

    Results are in OUTPUT/SAMPLE: predictions.tsv, chunks.tsv, contigs.tsv, viral.fasta.gz, report.html.
    The same command again computes only what is missing.
    """
    samples = name_samples([Path(path).absolute() for path in inputs])
    for (path,) in samples.values():
        if not path.is_file():
            raise missing_fasta(path, "the command line")
    folder = Path(output).absolute()
    with atomic_file(folder / "samples.tsv") as file:
        file.write_text("sample\tfasta\n" + "".join(f"{name}\t{path}\n" for name, (path,) in samples.items()))
    start("all", folder, [folder / name / "report.html" for name in samples], samples=folder / "samples.tsv", **given)


@cli.command()
@click.argument("table", type=click.Path())
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="How to train, e.g. --set epochs=50; see config/README.md.",
)
@from_schema(*_MODEL_KEYS, *_COMPUTE_KEYS)
@running
def train(table: str, settings: tuple[str, ...], output: str, **given: Any) -> None:
    """Train a classifier on the labelled FASTA files of TABLE (columns fasta, label; group, category if wanted).

    The classifier is OUTPUT/training/classifier.safetensors, for any pair of encoders; it knows which.
    """
    folder, options = Path(output).absolute(), dict(setting.partition("=")[::2] for setting in settings)
    made = [folder / "training" / name for name in ("classifier.safetensors", "training.json", "split.tsv")]
    start("train", folder, made, training_data=Path(table).absolute(), training=options, **given)


@cli.command()
@click.argument("table", type=click.Path())
@click.option(
    "--split", "evaluate_split", type=click.Path(), help="split.tsv of a training: measure its test part only."
)
@from_schema(*_MODEL_KEYS, "classifier", *_COMPUTE_KEYS, "threshold")
@running
def evaluate(table: str, evaluate_split: str | None, output: str, **given: Any) -> None:
    """Predict for the labelled FASTA files of TABLE and measure how good it is.

    OUTPUT/evaluation holds metrics.tsv, evaluation.json and the plots.
    """
    folder = Path(output).absolute()
    given |= {"labels": Path(table).absolute(), "evaluate_split": evaluate_split and Path(evaluate_split).absolute()}
    start("evaluate", folder, [folder / "evaluation" / "metrics.tsv"], **given)


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


@cli.group()
def classifier() -> None:
    """Classifier files."""


@classifier.command("import")
@click.argument("original", type=click.Path())
@click.argument("output", type=click.Path())
def classifier_import(original: str, output: str) -> None:
    """Turn the original's pickle (.pth) into OUTPUT.safetensors, without running what a pickle may hold."""
    from virnucpro.classifier.importer import import_original
    from virnucpro.classifier.model import write_classifier

    spec = write_classifier(output, *import_original(original))
    click.echo(f"{output}: {spec.width} inputs, {spec.hidden} hidden units, weights {spec.weights_sha256}")


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
    """Entry point: a user's error is one line and status 1; what follows ``--`` goes to Snakemake."""
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    try:
        cli(words[:own], prog_name="virnucpro", obj=words[own + 1 :])
    except VirNucProError as error:
        click.echo(f"virnucpro: error: {error}", err=True)
        sys.exit(1)
