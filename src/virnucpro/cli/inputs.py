"""What the user names on the command line → samples and their files."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from virnucpro.classifier.labels import has_fasta, read_labelled_fasta, read_labelled_records
from virnucpro.errors import InputError
from virnucpro.io import atomic_file
from virnucpro.outputs import check_own, write_own
from virnucpro.paths import check_file, files_of, user_path
from virnucpro.settings.samples import check_distinct, check_sample_name, is_sample_sheet, name_samples, read_samples
from virnucpro.settings.tables import quoted

TABLES = (".tsv", ".csv", ".xlsx", ".xls", ".ods")
"""Endings of a single input that is taken for a sample sheet whatever is in it, so that what is wrong is said of it."""


def samples_of(inputs: Sequence[str], spool: Path) -> dict[str, list[Path]]:
    """Sample name → files, for inputs that are files, patterns, ``-`` (standard input), ``NAME=`` before any of
    these, or one sample sheet. Standard input is kept in the folder ``spool``, so that a run can go on.

    Raises:
        InputError: a file that isn't there, a pattern that matches none, an empty standard input, a bad name, a sample
            sheet among others.
    """
    here = os.getcwd()
    words = [_named(word) for word in inputs]
    sheet = user_path(words[0][1], here) if len(words) == 1 and not words[0][0] else None
    if sheet and (sheet.suffix.lower() in TABLES or is_sample_sheet(sheet)):
        samples = read_samples(sheet)
    else:
        sheet = None
        samples, unnamed = {}, []
        for word, (name, rest) in zip(inputs, words, strict=True):
            files = [_spooled(spool, name or "stdin")] if rest == "-" else files_of(rest, here)
            for table in filter(is_sample_sheet, files):
                without = f", without '{name}='" if name else ""
                raise InputError(f"{table}: is a sample sheet: give it alone{without}.")
            if not name:
                unnamed += files
                continue
            check_sample_name(name, word)
            samples.setdefault(name, []).extend(files)
        for name, files in name_samples(unnamed).items():
            if name in samples:
                raise InputError(f"{files[0]} and {samples[name][0]} would both be sample '{name}'. Name one of them.")
            samples[name] = files
        check_distinct(samples, "INPUT")
    for path in (path for files in samples.values() for path in files):
        check_file(path, sheet)
    return samples


def _named(word: str) -> tuple[str, str]:
    """The NAME, or nothing, and the INPUT of what may be ``NAME=INPUT``."""
    name, given, rest = word.partition("=")
    if not given or os.path.lexists(word) or re.search(r"[/*?]", name):
        return "", word
    return name, rest


def check_labels(table: str, records: bool) -> None:
    """Raise InputError for what is wrong in a label table: it is about files or, if ``records``, perhaps about them."""
    if records and not has_fasta(table):
        read_labelled_records(table)
        return
    for files in name_samples(row.fasta for row in read_labelled_fasta(table)).values():
        check_file(files[0], table)


def sheet(samples: Mapping[str, Sequence[Path]]) -> str:
    """The samples as the text of a sample sheet."""
    rows = (f"{name}\t{quoted(str(file))}\n" for name, files in samples.items() for file in files)
    return "sample\tfasta\n" + "".join(rows)


def _spooled(spool: Path, name: str) -> Path:
    """Standard input as a file; the file of an earlier run is kept if it has the same content.

    Raises ConfigError where another program's file of that name is.
    """
    check_sample_name(name, "standard input")
    path, new = spool / name, spool / f"{name}.new"
    mark = spool / ".virnucpro"
    for each in (path, new):
        check_own(each, mark, spool.parent / "config.yaml")  # earlier versions' folders have no mark
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("'-' reads standard input, but nothing is piped into this command.")
    write_own(mark, "")
    with atomic_file(new) as temporary, open(temporary, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    if not new.stat().st_size:
        new.unlink()
        raise InputError(
            "standard input is empty. " + (f"What was piped before is {path}: give it instead of '-'." * path.is_file())
        )
    if path.is_file() and filecmp.cmp(new, path, shallow=False):
        new.unlink()
    else:
        os.replace(new, path)
    return path.resolve()  # of a dry run it may be a link to the real run's
