"""Evaluation: metrics against scikit-learn, groups, and what has no score."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from tests.unit.tables import contig_table, tables_of
from virnucpro.classifier.evaluation import evaluate, evaluate_from_table
from virnucpro.classifier.labels import Label, Labelled
from virnucpro.classifier.metrics import METRICS, binary_metrics, calibration_error, reliability
from virnucpro.classifier.ranking import Ranking
from virnucpro.classifier.weighted import calibration_error as weighted_error
from virnucpro.classifier.weighted import group_weights, thresholds
from virnucpro.errors import InputError, StorageError
from virnucpro.result_tables import CHUNK_COLUMNS, PREDICTION_COLUMNS


def tables(folder, name, virus, chunks=2, length=900, **about):
    """Tables of one sample: record i has frame F1 on its first chunk with score ``virus[i]``, or none if None."""
    folder = folder / name
    frames = [(f"{name}{i}_chunk_1F1", score) for i, score in enumerate(virus) if score is not None]
    tables_of(folder, [(f"{name}{i}", length) for i in range(len(virus))], frames, ending=".tsv")
    return Labelled(name, folder, **about)


def recall_at(viral, scores, weights, share):
    """By the threshold of a preset, which is found another way."""
    high, _ = thresholds(viral, scores, weights, share, share)
    return weights[viral & (scores >= high)].sum() / weights[viral].sum()


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
    phage = find(found, "contig_all", "category", "phage")
    assert phage == find(found, "contig_all") | {"group": "category", "name": "phage"}  # against all of the other class
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
        *(
            "region_metrics.tsv",
            "implants.tsv",
            "controls.tsv",
            "evaluation.json",
            "evaluation.md",
            "evaluation.png",
            "evaluation.svg",
        ),
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


def logits_of(values):
    """Cells of logits, and of their probabilities under a prior of 0.2."""
    return {"logit": values, "probability": round(1 / (1 + math.exp(-values - math.log(0.25))), 6)}


def calibrated(folder, name, contigs, **about):
    """Tables of a calibrated classifier: a contig per (record, length, call, logit or None), with one partial chunk."""
    folder = folder / name
    folder.mkdir(parents=True)
    rows, chunks = [], [CHUNK_COLUMNS]
    for record, length, call, logit in contigs:
        said = {"call": call, **({"mean_score": 0.5} | logits_of(logit) if logit is not None else {})}
        rows.append({"record": record, "length": length, "chunks": 1, **said})
        chunk = dict.fromkeys(CHUNK_COLUMNS, "") | {"record": record, "start": 1, "call": "unscored"}
        if logit is not None:
            chunk |= {"call": "viral" if logit >= 0 else "non-viral", "kind": "partial", "score": 0.5} | logits_of(
                logit
            )
        chunks.append([str(cell) for cell in chunk.values()])
    (folder / "contigs.tsv").write_text(contig_table(rows))
    (folder / "chunks.tsv").write_text("".join("\t".join(row) + "\n" for row in chunks))
    (folder / "predictions.tsv").write_text("\t".join(PREDICTION_COLUMNS) + "\n")
    return Labelled(name, folder, **about)


def kinds(folder, seed=0, count=40):
    """Two viral kinds and two others with logits that are right, 8 groups of phages and bacteria, most contigs in the last, one of plasmids; 4 unscored ones."""
    random = np.random.default_rng(seed)
    records, contigs = {}, []
    for category, viral in (("phage", True), ("giant", True), ("bacteria", False), ("plasmid", False)):
        for i in range(count):
            record = f"{category}{i}"
            group = None if category == "giant" else "p" if category == "plasmid" else f"{category}_{min(i, 7)}"
            records[record] = Label(viral, category, group)
            logit = round(float(random.normal(2 if viral else -2, 2)), 4)  # of equal variance: its log ratio is itself
            call = "viral" if logit > 2 else "ambiguous" if logit > -1 else "non-viral"
            contigs.append((record, 2000 + 100 * i, "unscored" if i == 0 else call, None if i == 0 else logit))
    return calibrated(folder, "s", contigs, records=records), contigs, records


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    sample, contigs, records = kinds(folder)
    found = evaluate([sample], folder / "out", contrasts={"prokaryotic": ["phage", "bacteria", "plasmid"]})
    return found, folder / "out", contigs, records


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_classes_categories_and_groups_weigh_the_same(answers):
    found, _, contigs, records = answers
    viral = np.array([records[record].viral for record, *_ in contigs])
    group = np.array([records[record].group or record for record, *_ in contigs])
    category = np.array([records[record].category for record, *_ in contigs])
    logits = np.array([-1000.0 if logit is None else logit for *_, logit in contigs])
    weights = group_weights(viral, group, category)
    row = find(found, "contig_all")
    assert row["weighted_auroc"] == pytest.approx(sk.roc_auc_score(viral, logits, sample_weight=weights))
    assert row["weighted_recall_at_1"] == pytest.approx(recall_at(viral, logits, weights, 0.01))
    assert row["weighted_calibration_error"] == pytest.approx(weighted_error(viral, logits, weights))
    assert row["weighted_auroc"] != pytest.approx(row["auroc"], abs=1e-4)
    assert row["weighted_auroc_low"] < row["weighted_auroc"] < row["weighted_auroc_high"]
    assert (row["viral_groups"], row["non_viral_groups"], row["few_groups"]) == (48, 9, False)
    assert find(found, "chunk_all")["items"] == 160 and find(found, "chunk_partial")["items"] == 156
    assert find(found, "chunk")["items"] == 0 and find(found, "chunk_scored")["items"] == 156
    assert found["unscored_chunks"] == {"viral": 2, "non-viral": 2}


def test_calls(answers):
    found, folder, contigs, records = answers
    (row,) = [row for row in found["contig_calls"] if (row["group"], row["weights"]) == ("all", "items")]
    of = {viral: [call for record, _, call, _ in contigs if records[record].viral == viral] for viral in (True, False)}
    assert row["recall"] == of[True].count("viral") / 80
    assert row["false_positive_rate"] == of[False].count("viral") / 80
    assert row["ambiguous_viral"] == of[True].count("ambiguous") / 80
    assert row["ambiguous_non_viral"] == of[False].count("ambiguous") / 80
    assert row["unscored_viral"] == row["unscored_non_viral"] == 2 / 80
    right = 0.05 * row["recall"]
    assert row["precision_5"] == pytest.approx(right / (right + 0.95 * row["false_positive_rate"]))
    first = rows_of(folder / "calls.tsv")[0]
    assert (first["group"], first["weights"], first["viral_groups"]) == ("all", "groups", "48")
    long = [row for row in found["contig_calls"] if row["name"] == "prokaryotic, 3000+"]
    assert [(row["viral_contigs"], row["non_viral_contigs"]) for row in long] == [(30, 60)] * 2


def test_categories(answers):
    found, folder, contigs, _ = answers
    rows = {row["category"]: row for row in found["by_category"]}
    assert list(rows) == ["phage", "giant", "bacteria", "plasmid"]
    assert [(row["groups"], row["few_groups"]) for row in rows.values()] == [
        (8, False),
        (40, False),
        (8, False),
        (1, True),
    ]
    plasmids = [call for record, _, call, _ in contigs if record.startswith("plasmid")]
    assert rows["plasmid"]["called_ambiguous"] == pytest.approx(plasmids.count("ambiguous") / 40)
    assert rows["plasmid"]["unscored"] == pytest.approx(1 / 40)
    assert find(found, "contig", "category", "plasmid")["few_groups"]
    one = find(found, "contig_all", "category", "plasmid")  # one group can't be drawn otherwise
    assert one["weighted_auroc"] and one["weighted_auroc_low"] is None
    assert "| plasmid * " in (folder / "evaluation.md").read_text()
    assert [row["few_groups"] for row in rows_of(folder / "categories.tsv")] == ["False", "False", "False", "True"]


def test_simulated_samples(answers):
    found, folder, _, _ = answers
    whole = [row for row in found["false_discovery"] if row["group"] == "all"]
    assert [row["viral_share"] for row in whole] == [0.05, 0.2]
    assert all(0 <= row["false_share_low"] <= row["false_share"] <= row["false_share_high"] <= 1 for row in whole)
    assert 0.1 < whole[1]["estimated"] < 0.3 and whole[1]["called"] > 10 and whole[1]["false_share"] < 0.3
    assert len(rows_of(folder / "fdr.tsv")) == 6  # and two contrasts


def test_contigs_of_an_evaluation(answers):
    _, folder, contigs, records = answers
    rows = rows_of(folder / "contigs.tsv")
    assert [row["record"] for row in rows] == [record for record, *_ in contigs]
    assert [row["group"] for row in rows] == [records[record].group or "" for record, *_ in contigs]
    assert rows[0]["logit"] == "" and float(rows[1]["logit"]) == contigs[1][3]
    assert rows[0] | {"group": ""} == {
        **{"sample": "s", "record": "phage0", "group": "", "category": "phage", "viral": "1", "length": "2000"},
        **{"score": "", "probability": "", "logit": "", "call": "unscored", "named": ""},
    }


def test_confusion_where_the_classifier_names_categories(tmp_path, answers):
    sample, _, _ = kinds(tmp_path, count=3)
    path = sample.folder / "contigs.tsv"
    header, *lines = (line.split("\t") for line in path.read_text().splitlines())
    place = header.index("category")
    for line, named in zip(lines, ["", "phage", "phage", "giant", "giant", "phage", *["bacterium"] * 6], strict=True):
        line[place] = named
    path.write_text("".join("\t".join(line) + "\n" for line in (header, *lines)))
    found = evaluate([sample], tmp_path / "out")
    assert [(row["category"], row["named"], row["contigs"]) for row in found["confusion"]] == [
        *(("phage", "", 1), ("phage", "phage", 2), ("giant", "giant", 2), ("giant", "phage", 1)),
        *(("bacteria", "bacterium", 3), ("plasmid", "bacterium", 3)),
    ]
    assert [row["share"] for row in rows_of(tmp_path / "out" / "confusion.tsv")][:2] == ["0.333333", "0.666667"]
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert page.splitlines()[-4:] == [
        "| phage    |    1 |         0 |     0 |     2 |",
        "| giant    |    0 |         0 |     2 |     1 |",
        "| bacteria |    0 |         3 |     0 |     0 |",
        "| plasmid  |    0 |         3 |     0 |     0 |",
    ]
    assert answers[0]["confusion"] == []


def test_without_calibration_scores_are_used_and_it_says_so(result):
    found, folder = result
    assert not found["calibrated"] and found["false_discovery"] == []
    assert "isn't calibrated" in (folder / "evaluation.md").read_text()
    row = find(found, "contig")
    assert row["weighted_auroc"] == pytest.approx(row["auroc"])  # one category, each record a group
    assert (folder / "fdr.tsv").read_text().count("\n") == 1


@pytest.mark.parametrize("call", ["ambiguous", "non-viral"])
@pytest.mark.parametrize("count", [1, 40])
def test_nothing_called(tmp_path, call, count):
    records = {f"r{i}": Label(i % 2 == 0) for i in range(count)}
    sample = calibrated(tmp_path, "s", [(record, 1000, call, 0.5) for record in records], records=records)
    found = evaluate([sample], tmp_path / "out")
    row = found["contig_calls"][0]
    assert row["recall"] == 0 and row["precision_5"] is None
    assert row["ambiguous_viral"] == (call == "ambiguous")
    assert find(found, "contig")["weighted_auroc"] == (0.5 if count > 1 else None)


def test_samples_of_different_classifiers_are_refused(tmp_path):
    one = calibrated(tmp_path, "a", [("r", 1000, "viral", 3.0)], label=Label(True))
    with pytest.raises(InputError, match=r"a has probabilities, .*/b has none.*Predict both with one"):
        evaluate([one, tables(tmp_path, "b", [0.5], label=Label(False))], tmp_path / "out")


def test_groups_are_read_from_headers(tmp_path):
    (tmp_path / "x.fa").write_text("".join(f">x{i} group=g{i % 2}\nACGT\n" for i in range(4)))
    (tmp_path / "y.fa").write_text(">y0\nACGT\n>y1\nACGT\n")
    (tmp_path / "labels.tsv").write_text("fasta\tlabel\tgroup\nx.fa\t1\t@header\ny.fa\t0\tone\n")
    tables(tmp_path, "x", [0.9, 0.8, 0.7, 0.6]), tables(tmp_path, "y", [0.1, 0.2])
    folders = {name: tmp_path / name for name in "xy"}
    found = evaluate_from_table(tmp_path / "labels.tsv", folders, tmp_path / "out")
    row = find(found, "contig")
    assert (row["viral_groups"], row["non_viral_groups"], row["few_groups"]) == (2, 1, True)
    assert [row["group"] for row in rows_of(tmp_path / "out" / "contigs.tsv")] == ["g0", "g1", "g0", "g1", "one", "one"]
