"""The report in a real browser: it draws, sorts, searches and downloads, in the dark, on paper and by keyboard.

With KEEP_SCREENSHOTS=FOLDER the pictures are kept, to be looked at.
"""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import pytest

from virnucpro.result_tables import CONTIG_COLUMNS

pytestmark = pytest.mark.ci
CALL, REASON = (CONTIG_COLUMNS.index(name) + 1 for name in ("call", "reason"))


def keep(page, name: str, **options) -> bytes:
    """A picture of the page, kept if somebody wants to see it."""
    picture = page.screenshot(**options)
    if folder := os.environ.get("KEEP_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(picture)
    return picture


def column(page, number: int) -> list[str]:
    return page.locator(f"#table tbody td:nth-child({number})").all_inner_texts()


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path.parent / "contigs.tsv", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_plots_draw(opened, pages):
    page = opened(pages(300), viewport={"width": 1200, "height": 900})
    keep(page, "light", full_page=True)
    boxes = [box.bounding_box() for box in page.locator("svg").all()]
    assert len(boxes) == 33 and all(box["width"] > 200 and box["height"] > 40 for box in boxes)
    for bars in ("#scores ~ .figures", "#lost ~ .figures", ".strip >> nth=0"):
        drawn = [bar.bounding_box() for bar in page.locator(f"{bars} >> rect").all()]
        assert drawn and max(box["height"] for box in drawn) > 20
    shares = [part.bounding_box()["width"] for part in page.locator(".share").first.locator("span").all()]
    assert len(shares) == 3 and shares[2] == pytest.approx(sum(shares) / 10, rel=0.01)


def test_sorting_and_searching(opened, pages):
    path = pages(300)
    rows = {row["record"]: row for row in table_of(path)}
    page = opened(path)
    assert len(column(page, 1)) == 25
    assert page.locator("#shown").inner_text() == "Rows 1 to 25 of 300"
    means = [float(rows[name]["mean_score"]) for name in column(page, 1)]
    assert means == sorted(means, reverse=True)

    best = page.get_by_role("button", name="best score")
    scored = [row for row in rows.values() if row["best_score"]]
    for order, direction in (("descending", True), ("ascending", False)):
        best.click()
        assert best.locator("..").get_attribute("aria-sort") == order
        wanted = sorted((float(row["best_score"]) for row in scored), reverse=direction)[:25]
        assert [float(rows[name]["best_score"]) for name in column(page, 1)] == wanted
    page.get_by_role("button", name="Last").click()
    assert column(page, CALL) == ["unscored"] * 25, "those without a score are last, either way"
    best.click()
    assert best.locator("..").get_attribute("aria-sort") is None
    assert [float(rows[name]["mean_score"]) for name in column(page, 1)] == means, "as at first"

    page.get_by_label("Search names").fill(" TIG_12 ")
    found = [name for name in rows if "tig_12" in name]
    assert sorted(column(page, 1)) == sorted(found) and len(found) == 11
    page.get_by_label("Call").select_option("viral")
    assert sorted(column(page, 1)) == sorted(name for name in found if rows[name]["call"] == "viral")
    page.get_by_label("Search names").fill("no such")
    assert page.locator("#shown").inner_text() == "No contig matches." and column(page, 1) == []


def test_ambiguous_contigs_and_their_reasons(opened, pages):
    path = pages(300, calibrated=True)
    page = opened(path, viewport={"width": 1200, "height": 900})
    keep(page, "calibrated", full_page=True)
    rows = table_of(path)
    page.locator("#call").select_option("ambiguous")
    page.get_by_label("Rows").select_option("500")
    ambiguous = [row for row in rows if row["call"] == "ambiguous"]
    assert len(column(page, 1)) == len(ambiguous) > 20 and set(column(page, CALL)) == {"ambiguous"}
    page.locator("#call").select_option("")
    reason = page.get_by_role("button", name="reason")
    reason.click()
    given = sorted(row["reason"] for row in rows if row["reason"])
    assert column(page, REASON) == [text.replace(",", ", ") for text in given] + [""] * (300 - len(given)), (
        "text, none last"
    )
    assert page.locator(".look li").count() > 20
    curve = [point.bounding_box() for point in page.locator("circle").all()]
    assert len(curve) == 2 and curve[0]["x"] < curve[1]["x"] and curve[0]["y"] > curve[1]["y"]


@pytest.mark.parametrize(("button", "separator"), [("Download TSV", "\t"), ("Download CSV", ",")])
def test_download_is_what_was_searched_for(opened, pages, tmp_path, button, separator):
    path = pages(300)
    page = opened(path)
    page.get_by_label("Call").select_option("viral")
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    assert download.value.suggested_filename == f"s.contigs.{button[-3:].lower()}"
    download.value.save_as(tmp_path / "table")
    with open(tmp_path / "table", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter=separator))
    wanted = {row["record"]: row for row in table_of(path) if row["call"] == "viral"}
    assert {row["record"] for row in rows} == set(wanted) and len(rows) > 25
    for row in rows:
        for name, value in row.items():
            same = value == wanted[row["record"]][name]
            assert same or float(value) == float(wanted[row["record"]][name])


