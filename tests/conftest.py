"""Which tests run: `pytest --tier test` (the default), `ci` (more time, installs SLURM) or `soak` (hours)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnucpro.encoders.device import Device

TIERS = ("test", "ci", "soak")
LONG = (
    "slurm",
    "test_pooled",
    "test_user_files",
    "test_resilience",
    "test_caching",
    "test_parity",
    "test_training",
    "test_kernels_interpreted",
    "test_docs",
    "test_published_sizes",
    "workflow",
    "browser",
)
"""Files and folders that are begun first, so that nothing long is left for the end (with --no-loadscope-reorder)."""

QUICK = ("test_example",)
"""Of the workflow's tests, those that `make test` runs: it is to take minutes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=TIERS, default="test", help="also run tests marked with this tier or one before")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Longest first; skip, and so name in the summary, what belongs to a later tier."""
    chosen = TIERS.index(config.getoption("--tier"))
    items.sort(
        key=lambda item: next(
            (i for i, name in enumerate(LONG) if name in item.path.parts or name == item.path.stem), len(LONG)
        )
    )
    for item in items:
        if "workflow" in item.path.parts and item.path.stem not in QUICK:
            item.add_marker("ci")
        for tier in TIERS[chosen + 1 :]:
            if item.get_closest_marker(tier):
                item.add_marker(pytest.mark.skip(reason=f"runs with make test TIER={tier} only"))


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """The command sets variables for its jobs; a test that calls it leaves none to the next."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


NO_BROWSER = "no Chromium: apt-get install chromium, or playwright install chromium"
"""Why tests that open a page are skipped."""


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A headless Chromium: Debian's, or the one that Playwright installs. One for all, since Playwright can't run twice in a process."""
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


@pytest.fixture(autouse=True, scope="session")
def cpu_without_bf16() -> Iterator[None]:
    """What tests compute by themselves as ``auto`` is fp32 on every CPU, so that they may compare closely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "has_bf16_products", False)
        yield
