"""What the user names on the command line → samples and their files."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from virnucpro.configuration import check_sample_name, missing_fasta, name_samples, read_samples
from virnucpro.errors import InputError
from virnucpro.files import atomic_file, matching
from virnucpro.outputs import check_own, write_own


def samples_of(inputs: Sequence[str], spool: Path) -> dict[str, list[Path]]:
    """Sample name → files, for inputs that are files, patterns, ``-`` (standard input), ``NAME=`` before any of
    these, or one sample sheet (``.tsv``). Standard input is kept in the folder ``spool``, so that a run can go on.

    Raises:
        InputError: a file that isn't there, a pattern that matches none, an empty standard input, a bad name.
    """
    if len(inputs) == 1 and inputs[0].endswith(".tsv"):
        samples = read_samples(inputs[0])
    else:
        samples, unnamed = {}, []
        for word in inputs:
            name, given, rest = word.partition("=")
            if not given or Path(word).exists() or re.search(r"[/*?]", name):
                name, rest = "", word
            files = [_spooled(spool, name or "stdin")] if rest == "-" else matching(Path(rest).expanduser().absolute())
            if not name:
                unnamed += files
                continue
            check_sample_name(name, word)
            samples.setdefault(name, []).extend(files)
        for name, files in name_samples(unnamed).items():
            if name in samples:
                raise InputError(f"{files[0]} and {samples[name][0]} would both be sample '{name}'. Name one of them.")
            samples[name] = files
    for path in (path for files in samples.values() for path in files):
        if not path.is_file() and not path.is_fifo():
            raise missing_fasta(path, inputs[0] if inputs[0].endswith(".tsv") else None)
    return {name: [Path(os.path.abspath(path)) for path in files] for name, files in samples.items()}


def sheet(samples: Mapping[str, Sequence[Path]]) -> str:
    """The samples as the text of a sample sheet."""
    rows = (f"{name}\t{file}\n" for name, files in samples.items() for file in files)
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
