"""Pages to open."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.report_fixtures import FASTAS, write_sample
from virnucpro.provenance import read_provenance
from virnucpro.report.page import write_run_page, write_sample_page


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Makes the page of a sample with that many contigs, once; returns its path."""
    made: dict[tuple[int, bool], Path] = {}

    def page(contigs: int, calibrated: bool = False) -> Path:
        if (contigs, calibrated) not in made:
            folder = write_sample(tmp_path_factory.mktemp("results"), contigs, calibrated=calibrated)
            made[contigs, calibrated] = output = folder / "report.html"
            write_sample_page(folder, "s", FASTAS, output, read_provenance(folder / "embeddings.h5"), None)
        return made[contigs, calibrated]

    return page


@pytest.fixture(scope="session")
def run_page(pages, tmp_path_factory) -> Path:
    """The page of a run with two samples, beside theirs."""
    results = pages(300).parent.parent
    few = write_sample(results, 20, "few")
    write_sample_page(few, "few", FASTAS, few / "report.html", read_provenance(few / "embeddings.h5"), None)
    write_run_page({name: results / name / "summary.json" for name in ("s", "few")}, results / "report.html")
    return results / "report.html"
