"""Viral regions on a sample's page."""

from __future__ import annotations

import html
import re

import pytest

from tests.unit.report_fixtures import CHUNK, add_regions, page_of, paragraph_in, words_of, write_sample
from virnucpro.report import regions as module
from virnucpro.report.page import write_run_page
from virnucpro.report.regions import largest_parts, regions_of, scale

PARTS = [
    ("contig_0", 1, 4, "whole"),
    ("contig_1", 2, 2, "inner"),
    ("contig_1", 4, 4, "end"),
    ("contig_2", 1, 3, "start"),
]


@pytest.fixture
def sample(tmp_path):
    return add_regions(write_sample(tmp_path, 12), PARTS)


def section(page, name):
    return re.split(r'<h2 id="', page.split(f'<h2 id="{name}">')[1])[0]


def test_contigs_with_parts_are_drawn_with_them(sample):
    drawn = section(page_of(sample), "regions")
    assert re.findall(r"<strong>(\w+)</strong>", drawn) == ["contig_2", "contig_1"], "most bases in parts first"
    places = re.findall(
        r'<rect class="viral" x="([\d.]+)" y="1" width="([\d.]+)" height="8" fill-opacity="0.91"', drawn
    )
    assert [tuple(map(float, place)) for place in places] == [(0, 750), (250, 250), (750, 250)]
    assert "contig_1_region_1: 501–1,000, 500 bases, 1 chunk, mean posterior 0.910, extent inner" in drawn
    assert drawn.count('<svg class="strip"') == drawn.count('<div class="scale"') == 2
    for name in ("regions.tsv", "regions.gff3", "regions.bed", "viral_regions.fasta.gz"):
        assert f'<a href="{name}">' in drawn


def test_regions_are_below_the_other_contigs_that_are_drawn(sample):
    drawn = section(page_of(sample), "where")
    assert "contig_0_region_1: 1–2,000, 2,000 bases, 4 chunks" in drawn and "below: viral regions" in drawn
    assert drawn.count('<svg class="regions"') == 3 < drawn.count('<svg class="strip"')


def test_what_is_said_of_them(sample):
    words = words_of(sample)
    assert (
        "4 viral regions in 3 contigs, 4,500 bases: 1 whole contig, 1 within a contig, 1 from a contig's start on, 1 up to "
        "a contig's end. They don't depend on the contig's call." in words
    )
    assert "default" not in section(html.unescape(page_of(sample)), "regions")
    assert "fitted for the classifier: 4 regions in 3 sequences." in paragraph_in(page_of(sample))
    add_regions(sample, [], "default")
    assert "No part of a contig is probably viral" in words_of(sample)
    assert "the default ones were taken, which weren't fitted to it" in words_of(sample)
    assert "that weren&#39;t fitted for this classifier (the default ones): 0 regions" in paragraph_in(page_of(sample))


def test_without_them(tmp_path):
    page = page_of(write_sample(tmp_path, 5))
    assert "Not looked for" in section(page, "regions") and "regions.tsv" not in page
    assert '<svg class="regions"' not in page and "hidden Markov" not in page


def test_a_page_is_bounded(sample, monkeypatch):
    monkeypatch.setattr(module, "DRAWN_CONTIGS", 1)
    monkeypatch.setattr(module, "MAX_REGIONS", 1)
    assert largest_parts(sample / "regions.tsv") == ["contig_2"]
    add_regions(sample, [("contig_1", 1, 1, "start"), ("contig_1", 3, 4, "end"), ("contig_3", 1, 4, "whole")])
    found = regions_of(sample / "regions.tsv", {"contig_1"})
    assert [row["start"] for row in found["contig_1"]] == [str(2 * CHUNK + 1)] and len(found) == 1


@pytest.mark.parametrize(
    ("length", "marks"),
    [
        (1, ["1", "1 bases"]),
        (500, ["1", "0.1", "0.2", "0.3", "0.4", "0.5 kb"]),
        (4300, ["1", "1", "2", "3", "4.3 kb"]),
        (48502, ["1", "10", "20", "30", "40", "48.5 kb"]),
        (10_000_000, ["1", "2", "4", "6", "8", "10 Mb"]),
    ],
)
def test_scales(length, marks):
    found = scale(length)
    assert [said for _, said in found] == marks
    assert [at for at, _ in found] == sorted(at for at, _ in found) and found[-1][0] == 100


def test_the_page_of_a_run(tmp_path, sample):
    write_sample(tmp_path, 5, "other")
    write_run_page({name: tmp_path / name / "summary.json" for name in ("s", "other")}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "viral regions</th>" in page and '<td class="number">4</td>' in page
