"""Calibrating: simulations of known truth give their parameters back; thresholds, figures, and data that won't do."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from virnucpro.classifier.calibrating import GRID, Development, fit_calibration, hold_out, measure
from virnucpro.classifier.evidence import MISSED, PRESETS, Calibration
from virnucpro.classifier.ranking import Ranking
from virnucpro.classifier.weighted import (
    auroc,
    calibration_error,
    group_weights,
    intervals,
    realised_fdr,
    reliability,
    thresholds,
)
from virnucpro.errors import InputError

FRAME, PARTIAL = (0.6, -0.4), (0.9, -0.5, 0.8)


def development(contigs=2000, groups=400, between=0.0, within=2.0, chunks=1, partial=0.4, seed=0):
    """Contigs of two classes in turn. Of true chunk logits, mean ± 1, ``between`` and ``within`` are the variances.

    They are exact log odds of single chunks if both add up to 2; raw odds are as ``FRAME`` and ``PARTIAL`` have it.
    """
    random = np.random.default_rng(seed)
    viral = np.arange(contigs) % 2 == 0
    many = np.exp(random.uniform(0, np.log(chunks + 1), contigs)).astype(int)
    contig = np.repeat(np.arange(contigs), many)
    middle = np.where(viral, 1.0, -1.0) + random.normal(0, np.sqrt(between), contigs)
    logit = middle[contig] + random.normal(0, np.sqrt(within), len(contig))
    is_partial = random.random(len(contig)) < partial
    share = random.uniform(0.2, 1, len(contig))
    of_stretch = (logit - PARTIAL[1] - PARTIAL[2] * np.log(share)) / PARTIAL[0]
    return Development(
        z=np.where(is_partial, of_stretch, (logit - FRAME[1]) / FRAME[0]),
        partial=is_partial,
        share=share,
        contig=contig,
        start=500 * (np.arange(len(contig)) - np.searchsorted(contig, contig)),
        viral=viral,
        group=np.array([f"g{number % groups}" for number in range(contigs)]),
        category=np.where(viral, "phage", np.where(np.arange(contigs) % 4 == 1, "plant", "bacteria")),
        length=many * 500,
    )


def contig_logits(made, data):
    logits = made.frame_logit(data.z)
    if made.partial is not None:
        logits = np.where(data.partial, made.partial_logit(data.z, data.share), logits)
    return made.contig_logit(np.bincount(data.contig, logits), data.chunks)


def test_slopes_and_offsets_are_recovered():
    made = fit_calibration(development(8000, 1600))
    np.testing.assert_allclose(made.frame, FRAME, atol=0.05)
    assert (np.abs(np.subtract(made.partial, PARTIAL)) < (0.08, 0.2, 0.3)).all()  # three standard errors
    np.testing.assert_allclose(made.contig[:2], (0, 1 + made.contig[2]), atol=0.05)


def test_dependence_of_a_contig_is_recovered():
    """Of n chunks, the mean's variance is between + within / n, so the contig's logit is (1 + k) · mean · n / (n + k)."""
    between, within = 0.8, 1.2
    k = within / between
    made = fit_calibration(development(3000, 1500, between, within, chunks=30))
    assert k / 1.8 < made.contig[2] < k * 1.8
    data = development(3000, 1500, between, within, chunks=30, seed=1)
    assert calibration_error(data.viral, contig_logits(made, data), np.ones(3000)) < 0.03


def test_the_bounds_of_k():
    assert fit_calibration(development(600, 600, 0.0, 8.0, chunks=20)).contig[2] > 20  # chunks that are independent
    assert fit_calibration(development(600, 600, 2.0, 0.0, chunks=20)).contig[2] < 0.6  # that all say the same
    assert fit_calibration(development(600, 600)).contig[2] == GRID[0]  # one a contig: nothing to be seen


def test_many_contigs_of_one_group_weigh_as_one():
    data = development(400, 100, partial=0)
    alone = fit_calibration(data)
    mislabelled = np.flatnonzero(~data.viral)[:1].repeat(2000)  # one group: non-viral, with the scores of a virus
    more = {name: np.concatenate([value, value[mislabelled]]) for name, value in vars(data).items()}
    more["contig"] = np.arange(len(more["z"]))
    more["z"][400:] = 5.0
    more["group"] = np.concatenate([data.group, np.full(2000, 100)])
    crowded = fit_calibration(Development(**more))
    np.testing.assert_allclose(crowded.frame, alone.frame, atol=0.1)
    assert crowded.fitted_on["contigs"]["non-viral"] == 2200


def test_a_calibration_says_what_it_was_fitted_on_and_goes_through_json():
    known = vars(development(400, 100))
    longer = {
        name: np.concatenate([known[name], known[name][:10]]) for name in ("viral", "group", "category", "length")
    }
    data = Development(**known | longer)  # the last ten contigs have no chunk
    made = fit_calibration(data, {"name": "mine"})
    assert made == fit_calibration(data, {"name": "mine"})
    assert Calibration.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    about = made.fitted_on
    assert about["name"] == "mine" and about["unscored_contigs"] == 10
    assert about["contigs"] == {"viral": 200, "non-viral": 200}
    assert about["groups"] == {"viral": 50, "non-viral": 50}
    assert about["categories"] == {"bacteria": 100, "phage": 200, "plant": 100}
    assert sum(about["chunks"].values()) == len(data.z)
    assert sum(row["items"] for row in made.curve) == 400
    assert all(abs(row["mean_probability"] - row["viral_share"]) < 0.25 for row in made.curve if row["items"] > 20)


def test_presets_keep_their_promise_and_are_measured_honestly():
    data = development(2000, 200, 0.5, 1.5, chunks=8)
    made = fit_calibration(data)
    assert list(made.presets) == ["strict", "balanced", "sensitive"]
    weights, contigs = data.weights, contig_logits(made, data)
    for name, share in PRESETS.items():
        preset = made.presets[name]
        false = weights[~data.viral & (contigs >= preset.viral)].sum()
        assert preset.measured["false_positive_rate"] == pytest.approx(false)
        assert share - 0.006 < false <= share + 1e-9
        assert weights[data.viral & (contigs < preset.non_viral)].sum() <= share + 1e-9
        assert preset.non_viral <= preset.viral
        held_out = preset.measured["held_out"]
        assert held_out["false_positive_rate"] == pytest.approx(share, abs=0.01)
        assert held_out["recall"] == pytest.approx(preset.measured["recall"], abs=0.05)
    recalls = [preset.measured["recall"] for preset in made.presets.values()]
    assert recalls == sorted(recalls)


def test_measured_figures():
    viral = np.array([True, True, True, False, False, False, False])
    logits = np.array([3.0, 0.5, -2.0, 3.0, 0.0, -2.0, -2.0])
    group = np.array(["a", "a", "b", "c", "d", "d", "d"])  # weights: 1/4 1/4 1/2, 1/2 1/6 1/6 1/6
    weights = group_weights(viral, group)
    found = measure(viral, logits, group, weights, 1.0, -1.0)
    assert found["recall"] == pytest.approx(0.25) and found["false_positive_rate"] == pytest.approx(0.5)
    assert found["ambiguous"] == {"viral": 0.25, "non-viral": pytest.approx(1 / 6)}
    assert found["precision"]["0.2"] == pytest.approx(0.2 * 0.25 / (0.2 * 0.25 + 0.8 * 0.5))
    assert found["contigs"] == {"viral": 3, "non-viral": 4} and found["groups"] == {"viral": 2, "non-viral": 2}
    assert measure(viral, logits, group, weights, 9.0, -1.0)["precision"] == {"0.01": None, "0.05": None, "0.2": None}


scores = st.lists(st.tuples(st.booleans(), st.integers(-5, 5) | st.floats(-5, 5)), min_size=2, max_size=40).filter(
    lambda rows: len({viral for viral, _ in rows}) == 2
)


@settings(max_examples=50)
@given(scores, st.sampled_from([0.01, 0.1, 0.3]))
@example([(False, -5.0), (True, -4.999999999999999)], 0.01)  # neighbouring floats
@example([(False, 4.999999999999999), (True, 5.0)], 0.01)
def test_thresholds_find_most_with_at_most_the_share_wrong(rows, share):
    viral, logits = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    weights = group_weights(viral, np.arange(len(rows)))
    high, low = thresholds(viral, logits, weights, share, share)
    assert low <= high
    called, denied = logits >= high, logits < low
    assert weights[~viral & called].sum() <= share + 1e-9
    assert weights[viral & denied].sum() <= share + 1e-9
    if (missed := logits[viral & ~called]).size:  # calling one more would cost too much
        assert weights[~viral & (logits >= missed.max())].sum() > share
    if low < high and (missed := logits[~viral & ~denied]).size:
        assert weights[viral & (logits <= missed.min())].sum() > share
    if called.any():
        assert (viral & (logits == logits[called].min())).any()  # and no wrong call is made for nothing


def test_each_class_has_a_share_of_its_own():
    viral, logits = np.repeat([True, False], 100), np.concatenate([np.arange(100.0), np.arange(100.0) - 50])
    high, low = thresholds(viral, logits, np.ones(200), 0.05, 0.02)
    assert (logits[~viral] >= high).sum() == 5 and (logits[viral] < low).sum() == 2
    assert thresholds(viral, logits, np.ones(200), 0.4, 0.02)[1] == low  # the other share doesn't move it


def test_no_preset_denies_more_than_one_viral_contig_in_a_hundred():
    data = development(1000, 200)
    for preset in fit_calibration(data).presets.values():
        ambiguous, recall = preset.measured["ambiguous"]["viral"], preset.measured["recall"]
        assert recall + ambiguous >= 1 - MISSED - 1e-9


def test_thresholds_of_classes_that_separate_leave_nothing_between():
    viral = np.array([True, True, False, False])
    assert thresholds(viral, np.array([2.0, 3.0, -1.0, -2.0]), np.full(4, 0.5), 0.01, 0.01) == (0.5, 0.5)
    assert thresholds(viral, np.zeros(4), np.full(4, 0.5), 0.01, 0.01)[0] > 0


def test_classes_that_separate_have_finite_logits_and_no_wrong_call():
    data = development(200, 40, within=1e-6, partial=0)
    made = fit_calibration(data)
    assert 2 < contig_logits(made, data)[data.viral].min() < 20
    for preset in made.presets.values():
        for measured in (preset.measured, preset.measured["held_out"]):
            assert measured["recall"] == pytest.approx(1) and measured["precision"]["0.01"] == 1
            assert measured["ambiguous"] == {"viral": 0, "non-viral": 0}


def test_without_partial_chunks_there_is_no_calibration_of_them():
    made = fit_calibration(development(200, 40, partial=0))
    assert made.partial is None and Calibration.from_dict(made.to_dict()) == made


def test_groups_are_held_out_whole():
    data = development(600, 60, 0.5, 1.5, chunks=5)
    data.viral[data.group == 0] = np.arange((data.group == 0).sum()) % 2 == 0  # a group of both classes
    data.category[(data.group == 0) & ~data.viral] = "bacteria"
    held_out = hold_out(data)
    assert np.isfinite(held_out.chunk).all() and np.isfinite(held_out.contig).all()
    for name in np.unique(data.group):
        assert len(set(held_out.fold[data.group == name])) == 1
    for category in ("phage", "plant", "bacteria"):
        assert len(set(held_out.fold[data.category == category])) == 5
    assert calibration_error(data.viral, held_out.contig, data.weights) < 0.1


def test_a_group_has_no_part_in_its_own_held_out_logits():
    data = development(200, 40, partial=0)
    before = hold_out(data)
    apart = before.fold == 0  # one chunk a contig, so that rows are the same
    lines = [np.polyfit(data.z[apart], logits[apart], 1) for logits in (before.chunk, before.contig)]
    data.z[apart] = -data.z[apart]
    after = hold_out(data)
    for line, logits in zip(lines, (after.chunk, after.contig), strict=True):
        np.testing.assert_allclose(logits[apart], np.polyval(line, data.z[apart]), atol=1e-6)


def refused(**other):
    made = {name: value.copy() for name, value in vars(development(40, 20)).items()}
    return lambda: fit_calibration(Development(**made | other))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (refused(viral=np.ones(40, bool)), "at least 5 non-viral groups .*; there are 0"),
        (refused(viral=np.zeros(40, bool)), "at least 5 viral groups .*; there are 0"),
        (refused(group=np.array([f"g{number % 8}" for number in range(40)])), "at least 5 viral groups .*there are 4"),
        (refused(partial=np.arange(40) < 6), "chunks without a stop-free frame of at least 5 viral groups"),
        (refused(partial=np.ones(40, bool)), "chunks with a stop-free frame of at least 5 viral groups"),
        (refused(z=np.full(40, np.nan)), "isn't a number"),
        (refused(z=np.full(40, np.inf)), "isn't a number"),
        (refused(share=np.full(40, 1.5)), "longer than itself"),
        (refused(share=np.full(40, np.nan)), "longer than itself"),
        (refused(z=np.where(np.arange(40) % 2 == 0, -1.0, 1.0)), "aren't higher for viral"),
        (refused(z=np.zeros(40)), "aren't higher for viral"),
        (
            refused(
                **dict.fromkeys(("z", "share"), np.zeros(0)),
                **dict.fromkeys(("contig", "start"), np.zeros(0, int)),
                partial=np.zeros(0, bool),
            ),
            "there are 0",
        ),
    ],
)
def test_data_that_cannot_calibrate_are_refused_with_a_reason(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_misuse():
    for wrong in (
        {"z": np.zeros(3)},
        {"contig": np.full(40, 40)},
        {"viral": np.ones(40)},
        {"length": np.ones((40, 1))},
    ):
        with pytest.raises(ValueError, match=r"shapes|among the contigs|must be bool"):
            refused(**wrong)()


def test_weights():
    weights = group_weights(np.array([True, True, True, False]), np.array(["a", "a", "b", "a"]))
    assert weights.tolist() == [0.25, 0.25, 0.5, 1]
    viral, group = np.ones(5, bool), np.array(["a", "a", "b", "c", "d"])
    by_category = group_weights(viral, group, np.array(["phage", "phage", "phage", "plant", "plant"]))
    assert by_category.tolist() == [0.125, 0.125, 0.25, 0.25, 0.25]


def test_auroc_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    viral, values, weights = random.random(300) < 0.3, random.integers(0, 20, 300) * 1.0, random.random(300)
    values[viral] += 3
    assert auroc(viral, values, weights) == pytest.approx(roc_auc_score(viral, values, sample_weight=weights))
    with pytest.raises(ValueError, match="infinite or NaN"):
        auroc(viral, np.full(300, np.nan), weights)


def test_recall_at_a_false_positive_rate():
    viral = np.repeat([True, False], 100)
    values = np.concatenate([np.arange(100), np.arange(100) - 50.0])  # 50 of the viral are above all others
    ranking = Ranking(viral, values)
    assert ranking.recall_at(np.ones(200), 0) == pytest.approx(0.5)
    assert ranking.recall_at(np.ones(200), 0.1) == pytest.approx(0.6)


def test_calibration_error():
    viral, values = np.array([True, False, True, False]), np.array([9.0, -9, -9, 9])
    assert calibration_error(viral, np.zeros(4), np.ones(4)) == pytest.approx(0)
    assert calibration_error(viral, values, np.ones(4)) == pytest.approx(0.5, abs=1e-3)
    assert calibration_error(viral, values, np.array([1.0, 1, 0, 0])) < 0.001
    assert [row["items"] for row in reliability(viral, np.array([900.0, -900, 0, 0]), np.ones(4))][::9] == [1, 1]


def test_the_interval_over_groups_is_wider_than_over_contigs():
    random = np.random.default_rng(0)
    group = np.arange(600) % 30
    viral = group % 2 == 0
    values = np.where(viral, 0.7, -0.7) + random.normal(0, 1.5, 30)[group] + random.normal(0, 0.3, 600)
    by_group, by_contig = (
        intervals(lambda weights: [auroc(viral, values, weights)], viral, unit, draws=200)[0]
        for unit in (group, np.arange(600))
    )
    assert by_group.low < by_group.value < by_group.high
    assert by_group.high - by_group.low > 2 * (by_contig.high - by_contig.low)
    same = intervals(
        lambda weights: [auroc(viral, values, weights) - auroc(viral, values * 2, weights)], viral, group, draws=20
    )
    assert same == [(0, 0, 0)]


def test_realised_fdr_of_exact_logits_is_what_was_asked_for():
    random = np.random.default_rng(0)
    viral = np.arange(20_000) % 2 == 0
    logits = random.normal(np.where(viral, 4.0, -4.0), np.sqrt(8.0))
    found = realised_fdr(viral, logits, np.ones(20_000), 0.2, 1000, draws=50)
    assert found.false_share.value == pytest.approx(0.1, abs=0.02)
    assert found.false_share.low < 0.1 < found.false_share.high
    assert found.prevalence.value == pytest.approx(0.2, abs=0.01)
    assert found.told == 1 and 0.7 < found.recall < 0.9
    assert found.called == pytest.approx(200 * found.recall / 0.9, rel=0.05)
    few = realised_fdr(viral, logits, np.ones(20_000), 0.2, 20, draws=5)
    assert few.told == few.called == few.false_share.value == 0
    assert realised_fdr(viral, logits, np.ones(20_000), 0.0, 100, draws=5).recall == 0
