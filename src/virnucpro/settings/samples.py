"""Samples: the sheet that lists them, their names, and the folders that they get in the results."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from virnucpro import installation
from virnucpro.errors import ConfigError, InputError
from virnucpro.paths import files_of
from virnucpro.settings.tables import is_table, read_table

COLUMNS = ("sample", "fasta")
RESERVED = (
    "benchmarks",
    "calibration",
    "check",
    "config.yaml",
    "control_sets",
    "embeddings",
    "evaluation",
    "inputs",
    "logs",
    "models",
    "pooled",
    "report.html",
    "samples.tsv",
    "training",
)
"""Names in ``output_dir``, in any case, that no sample may have."""
MAX_NAME = 200
"""Characters of a sample's name: names of files that are made from it have up to 255."""
_COMPRESSED = re.compile(r"\.(gz|bgz|zst|zstd)$", re.IGNORECASE)
_PERIODIC = re.compile(r"(.+?)\1{19}$")
"""What Snakemake takes for a wildcard that grows without end."""


def is_sample_sheet(path: str | Path) -> bool:
    """Whether a file begins as a sample sheet does."""
    return is_table(path, COLUMNS)


def read_samples(path: str | Path | None) -> dict[str, list[Path]]:
    """Read the sample sheet; None is the bundled example's.

    Returns:
        Sample name → its FASTA or FASTQ files, both in the sheet's order; relative paths start at its folder, and a
        pattern (``reads/*.fq.gz``) stands for its files, sorted.

    Raises:
        InputError: no such file, missing columns, a bad sample name, a file given twice, a pattern without a file.
    """
    path = Path(path or installation.root() / "config" / "samples.tsv")
    samples: dict[str, list[Path]] = {}
    for row in read_table(path, COLUMNS, others=True, what="sample sheet").rows:
        sample, where = row["sample"], f"{path}, line {row.line}"
        check_sample_name(sample, where)
        if not row["fasta"]:
            raise InputError(f"{where}: sample '{sample}' has no FASTA path.")
        try:
            files = files_of(row["fasta"], path.parent)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        for file in files:
            if file in samples.setdefault(sample, []):
                raise InputError(f"{where}: {file} is listed twice for sample '{sample}'.")
            samples[sample].append(file)
    if not samples:
        raise InputError(f"{path}: lists no samples.")
    check_distinct(samples, str(path))
    return samples


def check_sample_name(sample: str, where: str) -> None:
    """Raise InputError for a name that can't be a folder of the results; ``where`` begins the message."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", sample):
        raise InputError(
            f"{where}: sample name {sample[:100]!r} must consist of letters, digits, '.', '_' and '-' and start with a "
            "letter or digit."
        )
    if len(sample) > MAX_NAME:
        raise InputError(
            f"{where}: sample name '{sample[:40]}...' has {len(sample)} characters; at most {MAX_NAME} fit."
        )
    if sample.lower() in RESERVED:
        raise InputError(f"{where}: sample name '{sample}' is reserved for other results. Choose another.")
    if periodic := _PERIODIC.search(sample):
        raise InputError(
            f"{where}: sample name '{sample}' ends in 20 times '{periodic[1]}', which Snakemake refuses. Choose another."
        )


def check_distinct(samples: Iterable[str], where: str) -> None:
    """Raise InputError for two names that differ only by case: on some disks they are one folder."""
    seen: dict[str, str] = {}
    for sample in samples:
        if (other := seen.setdefault(sample.lower(), sample)) != sample:
            raise InputError(
                f"{where}: the samples '{other}' and '{sample}' differ only by case, and would share a folder on some "
                "disks. Rename one."
            )


def check_folders(samples: Collection[str], output_dir: str | Path) -> None:
    """Raise ConfigError if a file is where a folder of the results has to be."""
    for name in (*samples, "control_sets", "embeddings", "logs", "models", "pooled"):
        place = Path(output_dir, name)
        if os.path.lexists(place) and not os.path.isdir(place):
            whose = f"of sample '{name}' " if name in samples else ""
            raise ConfigError(
                f"{place}: is a file, where the folder {whose}has to be. Choose another output folder (--output, "
                "output_dir)" + (", or another name for the sample (NAME=FILE)." if whose else ".")
            )


def name_samples(fastas: Iterable[Path]) -> dict[str, list[Path]]:
    """Samples named after their files, one each.

    Raises:
        InputError: two files would give the same name, or one that is too long.
    """
    samples: dict[str, list[Path]] = {}
    taken: dict[str, Path] = {}
    for path in fastas:
        name = sample_name(path)
        check_sample_name(name, str(path))
        if other := taken.get(name.lower()):
            raise InputError(f"{path} and {other} would both be sample '{name}'. Rename one, or run them apart.")
        taken[name.lower()] = path
        samples[name] = [path]
    return samples


def sample_name(path: Path) -> str:
    """A file's name without what tells its format, as the name of a sample."""
    stem = re.sub(r"\.(fa|fna|fasta|fas|ffn|fq|fastq)$", "", _COMPRESSED.sub("", path.name), flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-") or "sample"
    return f"{name}_sample" if name.lower() in RESERVED or _PERIODIC.search(name) else name
