"""docs/outputs.md names exactly the columns and keys that the writers write."""

from __future__ import annotations

import re

import h5py
import pytest

from tests.unit.test_predict import run, small
from virnucpro import installation
from virnucpro.embeddings.store import create_merged
from virnucpro.handover.anndata import COLUMNS, LEVELS
from virnucpro.handover.ids import OTHER_LENGTH, OUTSIDE, UNKNOWN
from virnucpro.handover.join import UNMATCHED_COLUMNS
from virnucpro.handover.programs import CHECKV, GENOMAD_PLASMID, GENOMAD_VIRUS
from virnucpro.handover.reads import TITLES
from virnucpro.handover.regions import TITLES_OF_REGIONS
from virnucpro.outputs import SAMPLE_FILES
from virnucpro.result_tables import REGION_COLUMNS

DOCUMENT = (installation.root() / "docs" / "outputs.md").read_text()


def documented(title: str) -> list[str]:
    """Names in the table below a heading."""
    section = DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    given = small(tmp_path_factory.mktemp("results"))
    outputs, summary = run(**given)
    return given["folder"], outputs, summary


@pytest.mark.parametrize(
    ("title", "output"),
    [
        ("contigs.tsv", "contigs"),
        ("chunks.tsv", "chunks"),
        ("predictions.tsv", "predictions"),
        ("prediction_results.txt", "results"),
        ("prediction_results_highestscore.csv", "highest"),
        ("chunk_scores.tsv", "chunk_scores"),
    ],
)
def test_columns(results, title, output):
    header = getattr(results[1], output).read_text().splitlines()[0]
    assert documented(title) == header.split("\t")


def test_columns_of_regions():
    assert documented("regions.tsv") == list(REGION_COLUMNS)


NEXT = (installation.root() / "docs" / "next-programs.md").read_text()


def test_columns_of_the_joined_table():
    section = NEXT.split("\n## The joined table\n")[1].split("\n## ")[0]
    titles = [title for kind in (GENOMAD_VIRUS, GENOMAD_PLASMID, CHECKV) for title in kind.titles]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        *TITLES_OF_REGIONS,
        *titles,
        *TITLES,
        *UNMATCHED_COLUMNS,
    ]
    assert all(f"`{reason}`" in section for reason in (UNKNOWN, OTHER_LENGTH, OUTSIDE))


@pytest.mark.parametrize("level", LEVELS)
def test_columns_of_the_vectors(level):
    rows = re.findall(r"^\| ([^|]+) \| (\w+) \|", NEXT.split("\n## Vectors for scanpy\n")[1], re.MULTILINE)
    named = [name for names, at in rows if at in (level, "both") for name in re.findall(r"`(\w+)`", names)]
    assert sorted(named) == sorted(COLUMNS[level])


def test_keys_of_the_summary(results):
    assert documented("summary.json") == list(results[2])


def test_datasets(tmp_path):
    with create_merged(tmp_path / "e.h5", 0, 2, 2, {}, digests=True, partial=0):
        pass
    with h5py.File(tmp_path / "e.h5") as file:
        assert sorted(documented("embeddings.h5")) == sorted(file)


def test_every_result_has_a_section():
    assert len(SAMPLE_FILES) == 14
    for name in SAMPLE_FILES:
        assert f"\n## {name}\n" in DOCUMENT
