"""The files that a run makes, and refusing to overwrite files of the user's with them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from virnucpro import __version__
from virnucpro.errors import ConfigError
from virnucpro.io import atomic_file

TABLES = {
    "predictions": "predictions.tsv",
    "chunks": "chunks.tsv",
    "contigs": "contigs.tsv",
    "results": "prediction_results.txt",
    "highest": "prediction_results_highestscore.csv",
    "chunk_scores": "chunk_scores.tsv",
    "summary": "summary.json",
}
"""What ``calls.predict`` writes to a sample's folder; the keys are the fields of ``calls.predict.Outputs``."""
REGIONS = {
    "regions": "regions.tsv",
    "regions_gff": "regions.gff3",
    "regions_bed": "regions.bed",
    "viral_regions": "viral_regions.fasta.gz",
}
"""Files of viral regions, made unless the key ``regions`` is false; the keys are fields of ``results.Results``."""
EMBEDDINGS, VIRAL, REPORT = "embeddings.h5", "viral.fasta.gz", "report.html"
SAMPLE_FILES = (*TABLES.values(), *REGIONS.values(), EMBEDDINGS, VIRAL, REPORT)
"""All files in a finished sample's folder."""
CONTROLS = "controls.tsv"
"""Beside them, if the run has controls."""
SAMPLE_FOLDERS = ("shards", "embeddings")
CONTROL_SETS = "control_sets"
"""Folder of what is scored as a sample is, and isn't the user's sample: a folder for the controls of each."""
GIVEN_CONTROLS = f"{CONTROL_SETS}/_control_fasta"
"""The user's own controls; no sample's name begins like that."""
RUN_FOLDERS = (CONTROL_SETS, "embeddings", "logs", "pooled")
SAMPLE_LOGS = ("split", "merge", "predict")
"""Folders of ``logs`` that have a file per sample."""

TARGETS = {
    "training": ("training.json", "classifier.safetensors", "calibration.json", "calibration.tsv", "split.tsv"),
    "evaluation": ("evaluation.json", "metrics.tsv"),
    "calibration": ("calibration.json", "calibration.tsv", "classifier.safetensors"),
    "check": ("check.json", "check.txt", "check.png", "check.svg"),
}
"""Folders of the targets that aren't part of ``all``, and their files; if the first is there, a run made the others."""
OWN_FIRST_LINE = "# Written by virnucpro"
"""The beginning of the configuration files and sample sheets that the program writes."""

_LOG = b" INFO virnucpro "
"""In the first line of a job's log; see ``virnucpro.logging``."""
_FOLDER_REMEDY = "Choose another output folder (--output, output_dir)"


def refuse_inputs(
    output_dir: str | Path, samples: Collection[str], inputs: Iterable[str | Path], others: Iterable[str | Path] = ()
) -> None:
    """Refuse a run that would overwrite one of its inputs, or replace a folder that holds one.

    Files are compared as files, also through links, relative paths and other spellings of a folder; inputs that don't
    exist are compared by path. ``others`` are further files and folders that the run makes, anywhere.

    Raises:
        ConfigError: names the input and the output.
    """
    out = Path(output_dir)
    known = {name: out / name for name in samples}
    made = [out / REPORT, *(out / name for name in RUN_FOLDERS), *map(Path, others)]
    made += [folder / name for folder in known.values() for name in SAMPLE_FOLDERS]
    # Folders that exist are known by device and inode, too. With os.stat, which is fast: there may be 10,000 samples.
    places: dict[tuple[int, int] | str, Path] = {}
    for folder in (*known.values(), *made):
        places[os.path.abspath(folder)] = folder
        with suppress(OSError):
            found = os.stat(folder)
            places[found.st_dev, found.st_ino] = folder
    whole = frozenset(made)
    for given in inputs:
        for folder, name in _above(Path(given), places):
            if folder in whole or name in (*SAMPLE_FILES, CONTROLS) or _same(given, folder):
                raise _clash(given, folder / name)


def refuse_foreign(output_dir: str | Path, samples: Collection[str], targets: Iterable[str] = ()) -> None:
    """Refuse a run that would replace files that no run of this workflow made; ConfigError names the file.

    ``targets`` are those of ``TARGETS`` that the run may make.
    """
    out = Path(output_dir)
    for sample in samples:
        folder, logs = out / sample, [out / "logs" / name / f"{sample}.log" for name in SAMPLE_LOGS]
        if not _is_sample(folder, logs):
            for name in (*SAMPLE_FILES, CONTROLS, *SAMPLE_FOLDERS):
                if os.path.lexists(folder / name):
                    raise _foreign(folder / name)
            for log in logs:
                if log.is_file() and os.stat(log).st_size and not _begins(log, _LOG):  # empty: its job was killed
                    raise _foreign(log)
    if len(samples) > 1 and os.path.lexists(out / REPORT) and not _begins(out / REPORT, b"<title>VirNucPro"):
        raise _foreign(out / REPORT)
    for target in targets:
        first, *others = (out / target / name for name in TARGETS[target])
        if target == "evaluation":
            others.append(out / target)  # the folder is replaced as a whole
        for path in others if not first.is_file() else ():
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                raise _foreign(path)


def remove_regions(folder: Path) -> None:
    """Remove the files of regions that an earlier run made in a sample's folder: they are of other tables."""
    if _begins(folder / REGIONS["regions"], b"record\tregion\tstart\t"):
        for name in REGIONS.values():
            (folder / name).unlink(missing_ok=True)


