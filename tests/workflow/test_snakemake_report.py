"""`snakemake --report`: every page and table with its caption, category and sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflow.conftest import coding, fasta
from tests.workflow.runner import snakemake

pytestmark = pytest.mark.ci


def value_in(page: str, name: str) -> dict:
    """The JSON that the page assigns to a variable."""
    return json.JSONDecoder().raw_decode(page, page.index(f"{name} = {{") + len(name) + 3)[0]


def test_pages_and_tables_of_all_samples(tmp_path: Path, tiny):
    for sample in ("a", "b"):
        (tmp_path / f"{sample}.fa").write_text(fasta({"r1": coding(1, 700)}))
    (tmp_path / "samples.tsv").write_text("sample\tfasta\na\ta.fa\nb\tb.fa\n")
    config = tiny.config() | {"samples": "samples.tsv"}
    assert "all samples: results/report.html" in snakemake(tmp_path, config=config).ok().text
    snakemake(tmp_path, "--report", "all.html", config=config).ok()
    page = (tmp_path / "all.html").read_text()
    categories = value_in(page, "categories")
    assert {
        name: sorted(path for paths in inside.values() for path in paths) for name, inside in categories.items()
    } == {
        "All samples": ["results/report.html"],
        "Samples": ["results/a/report.html", "results/b/report.html"],
        "Contigs": ["results/a/contigs.tsv", "results/b/contigs.tsv"],
    }
    results = value_in(page, "results")
    assert results["results/b/report.html"]["labels"] == {"sample": "b"}
    for path, words in (
        ("results/report.html", "Viral share of every sample"),
        ("results/a/report.html", "Sample <strong>a</strong>"),
        ("results/b/contigs.tsv", "viral, ambiguous, non-viral or unscored"),
    ):
        assert words in results[path]["caption"], results[path]["caption"]
    assert "translates them in six frames" in page