def test_keyboard_alone(opened, pages):
    page = opened(pages(300))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.column") == "length":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.keyboard.press("Enter")
    assert page.locator("[data-column=length]").locator("..").get_attribute("aria-sort") == "descending"
    assert outline == "solid", "one sees where one is"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "next":
            break
    page.keyboard.press("Space")
    assert page.locator("#shown").inner_text() == "Rows 26 to 50 of 300"


def luminance(page, selector: str, what: str) -> float:
    colour = page.locator(selector).first.evaluate(f"element => getComputedStyle(element)['{what}']")
    red, green, blue = (int(part) / 255 for part in colour[4:-1].split(","))
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_light_and_dark(opened, pages, scheme):
    page = opened(pages(300, calibrated=True), color_scheme=scheme, viewport={"width": 1200, "height": 900})
    page.get_by_label("Rows").select_option("500")
    keep(page, f"calibrated-{scheme}", full_page=True)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground > 0.9) == (scheme == "light")
    for selector, what, least in (
        ("body", "color", 7),
        (".quiet", "color", 4.5),
        ("nav a", "color", 4.5),
        ("td.call-viral", "color", 4.5),
        ("td.call-ambiguous", "color", 4.5),
        ("rect.viral", "fill", 3),
        ("rect.ambiguous", "fill", 3),
        ("rect.other", "fill", 3),
        ("rect.none", "fill", 3),
    ):
        low, high = sorted((ground, luminance(page, selector, what)))
        assert (high + 0.05) / (low + 0.05) >= least, selector


def test_print(opened, pages, tmp_path):
    page = opened(pages(300), color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator("#search").is_visible()
    assert luminance(page, "body", "backgroundColor") > 0.9, "no dark paper"
    assert page.locator(".strip").first.is_visible() and page.locator("#methods").is_visible()
    keep(page, "print", full_page=True)
    page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    assert (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") > 2


def test_narrow_screen_scrolls_tables_only(opened, pages):
    page = opened(pages(300, calibrated=True), viewport={"width": 390, "height": 800})
    keep(page, "narrow", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_copying_the_methods(opened, pages):
    page = opened(pages(300), permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the paragraph").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#methods").inner_text()


def test_one_contig(opened, pages):
    page = opened(pages(1), viewport={"width": 1200, "height": 900})
    keep(page, "one", full_page=True)
    assert len(column(page, 1)) == 1 and page.locator("#next").is_disabled()
    assert page.locator(".strip").count() == 1


def test_page_of_a_run_leads_to_its_samples(opened, run_page):
    page = opened(run_page)
    keep(page, "run", full_page=True)
    page.get_by_role("link", name="few").click()
    assert page.locator("h1").inner_text() == "VirNucPro: few"


def test_a_hundred_thousand_contigs(opened, pages):
    path = pages(100_000)
    megabytes = path.stat().st_size / 1e6
    started = time.perf_counter()
    page = opened(path)
    assert page.locator("#shown").inner_text() == "Rows 1 to 25 of 100,000"
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    page.get_by_role("button", name="length").click()
    page.get_by_label("Search names").fill("99999")
    assert column(page, 1) == ["contig_99999"]
    answered = time.perf_counter() - started
    print(f"{megabytes:.1f} MB, opened in {seconds:.2f} s, sorted and searched in {answered:.2f} s")
    assert megabytes < 20 and seconds < 3 and answered < 3
