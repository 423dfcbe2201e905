"""A sample's vectors and a classifier → everything that a user reads: tables, viral sequences and report, in one job.

One process, since for a small sample starting it costs more than all that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from virnucpro.calls.controls import write_controls
from virnucpro.calls.predict import Outputs, predict
from virnucpro.calls.rules import Rules
from virnucpro.calls.viral import write_viral
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.processes import Processes
from virnucpro.report.page import write_sample_page

_SMALL_TABLES = 20_000_000
"""Bytes of tables up to which the report and the sequences are made sooner one after the other."""


@dataclass(frozen=True)
class Results(Outputs):
    """The files of one sample."""

    viral: Path  # viral.fasta.gz
    page: Path  # report.html
    controls: Path | None = None  # controls.tsv, beside the others


def make_results(
    sample: str,
    merged: Path,
    classifier: Path,
    shards: Path,
    fastas: Sequence[Path],
    results: Results,
    rules: Rules,
    *,
    shuffled: Path | None = None,
    given: Path | None = None,
    check: str | None = None,
    threads: int = 1,
    **options: Any,
) -> None:
    """Write all results of a sample.

    Args:
        sample: its name.
        merged, classifier, shards: see ``calls.predict.predict``, which also has the other options.
        fastas: its input files, in the order that they were split in.
        results: the files to make.
        rules: of the calls.
        shuffled, given: ``contigs.tsv`` of its controls, if it has such; see ``calls.controls.write_controls``.
        check: content of ``check.json``, if there is one, for the report.
        threads: CPU threads.

    Raises:
        ModelError, StorageError: what ``predict`` and ``write_viral`` refuse.
    """
    outputs = Outputs(**{field.name: getattr(results, field.name) for field in fields(Outputs)})
    predict(merged, classifier, shards, sample, outputs, rules, threads=threads, **options)
    controls = write_controls(results.summary.parent, classifier, rules, shuffled, given)
    # Side by side, in processes if that saves more than their start.
    small = results.contigs.stat().st_size + results.predictions.stat().st_size < _SMALL_TABLES
    provenance = MergedEmbeddings(merged).provenance
    page = partial(write_sample_page, results.summary.parent, sample, fastas, results.page, provenance, check, controls)
    viral = partial(write_viral, results.contigs, fastas, results.viral, threads)
    with Processes(_call, min(2, threads), 2 if small else 0) as processes:
        for _ in processes.map([viral, page]):
            pass


def _call(function: Callable[[], Any]) -> None:
    function()
