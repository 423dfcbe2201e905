"""What the documentation shows is what comes out: sessions in ``console`` blocks, rows of contigs.tsv, the report's picture.

In what is shown ``…`` stands for anything, a line of it for any lines; numbers with a decimal point may differ a little, as
other processors round differently, and runs of blanks may be of other lengths.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.documentation import PAGES, ROOT, Block, blocks, name
from tests.workflow.runner import WITHOUT_BF16

pytestmark = pytest.mark.ci
PREDICT = "virnucpro predict contigs.fa --output out"
NUMBER = r"-?\d[\d,]*\.\d+"


def alike(shown: str, line: str) -> bool:
    """Whether a line that is shown stands for this one."""
    parts = re.split(rf"({NUMBER}|…|\s+)", shown.rstrip())
    kinds = {"…": ".*"}
    pattern = "".join(
        rf"({NUMBER})" if re.fullmatch(NUMBER, part) else r"\s+" if part.isspace() else kinds.get(part, re.escape(part))
        for part in parts
    )
    found = re.fullmatch(pattern, line.rstrip())
    if not found:
        return False
    pairs = zip(re.findall(NUMBER, shown), found.groups(), strict=True)
    return all(close(one, other) for one, other in pairs)


def close(one: str, other: str) -> bool:
    first, second = (float(number.replace(",", "")) for number in (one, other))
    return abs(first - second) <= 0.01 + 0.02 * abs(first)


def same(shown: list[str], lines: list[str]) -> bool:
    """Whether these lines may be shown so."""
    if not shown:
        return not lines
    if shown[0].strip() == "…":
        return any(same(shown[1:], lines[skipped:]) for skipped in range(len(lines) + 1))
    return bool(lines) and alike(shown[0], lines[0]) and same(shown[1:], lines[1:])


def test_what_stands_for_what():
    assert alike("contig  1.00 viral", "contig    1.004 viral") and not alike("contig 1.00", "contig 1.1")
    assert alike("in … CPU seconds", "in 21.9 CPU seconds") and not alike("4 of 18", "5 of 18")
    assert same(["…", "b"], ["a", "b"]) and same(["…"], []) and not same(["a"], ["a", "b"])


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """A folder with the example as ``contigs.fa``, and its results in ``out``; what the run said is in ``said``."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "contigs.fa").write_bytes((ROOT / "resources/example/contigs.fa").read_bytes())
    (folder / "samples.tsv").write_text("sample\tfasta\ngut\tcontigs.fa\n")
    (folder / "my-cluster").symlink_to(ROOT / "workflow/profiles/slurm")  # as the reader has copied it
    (folder / "workflow").symlink_to(ROOT / "workflow")
    (folder / "said").write_text(typed(PREDICT, folder))
    return folder


def typed(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | WITHOUT_BF16 | {"PATH": path, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


SESSIONS = [(page, block) for page in PAGES for block in blocks(page) if block.language == "console"]


@pytest.mark.parametrize(("page", "block"), [pytest.param(*each, id=name(each[0])) for each in SESSIONS])
def test_the_session(page: Path, block: Block, example: Path):
    for command, shown in block.session:
        printed = (example / "said").read_text() if command == PREDICT else typed(command, example)
        assert same(shown, printed.splitlines()), f"{page}: $ {command}\nprints\n{printed}"


def tables(page: Path) -> list[list[dict[str, str]]]:
    """Rows of the page's tables whose first column is ``record``."""
    found = []
    for table in re.findall(r"^\| `?record`? \|.*\n(?:\|.*\n)+", page.read_text(), flags=re.M):
        rows = [[cell.strip(" `") for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md"], ids=name)
def test_rows_of_the_contigs(page: Path, example: Path):
    with open(example / "out/contigs/contigs.tsv", newline="") as file:
        real = {row["record"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    ((*rows,),) = tables(page)
    assert len(rows) > 3
    for row in rows:
        for column, cell in row.items():
            value = real[row["record"]][column]
            assert value == cell or ("." in cell and close(value, cell)), f"{page}: {row['record']}, {column}: {value}"


PICTURE = ROOT / "docs/figures/report.png"
WIDTH, STRIPS = 1200, 6


def test_the_picture_of_the_report(opened, example: Path):
    """It shows what the page of today says, at that size; with MAKE_FIGURES=1 it is made anew."""
    page = opened(example / "out/contigs/report.html", viewport={"width": WIDTH, "height": 900})
    sentence = page.locator("#result + p")
    strips = page.locator(".strip").all()[:STRIPS]
    bands = [
        (0, bottom(sentence) + 8),
        (page.locator("#where").bounding_box()["y"] - 8, bottom(strips[-1].locator("..")) + 8),
    ]
    said = [
        page.locator("h1").inner_text(),
        sentence.inner_text(),
        *(each.get_attribute("aria-label") for each in strips),
    ]
    if os.environ.get("MAKE_FIGURES"):
        make_picture(page, bands, said)
    with Image.open(PICTURE) as picture:
        assert picture.text["said"].split("\n") == said, "make it anew: MAKE_FIGURES=1"
        assert picture.width == WIDTH and abs(picture.height - sum(end - start for start, end in bands)) < 100
    assert PICTURE.stat().st_size < 200_000


def bottom(element) -> float:
    box = element.bounding_box()
    return box["y"] + box["height"]


def make_picture(page, bands: list[tuple[float, float]], said: list[str]) -> None:
    """These bands of the page, from (y, to y), one below the other; what the page says there is kept in the file."""
    parts = [
        Image.open(BytesIO(page.screenshot(full_page=True, clip={"x": 0, "y": y, "width": WIDTH, "height": end - y})))
        for y, end in bands
    ]
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)))
    y = 0
    for part in parts:
        whole.paste(part, (0, y))
        y += part.height
    text = PngInfo()
    text.add_text("said", "\n".join(said))
    whole.quantize(48).save(PICTURE, optimize=True, pnginfo=text)
