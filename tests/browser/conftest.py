"""A headless Chromium: Debian's, or the one that Playwright installs; without either the tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.report_fixtures import FASTAS, write_sample
from virnucpro.provenance import read_provenance
from virnucpro.report.page import write_run_page, write_sample_page

NO_BROWSER = "no Chromium: apt-get install chromium, or playwright install chromium"


@pytest.fixture(scope="session")
def browser() -> Iterator:
    api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with api.sync_playwright() as playwright:
        if not program and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(NO_BROWSER)
        # Without the sandbox, since containers of CI seldom allow it; the pages are the project's own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a page and fails at the end if it said anything on the console, or asked for any other file."""
    complaints: list[str] = []
    contexts = []

    def open_(path: Path, **options):
        context = browser.new_context(offline=True, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked(request.url))
        page.goto(path.as_uri())
        return page

    def asked(url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            complaints.append(f"asked for {url}")

    yield open_
    for context in contexts:
        context.close()
    assert not complaints


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
