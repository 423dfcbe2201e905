"""Writing the HTML pages: one of a sample, one of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from virnucpro import __version__
from virnucpro.io import atomic_file
from virnucpro.outputs import REGIONS
from virnucpro.rendering import how_many
from virnucpro.report import advice, answers, methods, regions, tables, timing
from virnucpro.report.controls import TITLES, about, read_controls
from virnucpro.result_tables import AMBIGUOUS, CONTIG_COLUMNS, NON_VIRAL, UNSCORED, VIRAL

MAX_LISTED_SHARDS = 500
"""Shard jobs in the page's table: the slowest ones."""


def write_sample_page(
    folder: Path,
    sample: str,
    fastas: Sequence[str | Path],
    output: Path,
    provenance: Mapping[str, Any],
    check: str | None,
    controls: Path | None = None,
) -> None:
    """Write a sample's page: one file, bounded in size whatever the number of contigs.

    Args:
        folder: where the sample's tables and their summary are.
        sample: its name.
        fastas: its input files, to be named on the page.
        output: the page.
        provenance: of its ``embeddings.h5``.
        check: content of ``check.json``, if there is one.
        controls: ``controls.tsv``, if it has controls.
    """
    summary = json.loads((folder / "summary.json").read_text())
    by_score = answers.by_score(summary)
    table = folder / REGIONS["regions"] if summary["regions"] else None
    contigs = tables.read_contigs(folder / "contigs.tsv", by_score, regions.largest_parts(table) if table else [])
    rows = {row["record"]: row for row in (*contigs.drawn, *contigs.wanted)}
    chunks = tables.read_chunks(folder / "chunks.tsv", rows.values(), by_score)
    drawn = {each.row["record"]: each for each in chunks.drawn}
    for record, found in (regions.regions_of(table, drawn.keys()) if table else {}).items():
        drawn[record].regions = found
    calibration = summary["calibration"]
    scored_controls = read_controls(controls) if controls else []
    shards = provenance["shards"]
    computed = timing.computed(shards)
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
        drawn=[drawn[row["record"]] for row in contigs.drawn],
        regions=regions.sentences(summary["regions"]) if table else "",
        with_parts=[drawn[row["record"]] for row in contigs.wanted],
        region_files=REGIONS,
        by_score=by_score,
        thresholds=answers.thresholds(summary),
        answers=[
            answers.calling(summary),
            answers.prevalence(summary),
            answers.false_share(summary, contigs.highest_q),
            answers.categories(contigs.categories),
            answers.unusual(contigs.unusual, summary),
        ],
        ambiguous=[(row, advice.ambiguous(row, summary)) for row in contigs.ambiguous],
        unscored=advice.unscored(contigs.unscored, chunks.unscored, summary),
        fitted_on=answers.fitted_on(calibration) if calibration else "",
        measured=answers.measured(calibration),
        curve=answers.curve(summary),
        controls=scored_controls,
        about_controls=about(scored_controls, summary) if scored_controls else [],
        kinds_of_controls=TITLES,
        data=tables.columns(contigs.listed),
        columns=CONTIG_COLUMNS,
        calls=(VIRAL, AMBIGUOUS, NON_VIRAL, UNSCORED),
        times=timing.rule_times(provenance, methods.architectures(summary)),
        throughput=timing.throughput(shards),
        computed_shards=len(computed),
        known_frames=sum(shard["frames"] - shard.get("computed", shard["frames"]) for shard in shards),
        shards=sorted(computed, key=lambda shard: -shard["seconds"])[:MAX_LISTED_SHARDS],
        check=check_of(check, summary),
        methods=methods.methods(summary, sum(contigs.bases.values())),
        references=methods.references(methods.architectures(summary).values()),
    )


def check_of(content: str | None, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``virnucpro check`` wrote; None if it wasn't run, or with other models than the sample's."""
    if content is None:
        return None
    check = json.loads(content)
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
    page = (
        _templates()
        .get_template(template)
        .render(**facts, version=__version__, made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    )
    with atomic_file(output) as file:
        file.write_text(page, encoding="utf-8")


@cache
def _templates() -> Environment:
    """The templates, each compiled once in a process: that takes longer than filling it in."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["how_many"] = how_many
    environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"
    environment.filters["duration"] = duration
    environment.filters["scale"] = regions.scale
    # Compact, and safe within a script element, which a "<" could end.
    environment.filters["embedded"] = lambda value: json.dumps(
        value, ensure_ascii=False, separators=(",", ":")
    ).replace("<", "\\u003c")
    return environment


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``12.3 s``, ``4 min 05 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
