"""Evaluation: metrics against scikit-learn, groups, and what has no score."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from tests.unit.tables import tables_of
from virnucpro.classifier.evaluation import evaluate, evaluate_from_table
from virnucpro.classifier.labels import Label, Labelled
from virnucpro.classifier.metrics import METRICS, binary_metrics, calibration_error, reliability
from virnucpro.classifier.ranking import Ranking
from virnucpro.classifier.weighted import recall_at
from virnucpro.errors import InputError, StorageError


def tables(folder, name, virus, chunks=2, length=900, **about):
    """Tables of one sample: record i has frame F1 on its first chunk with score ``virus[i]``, or none if None."""
    folder = folder / name
    frames = [(f"{name}{i}_chunk_1F1", score) for i, score in enumerate(virus) if score is not None]
    tables_of(folder, [(f"{name}{i}", length) for i in range(len(virus))], frames, ending=".tsv")
    return Labelled(name, folder, **about)


def find(result, level, group="all", name=""):
    (row,) = [r for r in result["metrics"] if (r["level"], r["group"], r["name"]) == (level, group, name)]
    return row


ITEM = st.tuples(
    st.booleans(), st.sampled_from([0.0, 0.2, 0.25, 0.7, 1.0]) | st.floats(0, 1), st.booleans(), st.integers(1, 9)
)


@given(st.lists(ITEM, max_size=50), st.booleans())
def test_metrics_are_scikit_learns(items, weighted):
    truth, scores, calls, weights = (np.array([item[i] for item in items]) for i in range(4))
    truth, calls, weights = truth.astype(bool), calls.astype(bool), weights.astype(float)
    found = binary_metrics(truth, scores, calls, weights if weighted else None)
    given = {"sample_weight": weights if weighted else None}
    assert tuple(found) == METRICS and found["items"] == len(items)
    assert all(value is None or math.isfinite(value) for value in found.values())
    if len(set(truth.tolist())) == 2:
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, scores, **given))
        assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth, scores, **given))
        assert found["f1"] == pytest.approx(sk.f1_score(truth, calls, zero_division=0, **given))
        assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, calls, **given))
        assert found["recall"] == pytest.approx(sk.recall_score(truth, calls, **given))
        assert found["specificity"] == pytest.approx(sk.recall_score(~truth, ~calls, **given))
        assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, scores, **given))
        even = weights if weighted else np.ones(len(items))
        for share in (0.01, 0.3):
            assert Ranking(truth, scores).recall_at(even, share) == pytest.approx(recall_at(truth, scores, even, share))
    else:
        assert found["auroc"] is None
    rows = reliability(truth, scores, weights if weighted else None)
    assert sum(row["items"] for row in rows) == len(items)
    if items:
        assert 0 <= calibration_error(rows) <= 1


def test_calibration_error_of_known_curves():
    truth = np.array([True, False] * 50)
    assert calibration_error(reliability(truth, np.full(100, 0.5))) == 0
    assert calibration_error(reliability(truth, np.full(100, 0.9))) == pytest.approx(0.4)
    assert calibration_error(reliability(np.ones(10, bool), np.ones(10))) == 0


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("result")
    samples = [
        tables(tmp_path, "v", [0.9, 0.8, 0.3, None], label=Label(True, "phage")),
        tables(tmp_path, "n", [0.1, 0.6, None, 0.2, 0.1], length=400, label=Label(False, "bacteria")),
    ]
    return evaluate(samples, tmp_path / "out"), tmp_path / "out"


def test_levels(result):
    found, _ = result
    truth, scores = [1, 1, 1, 0, 0, 0, 0], np.array([0.9, 0.8, 0.3, 0.1, 0.6, 0.2, 0.1], np.float32).astype(float)
    for level in ("frame", "chunk", "contig"):
        row = find(found, level)
        assert row["items"] == 7
        assert row["auroc"] == pytest.approx(sk.roc_auc_score(truth, scores))
        assert row["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, scores > 0.5))
    assert found["unscored_chunks"] == {"viral": 5, "non-viral": 1}
    assert find(found, "chunk_all")["items"] == 13
    whole = sk.roc_auc_score([*truth, *[1] * 5, 0], [*scores, *[0] * 6])
    assert find(found, "chunk_all")["auroc"] == pytest.approx(whole)
    assert find(found, "chunk_all")["recall"] == pytest.approx(2 / 8)
    assert (find(found, "contig_all")["items"], find(found, "contig_all")["positives"]) == (9, 4)


def test_groups(result):
    found, _ = result
    phage = find(found, "contig", "category", "phage")
    assert phage == find(found, "contig") | {"group": "category", "name": "phage"}  # against all of the other class
    viral, other = find(found, "contig", "length", "500-999"), find(found, "contig", "length", "0-499")
    assert (viral["items"], viral["auroc"], viral["specificity"]) == (3, None, None)
    assert (other["positives"], other["specificity"]) == (0, 0.75)


def test_files(result):
    found, folder = result
    assert json.loads((folder / "evaluation.json").read_text()) == found
    with open(folder / "metrics.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(found["metrics"])
    assert float(rows[0]["auroc"]) == pytest.approx(found["metrics"][0]["auroc"], abs=1e-6)
    assert (folder / "evaluation.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (folder / "evaluation.svg").read_bytes()
    # Partial frames weren't scored: no chunk of either class has one.
    assert len((folder / "reliability.tsv").read_text().splitlines()) == 1 + (7 + 6) * 10
    assert {path.name for path in folder.iterdir()} == {
        *("metrics.tsv", "calls.tsv", "fdr.tsv", "categories.tsv", "confusion.tsv", "reliability.tsv", "contigs.tsv"),
        *("evaluation.json", "evaluation.md", "evaluation.png", "evaluation.svg"),
    }


def test_equal_results_give_equal_files(tmp_path):
    sample = tables(tmp_path, "v", [0.9, 0.2], records={"v0": Label(True), "v1": Label(False)})
    for name in "ab":
        evaluate([sample], tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_contrasts_are_measured_apart(tmp_path):
    samples = [
        tables(tmp_path, "p", [0.9, 0.8], label=Label(True, "phage")),
        tables(tmp_path, "b", [0.1, 0.2], label=Label(False, "bacteria")),
        tables(tmp_path, "h", [0.95, 0.99], label=Label(False, "human")),
    ]
    found = evaluate(samples, tmp_path / "out", contrasts={"prokaryotes": ["phage", "bacteria"], "none": ["x"]})
    assert find(found, "chunk", "contrast", "prokaryotes")["auroc"] == 1
    assert find(found, "chunk")["auroc"] == 0.5
    assert find(found, "chunk", "contrast", "none")["items"] == 0


def test_only_the_listed_records(tmp_path):
    samples = [
        tables(tmp_path, "v", [0.9, 0.1], label=Label(True)),
        tables(tmp_path, "n", [0.2, 0.95], label=Label(False)),
    ]
    found = evaluate(samples, tmp_path / "out", only={("v", "v0"), ("n", "n0")})
    assert [find(found, level)["items"] for level in ("frame", "chunk", "chunk_all", "contig")] == [2, 2, 4, 2]
    assert find(found, "frame")["auroc"] == 1
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(samples, tmp_path / "out", only=set())


@pytest.mark.parametrize("scores", [[0.9, 0.4], [None, None], [None]])
@pytest.mark.parametrize("viral", [True, False])
def test_one_class_or_no_score_gives_no_crash(tmp_path, scores, viral):
    found = evaluate([tables(tmp_path, "a", scores, label=Label(viral, "x"))], tmp_path / "out")
    assert all(row["auroc"] is None for row in found["metrics"])
    assert find(found, "contig_all")["items"] == len(scores)


def test_missing_label_and_missing_table(tmp_path):
    sample = tables(tmp_path, "a", [0.5], records={"other": Label(True)})
    with pytest.raises(InputError, match="record a0 of sample a has no label"):
        evaluate([sample], tmp_path / "out")
    with pytest.raises(StorageError, match="no such file"):
        evaluate([Labelled("a", tmp_path / "x", Label(True))], tmp_path / "out")


def test_a_split_that_is_none_is_named(tmp_path):
    (tmp_path / "labels.tsv").write_text("id\tlabel\nr1\t1\n")
    (tmp_path / "split.tsv").write_text("sample\trecord\ns\tr1\n")
    with pytest.raises(InputError, match=r"split\.tsv, line 1: has no column 'part'"):
        evaluate_from_table(tmp_path / "labels.tsv", {}, tmp_path / "out", split=tmp_path / "split.tsv")
