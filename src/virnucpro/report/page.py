"""Writing the HTML pages: one of a sample, one of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from virnucpro import __version__
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.io import atomic_file
from virnucpro.report import methods, tables, timing
from virnucpro.result_tables import CONTIG_COLUMNS, NON_VIRAL, UNSCORED, VIRAL

MAX_LISTED_SHARDS = 500
"""Shard jobs in the page's table: the slowest ones."""


def write_sample_page(folder: Path, sample: str, fastas: Sequence[str], output: Path) -> None:
    """Write a sample's page: one file, bounded in size whatever the number of contigs.

    ``folder`` has the sample's results, and the folders ``benchmarks`` and ``check`` beside it; ``fastas`` are its
    input files, to be named on the page.
    """
    summary = json.loads((folder / "summary.json").read_text())
    architectures = methods.architectures(summary)
    provenance = MergedEmbeddings(folder / "embeddings.h5").provenance
    contigs = tables.read_contigs(folder / "contigs.tsv")
    chunks = tables.read_chunks(folder / "chunks.tsv", contigs.drawn)
    benchmarks = folder.parent / "benchmarks"
    shards = provenance["shards"]
    _write(
        output,
        "sample.html.j2",
        title=sample,
        sample=sample,
        fastas=fastas,
        summary=summary,
        provenance=provenance,
        contigs=contigs,
        chunks=chunks,
        data=tables.columns(contigs.listed),
        columns=CONTIG_COLUMNS,
        calls=(VIRAL, NON_VIRAL, UNSCORED),
        times=timing.rule_times(benchmarks, sample, shards, architectures),
        throughput=timing.throughput(shards),
        shards=sorted(shards, key=lambda shard: -shard["seconds"])[:MAX_LISTED_SHARDS],
        check=read_check(folder.parent / "check" / "check.json", summary),
        methods=methods.methods(summary, sum(contigs.bases.values())),
        references=methods.references(architectures.values()),
    )


def read_check(path: Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``virnucpro check`` wrote; None if it wasn't run, or with other models than the sample's."""
    if not path.is_file():
        return None
    check = json.loads(path.read_text(encoding="utf-8"))
    parts = ("dna_encoder", "protein_encoder", "classifier")
    same = all(check[part]["weights_sha256"] == summary[part]["weights_sha256"] for part in parts)
    return check if same else None


def write_run_page(summaries: Mapping[str, Path], output: Path) -> None:
    """Write the page that compares the samples of a run.

    ``summaries`` are sample → its summary.json; the sample's page is beside that.
    """
    samples = {sample: json.loads(path.read_text()) for sample, path in summaries.items()}
    _write(output, "run.html.j2", title="all samples", samples=samples)


def _write(output: Path, template: str, **facts: Any) -> None:
    environment = Environment(
        loader=PackageLoader("virnucpro.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"
    environment.filters["duration"] = duration
    # Compact, and safe within a script element, which a "<" could end.
    environment.filters["embedded"] = lambda value: json.dumps(
        value, ensure_ascii=False, separators=(",", ":")
    ).replace("<", "\\u003c")
    page = environment.get_template(template).render(
        **facts, version=__version__, made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    )
    with atomic_file(output) as file:
        file.write_text(page, encoding="utf-8")


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``12.3 s``, ``4 min 05 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
