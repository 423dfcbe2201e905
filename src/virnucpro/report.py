"""The report of one sample: a page of tables that opens offline."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from virnucpro import __version__
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.files import atomic_file

BINS = 20
"""Bars of the score distribution."""
LISTED_CONTIGS = 1000
"""Rows of the contig table; the rest is in contigs.tsv, and the page stays small."""


def write_report(folder: Path, sample: str, settings: dict[str, Any], output: Path) -> None:
    """Write ``report.html`` from the tables in a sample's folder.

    Args:
        folder: holds summary.json, chunks.tsv, contigs.tsv and embeddings.h5.
        sample: name to show.
        settings: the configuration, shown in full.
        output: the page; bounded in size whatever the number of contigs.
    """
    summary = json.loads((folder / "summary.json").read_text())
    provenance = MergedEmbeddings(folder / "embeddings.h5").provenance
    histogram = [0] * BINS
    for row in rows(folder / "chunks.tsv"):
        if row["score"]:
            histogram[min(int(float(row["score"]) * BINS), BINS - 1)] += 1
    contigs: list[dict[str, str]] = []
    for row in rows(folder / "contigs.tsv"):
        contigs.append(row)
        if len(contigs) >= 2 * LISTED_CONTIGS:
            contigs = best(contigs)
    environment = Environment(
        loader=PackageLoader("virnucpro"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        sample=sample,
        summary=summary,
        provenance=provenance,
        settings=settings,
        histogram=histogram,
        tallest=max(max(histogram), 1),
        contigs=best(contigs),
        version=__version__,
    )
    with atomic_file(output) as file:
        file.write_text(page, encoding="utf-8")


def best(contigs: list[dict[str, str]]) -> list[dict[str, str]]:
    """The contigs with the highest mean score, unscored ones last."""
    return sorted(contigs, key=lambda row: -float(row["mean_score"] or -1))[:LISTED_CONTIGS]


def rows(table: Path) -> Iterator[dict[str, str]]:
    """Rows of one of the project's tab-separated tables."""
    with open(table, newline="", encoding="utf-8") as handle:
        yield from csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
