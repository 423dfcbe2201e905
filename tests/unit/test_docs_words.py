"""How long the pages are that users read, and that a figure which two of them state is the same in both."""

from __future__ import annotations

import re

import pytest

from tests.documentation import PAGES, ROOT, name, words
from virnucpro.models.registry import ARCHITECTURES

READ = (
    "README.md",
    "docs/quickstart-laptop.md",
    "docs/quickstart-workstation.md",
    "docs/quickstart-cluster.md",
    "docs/how-it-works.md",
    "docs/models.md",
    "docs/models/mini.md",
    "docs/accuracy.md",
    "docs/performance.md",
    "docs/faq.md",
)
"""What a user reads from beginning to end; tables of columns and keys, and contributors' pages, are looked things up in."""
LIMIT = 9000


def test_users_have_little_to_read():
    counts = {page: words(ROOT / page) for page in READ}
    assert sum(counts.values()) <= LIMIT, counts


def test_words_are_counted():
    assert words(ROOT / "docs/performance.md") > 400
    assert all((ROOT / page) in PAGES for page in READ)


N = r"([\d,.]*\d)"
FIGURES = {
    "AUROC of mini-500's contigs": {
        "docs/accuracy.md": rf"\| contigs: AUROC \| 0\.879 \| 0\.985 \| {N} \|",
        "docs/models/mini.md": rf"AUROC of contigs {N}",
        "README.md": rf"contigs' AUROC {N}",
    },
    "AUROC of its chunks": {
        "docs/accuracy.md": rf"\| all chunks \(no score counts as 0\) \| 0\.696 \| 0\.909 \| {N} \|",
        "docs/models/mini.md": rf"of chunks of 500 bases {N}",
    },
    "AUROC of mini-300's contigs": {
        "docs/accuracy.md": rf"\| contigs: AUROC \| 0\.852 \| 0\.976 \| {N} \|",
        "docs/inputs.md": rf"below contigs \(AUROC {N}\)",
    },
    "AUROC of reads": {
        "docs/accuracy.md": rf"others\): AUROC {N}",
        "docs/inputs.md": rf"\[Accuracy\]\(accuracy.md\)\): AUROC {N}",
    },
    "download of virnucpro-500, GB": {
        "README.md": rf"\| {N} GB, and a GPU",
        "docs/models.md": rf"That is {N} GB",
        "docs/quickstart-workstation.md": rf"classifier \({N} GB\)",
    },
    "frames/s of ESM-2 3B, H200": {
        "docs/performance.md": rf"\| ESM-2 3B, fp16 \| [\d,]+ \| {N} \|",
        "docs/performance-notes.md": rf"\*\*this, fp16\*\* \| \*\*{N}\*\* \| \*\*93",
        "docs/scaling.md": rf"ESM-2 3B \(650M\) \| {N} \(",
    },
    "frames/s of ESM-2 650M, H200": {
        "docs/performance.md": rf"\| ESM-2 650M, fp16 \| [\d,]+ \| {N} \|",
        "docs/performance-notes.md": rf"\*\*this, fp16 / bf16\*\* \| \*\*{N} /",
        "docs/scaling.md": rf"ESM-2 3B \(650M\) \| [\d,]+ \({N}\)",
    },
    "gain of two GPUs": {
        "docs/performance.md": rf"\*\*{N} times as fast\*\*",
        "docs/performance-notes.md": rf"141\.8 s \| \*\*{N} ×\*\*",
    },
    "Mbp a minute of mini-500 on two cores": {
        "docs/performance.md": rf"\| 2 CPU cores \(Zen 3\) \| \*\*{N}\*\*",
        "README.md": rf"\| 2 CPU cores \| \*\*{N}\*\*",
    },
    "Mbp a minute of mini-500 on two cores with bf16": {
        "docs/performance.md": rf"\| 2 CPU cores \(Sapphire Rapids, AMX: bf16\) \| \*\*{N}\*\*",
        "README.md": rf"\| 2 CPU cores \|[^|]*; \*\*{N}\*\* \(Sapphire Rapids",
    },
    "Mbp a minute of virnucpro-500, H200": {
        "docs/performance.md": rf"\| H200 \| [^|]*\| \*\*{N}\*\*",
        "README.md": rf"\| H100 or H200 \|[^|]*\| \*\*{N}\*\*",
    },
    "seconds a small sample": {
        "docs/performance.md": rf"\| {N} s each on 2 cores",
        "docs/performance-notes.md": rf"--cores 2`, {N} s a sample",
        "docs/scaling.md": rf"\| {N} s on 2 cores",
    },
}
"""What is stated: page → pattern of the figure there."""
MINUTES = "Mbp a minute"
"""README has 100 Mbp in minutes where the page on performance has Mbp a minute."""


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_stated_alike(figure):
    found = {}
    for page, pattern in FIGURES[figure].items():
        match = re.search(pattern, (ROOT / page).read_text())
        assert match, f"{page}: no {figure} ({pattern})"
        found[page] = float(match[1].replace(",", ""))
    if figure.startswith(MINUTES):
        assert round(100 / found["docs/performance.md"]) == found["README.md"], found
    else:
        assert len(set(found.values())) == 1, found


def test_a_batch_is_stated_as_it_is():
    row = next(
        line for line in (ROOT / "config/README.md").read_text().splitlines() if line.startswith("| `tokens_per")
    )
    assert f"up to {ARCHITECTURES['esm2'].max_tokens:,} (DNABERT-S {ARCHITECTURES['dnabert_s'].max_tokens:,})" in row


def test_pages_are_listed_for_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert [name(page) for page in missing if str(page.relative_to(ROOT / "docs")) not in navigation] == []
