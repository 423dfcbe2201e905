"""What a contig is like: its category, and how far it is from the training data."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.unit.tables import CATEGORIES, calibration, like, many_contigs, odds, read, tables_of
from virnucpro.errors import StorageError


def test_distance_is_the_mean_over_chunks_of_the_nearest_frame():
    frames = [
        ("a_chunk_1F1", *odds(0.5)),
        ("a_chunk_1R1", *odds(0)),
        ("a_chunk_2F2", *odds(0)),
        ("b_chunk_1F1", *odds(9)),
    ]
    partial = [("a_chunk_3R3:1-90", *odds(0))]
    far = {"a_chunk_1F1": 3, "a_chunk_1R1": 1, "a_chunk_2F2": 2, "a_chunk_3R3:1-90": 6, "b_chunk_1F1": 4.5}
    given = {"likeness": {"distances": far}, "limit": 2.0, "calibration": calibration(contig=(0.0, 1.0, 0.0))}
    with tempfile.TemporaryDirectory() as folder:
        paths, _ = tables_of(Path(folder), [("a", 2000), ("b", 400), ("c", 20)], frames, partial=partial, **given)
        a, b, c = read(paths.contigs)
    assert (a["distance"], a["reason"]) == ("1.5", "between_thresholds,unusual"), "(1 + 2 + 6) / 3 / 2"
    assert (b["distance"], b["call"], b["reason"]) == ("2.25", "viral", ""), "it changes no call"
    assert (c["distance"], c["category"], c["category_probability"]) == ("", "", "")


def test_a_distance_at_the_limit_is_usual(tmp_path):
    given = {"likeness": {"distances": {"a_chunk_1F1": 2}}, "limit": 2.0, "calibration": calibration()}
    paths, _ = tables_of(tmp_path, [("a", 400)], [("a_chunk_1F1", *odds(0))], **given)
    assert read(paths.contigs)[0]["reason"] == "between_thresholds,few_chunks"


@pytest.mark.parametrize(
    ("logit", "rules", "call", "category", "probability"),
    [
        (9, {}, "viral", "plant virus", 0.3 / 0.5),
        (-9, {}, "non-viral", "bacterium", 1),
        (0, {}, "ambiguous", "bacterium", 0.5),
        (9, {"fdr": 0.1}, "ambiguous", "bacterium", 0.5),
        (9, {"fdr": 0.1, "threshold": 0.5}, "viral", "plant virus", 0.3 / 0.5),
    ],
)
def test_the_category_fits_the_call(tmp_path, logit, rules, call, category, probability):
    frames = [("a_chunk_1F1", *odds(logit)), ("a_chunk_2F1", *odds(logit))]
    named = {"a_chunk_1F1": np.log([0.2, 0.3, 0.5]) + 1, "a_chunk_2F1": np.log([0.2, 0.3, 0.5]) - 1}
    given = {
        "likeness": {"categories": named},
        "categories": CATEGORIES,
        "calibration": calibration(contig=(0.0, 1.0, 0.0)),
    }
    paths, _ = tables_of(tmp_path, [("a", 900)], frames, **given, **rules)
    (row,) = read(paths.contigs)
    assert (row["call"], row["category"], row["distance"]) == (call, category, "")
    assert float(row["category_probability"]) == pytest.approx(probability, abs=1e-5)


def test_a_head_without_a_category_of_the_call_names_none(tmp_path):
    given = {"likeness": {"categories": {"a_chunk_1F1": np.log([0.2, 0.3, 0.5])}}, "calibration": calibration()}
    viral = tuple((name, True) for name, _ in CATEGORIES)
    paths, _ = tables_of(tmp_path, [("a", 400)], [("a_chunk_1F1", *odds(-9))], categories=viral, **given)
    (row,) = read(paths.contigs)
    assert (row["call"], row["category"], row["category_probability"]) == ("non-viral", "", "")


def test_fdr_names_unusual_contigs_and_their_category_among_all(tmp_path):
    records, frames = many_contigs(40, 60)
    given = {"likeness": like(frames, []), "categories": CATEGORIES, "limit": 1.5}
    given |= {"calibration": calibration(contig=(0.0, 1.0, 0.0))}
    for fdr, call, reasons in ((0.05, "viral", {""}), (0, "ambiguous", {"q_value", "q_value,unusual"})):
        paths, _ = tables_of(tmp_path, records, frames, fdr=fdr, ending=str(fdr), **given)
        rows = read(paths.contigs)[:40]
        assert {row["call"] for row in rows} == {call} and {row["reason"] for row in rows} == reasons
        names = {row["category"] for row in rows}
        assert names == {"phage", "plant virus"} | ({"bacterium"} if call == "ambiguous" else set())


def test_a_category_or_distance_that_is_not_finite_never_passes(tmp_path):
    for field in ("categories", "distances"):
        given = like(frames := [("a_chunk_1F1", 0.5)], [])
        given[field]["a_chunk_1F1"] = given[field]["a_chunk_1F1"] * np.nan
        with pytest.raises(StorageError, match="a_chunk_1F1: its score isn't a number"):
            tables_of(tmp_path, [("a", 60)], frames, likeness=given, limit=1.0, categories=CATEGORIES)
