"""A sample's vectors and a classifier → everything that a user reads: tables, viral sequences and report, in one job.

One process, since for a small sample starting it costs more than all that it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from virnucpro.calls.predict import Outputs, predict
from virnucpro.calls.viral import write_viral
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.report.page import write_sample_page


@dataclass(frozen=True)
class Results(Outputs):
    """The files of one sample."""

    viral: Path  # viral.fasta.gz
    page: Path  # report.html


def make_results(
    sample: str,
    merged: Path,
    classifier: Path,
    shards: Path,
    fastas: Sequence[Path],
    results: Results,
    *,
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
        check: content of ``check.json``, if there is one, for the report.
        threads: CPU threads.

    Raises:
        ModelError, StorageError: what ``predict`` and ``write_viral`` refuse.
    """
    outputs = Outputs(**{field.name: getattr(results, field.name) for field in fields(Outputs)})
    predict(merged, classifier, shards, sample, outputs, threads=threads, **options)
    with ThreadPoolExecutor(1) as pool:
        viral = pool.submit(write_viral, results.contigs, fastas, results.viral, threads)
        provenance = MergedEmbeddings(merged).provenance
        write_sample_page(results.summary.parent, sample, fastas, results.page, provenance, check)
        viral.result()