def refuse_existing(path: str | Path, force: bool, source: str | Path | None = None) -> None:
    """Raise ConfigError if a file that the user named is there already, unless ``force``, or is the input, ``source``."""
    with suppress(OSError):
        if source is not None and os.path.samefile(path, source):
            raise ConfigError(f"{path}: is the file to be read. Give another name for what is written.")
    if os.path.lexists(path) and not force:
        raise ConfigError(f"{path}: is there already. Give another name, or --force to replace it.")


def check_own(path: Path, *beside: Path) -> None:
    """Raise ConfigError if a file to be written is there already and this program didn't write it.

    One that the program wrote begins with ``OWN_FIRST_LINE``, or one of the files ``beside`` it does.
    """
    if os.path.lexists(path) and not any(_begins(file, OWN_FIRST_LINE.encode()) for file in (path, *beside)):
        raise _foreign(path)


def refuse_replacing(path: Path, content: str, inputs: Iterable[str | Path]) -> None:
    """Raise ConfigError if a file to be written is also an input of the run, unless it has the ``content`` already."""
    for given in inputs:
        with suppress(OSError):
            if os.path.samefile(given, path) and not _holds(path, content):
                raise _clash(given, path)


def write_own(path: Path, content: str) -> None:
    """Write a text file of the program's own, whole or not at all; if it has that content already, it isn't touched."""
    if not _holds(path, content):
        with atomic_file(path) as temporary:
            temporary.write_text(f"{OWN_FIRST_LINE} {__version__}\n{content}", encoding="utf-8")


def identity(paths: Iterable[str | Path]) -> list[list[int]]:
    """Size in bytes and modification time in ns of each file, by which a replaced file is noticed, an older one too.

    Raises FileNotFoundError for a file that isn't there.
    """
    return [[found.st_size, found.st_mtime_ns] for found in map(os.stat, paths)]


def without_future(paths: Iterable[str | Path], now: float) -> list[str]:
    """The files that aren't dated later than ``now`` (seconds since 1970); no result can be newer than those are."""
    return [str(path) for path in paths if not (os.path.exists(path) and os.stat(path).st_mtime > now)]


def check_clock(output_dir: str | Path, clock: float, inputs: Iterable[str | Path], now: float) -> None:
    """Refuse a run whose results would be dated before its inputs.

    Args:
        output_dir: the folder of results.
        clock: the time of that folder's file system, in seconds since 1970: the date of a file made there now.
        inputs: files that results are compared with, by date.
        now: this machine's time.

    Raises:
        ConfigError: names the file, and the command that gives it an earlier date.
    """
    for path in filter(os.path.exists, without_future(inputs, now)):
        if (ahead := os.stat(path).st_mtime - clock) > 0:
            raise ConfigError(
                f"{path}: dated {ahead:,.0f} s after the clock of the file system of {output_dir}, {now - clock:,.0f} s of "
                "which it is behind this machine's: results would seem older than their input. Give this, and run again:\n"
                f"touch -d '1 day ago' {shlex.quote(str(path))}"
            )


def _holds(path: Path, content: str) -> bool:
    """Whether a file of the program's own has this content below its first line."""
    try:
        return path.read_text(encoding="utf-8").removeprefix(OWN_FIRST_LINE).partition("\n")[2] == content
    except (OSError, UnicodeDecodeError):
        return False


def _above(path: Path, places: dict[tuple[int, int] | str, Path]) -> Iterator[tuple[Path, str]]:
    """Folders of ``places`` that ``path`` is or lies in, each with the rest of the path; "" for the folder itself."""
    lexical = Path(os.path.abspath(path))
    for spelling in {lexical, Path(os.path.realpath(path))}:
        for ancestor in (spelling, *spelling.parents):
            folder = places.get(str(ancestor))
            if folder is None:
                with suppress(OSError):
                    found = os.stat(ancestor)
                    folder = places.get((found.st_dev, found.st_ino))
            if folder is not None:
                yield folder, str(spelling.relative_to(ancestor)).removeprefix(".")


def _same(path: str | Path, folder: Path) -> bool:
    """Whether a file is one of those that a run makes in a sample's folder, however its path is written."""
    for name in (*SAMPLE_FILES, CONTROLS):
        with suppress(OSError):
            if os.path.samefile(path, folder / name) and not (folder / name).is_symlink():
                return True
    return False


def _is_sample(folder: Path, logs: Iterable[Path]) -> bool:
    """Whether a run made this folder: at least one of the files that show it is there."""
    return (
        any((folder / mark).is_file() for mark in ("shards/manifest.json", "summary.json"))
        or _begins(folder / "contigs.tsv", b"record\tlength\tchunks\t")
        or any(_begins(log, _LOG) for log in logs)
    )


def _begins(path: Path, words: bytes) -> bool:
    """Whether ``words`` are in the first 2,048 bytes of a file; False for one that can't be read."""
    try:
        with open(path, "rb") as file:
            return words in file.read(2048)
    except OSError:
        return False


def _clash(given: str | Path, made: Path) -> ConfigError:
    return ConfigError(f"{given} is an input of this run, which would write {made} in its place. {_FOLDER_REMEDY}.")


def _foreign(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is there already, and no run of VirNucPro made it: it would be replaced. {_FOLDER_REMEDY}, or move it away."
    )
