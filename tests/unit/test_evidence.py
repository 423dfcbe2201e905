"""Evidence: odds and calibrated logits, calls, prevalence and q-values, against simulations of known truth."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from virnucpro.classifier.evidence import (
    ODDS_LIMIT,
    PRESETS,
    Calibration,
    Preset,
    call,
    chunk_odds,
    estimate_prevalence,
    probability,
    q_values,
)
from virnucpro.errors import ModelError

numbers = st.floats(-1e6, 1e6)
logits = arrays(np.float64, st.integers(1, 60), elements=st.floats(-40, 40) | st.sampled_from([-1.0, 0.0, 2.5]))
presets = st.tuples(numbers, numbers).map(lambda pair: Preset(max(pair), min(pair), {"recall": 0.5, "precision": None}))
calibrations = st.builds(
    Calibration,
    frame=st.tuples(numbers, numbers),
    partial=st.none() | st.tuples(numbers, numbers, numbers),
    contig=st.tuples(numbers, numbers, st.floats(0, 50)),
    presets=st.fixed_dictionaries({name: presets for name in PRESETS}),
    curve=st.lists(st.fixed_dictionaries({"items": st.integers(0, 9), "mean_probability": st.none() | numbers})),
    fitted_on=st.dictionaries(st.text(), st.integers()),
)


def calibration(**other):
    made = {"frame": (0.6, 0.2), "partial": (0.9, -0.5, 0.3), "contig": (0.1, 1.5, 2.0), "curve": [], "fitted_on": {}}
    made["presets"] = {name: Preset(2.0, -1.0, {}) for name in PRESETS}
    return Calibration(**made | other)


def sample(size, prevalence, seed, apart=3.0):
    """Exact logits of contigs: normal, with variance ``apart`` and means ± ``apart`` / 2; and which are viral."""
    random = np.random.default_rng(seed)
    viral = np.arange(size) < round(size * prevalence)
    return random.normal(np.where(viral, apart, -apart) / 2, np.sqrt(apart)), viral


def test_odds():
    others, virus = np.array([0.5, 0.2, 1.0, 0.0], np.float32), np.array([0.5, 0.8, 0.0, 1.0], np.float32)
    odds = chunk_odds(others, virus)
    assert odds.dtype == np.float64
    np.testing.assert_allclose(odds, [0, np.log(4), -ODDS_LIMIT, ODDS_LIMIT], atol=1e-6)
    assert [chunk_odds(float(o), float(v)) for o, v in zip(others, virus, strict=True)] == odds.tolist()
    assert isinstance(chunk_odds(0.25, 0.75), float)
    assert len(chunk_odds(np.zeros(0), np.zeros(0))) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_odds_of_what_no_score_can_be(bad):
    for pair in ((bad, 0.5), (0.5, bad)):
        with pytest.raises(ValueError, match="negative, infinite or NaN"):
            chunk_odds(*pair)


def test_probability():
    assert probability(0.0, 0.2) == pytest.approx(0.2)
    assert probability(np.log(4), 0.2) == pytest.approx(0.5)
    assert [probability(5.0, 0.0), probability(-5.0, 1.0)] == [0, 1]
    assert [probability(2000.0, 0.5), probability(-2000.0, 0.5)] == [1, 0]
    assert probability(-40.0, 0.5) == pytest.approx(np.exp(-40))
    with pytest.raises(ValueError, match="within 0 to 1"):
        probability(0.0, 1.5)


def test_logits_are_the_documented_formulas():
    made = calibration()
    assert made.frame_logit(2.0) == pytest.approx(0.6 * 2 + 0.2)
    assert made.partial_logit(2.0, 0.5) == pytest.approx(0.9 * 2 - 0.5 + 0.3 * np.log(0.5))
    assert made.contig_logit(6.0, 4) == pytest.approx(0.1 + 1.5 * (6 / 4) * 4 / (4 + 2))
    z, share, n = np.array([2.0, -1.0]), np.array([0.5, 0.9]), np.array([4, 1])
    assert made.frame_logit(z).tolist() == [made.frame_logit(float(each)) for each in z]
    assert made.partial_logit(z, share)[1] == made.partial_logit(-1.0, 0.9)
    assert made.contig_logit(z, n).tolist() == [made.contig_logit(2.0, 4), made.contig_logit(-1.0, 1)]
    with pytest.raises(ValueError, match="without a scored chunk"):
        made.contig_logit(np.array([1.0, 0.0]), np.array([1, 0]))
    with pytest.raises(ModelError, match="partial_frames"):
        calibration(partial=None).partial_logit(1.0, 0.5)


def test_calls():
    preset = Preset(2.0, -1.0, {})
    assert [call(logit, preset) for logit in (2.0, 1.99, -1.0, -1.01)] == [
        "viral",
        "ambiguous",
        "ambiguous",
        "non-viral",
    ]
    assert [call(logit, Preset(0.0, 0.0, {})) for logit in (0.0, -0.01)] == ["viral", "non-viral"]
    with pytest.raises(ValueError, match="NaN"):
        call(float("nan"), preset)


@settings(max_examples=25)
@given(calibrations)
def test_a_calibration_comes_back_from_json(made):
    assert Calibration.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def without(name, place=None):
    plain = calibration().to_dict()
    del (plain["presets"]["strict"] if place else plain)[name]
    return plain


def changed(value, *path):
    plain = calibration().to_dict()
    inside = plain
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return plain


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        *(
            (without(name), f"has no {name}")
            for name in ("frame", "partial", "contig", "presets", "curve", "fitted_on")
        ),
        (without("viral", "strict"), "preset strict has no viral"),
        (changed(float("nan"), "frame", 0), "nan in frame"),
        (changed(float("inf"), "contig", 1), "inf in contig"),
        (changed(None, "partial", 1), "None in partial"),
        (changed(True, "presets", "balanced", "viral"), "preset balanced has True in viral"),
        (changed([1.0], "frame"), r"\[1.0\] as frame, which isn't 2 numbers"),
        (changed(-1.0, "contig", 2), "negative k"),
        (changed(3.0, "presets", "strict", "non_viral"), "non_viral, 3.0, above viral, 2.0"),
        (changed({"strict": 1}, "presets"), "1 as strict"),
        (changed({}, "presets"), "has no strict"),
        (changed([1], "curve"), "no list of bins"),
        ([], "has no presets"),
    ],
)
def test_a_damaged_calibration_is_named(plain, says):
    with pytest.raises(ModelError, match=rf"mine\.safetensors: its calibration.*{says}.*classifier calibrate"):
        Calibration.from_dict(plain, "mine.safetensors")


@pytest.mark.parametrize("prevalence", [0.02, 0.1, 0.5, 0.97])
def test_prevalence_is_recovered(prevalence):
    inside, values = 0, []
    for seed in range(100):
        found = estimate_prevalence(sample(400, prevalence, seed)[0], 0.2)
        assert found.enough
        inside += found.low <= prevalence <= found.high
        values.append(found.value)
    assert inside >= 93  # the samples' own shares don't vary, so more than 95 % are expected
    assert np.mean(values) == pytest.approx(prevalence, abs=0.01)


@given(logits, st.floats(0.01, 0.99))
def test_prevalence_lies_in_its_interval_and_is_where_em_stays(values, prior):
    found = estimate_prevalence(values, prior)
    assert 0 <= found.low <= found.value <= found.high <= 1
    if 0 < found.value < 1:
        assert np.mean(probability(values, found.value)) == pytest.approx(found.value, abs=1e-6)


def test_prevalence_at_its_bounds():
    none, all_viral = (estimate_prevalence(sample(500, share, 1)[0], 0.2) for share in (0, 1))
    assert (none.value, none.low) == (0, 0) and 0 < none.high < 0.05 and none.enough
    assert (all_viral.value, all_viral.high) == (1, 1) and 0.95 < all_viral.low < 1 and all_viral.enough
    sure = estimate_prevalence(np.full(100, 900.0), 0.2)
    assert (sure.value, sure.high) == (1, 1) and sure.low > 0.9


def test_prevalence_that_cannot_be_told():
    nothing = estimate_prevalence(np.zeros(0), 0.2)
    assert (nothing.value, nothing.low, nothing.high, nothing.contigs) == (0.2, 0, 1, 0)
    one = estimate_prevalence(np.array([3.0]), 0.2)
    assert one.value == 1 and one.low < 0.3 and not one.enough and one.reason == "fewer than 30 contigs"
    assert not estimate_prevalence(np.full(29, -9.0), 0.2).enough
    assert estimate_prevalence(np.full(30, -9.0), 0.2).enough
    weak = estimate_prevalence(sample(40, 0.5, 0, apart=0.2)[0], 0.2)
    assert not weak.enough and weak.reason == "an interval wider than 0.3"
    flat = estimate_prevalence(np.zeros(100), 0.4)
    assert flat.value == 0.4 and not flat.enough


def test_a_million_contigs_take_under_two_seconds():
    values, _ = sample(10**6, 0.1, 0)
    began = time.process_time()
    found = estimate_prevalence(values, 0.2)
    assert time.process_time() - began < 2
    assert found.low < 0.1 < found.high < found.low + 0.01


@given(logits, st.floats(0, 1))
def test_q_values_fall_as_logits_rise(values, prevalence):
    q = q_values(values, prevalence)
    assert ((q >= 0) & (q <= 1)).all()
    order = np.argsort(values)
    rises, steps = np.diff(values[order]), np.diff(q[order])
    assert (steps <= 0).all() and (steps[rises == 0] == 0).all()
    shuffled = np.random.default_rng(0).permutation(len(values))
    np.testing.assert_allclose(q_values(values[shuffled], prevalence), q[shuffled], rtol=1e-12)


def test_q_values_are_means_of_local_false_probabilities():
    values = np.array([1.0, 3.0, 1.0, -2.0])
    false = [1 - probability(value, 0.3) for value in (3.0, 1.0, -2.0)]
    second = (false[0] + 2 * false[1]) / 3
    expected = [second, false[0], second, (false[0] + 2 * false[1] + false[2]) / 4]
    np.testing.assert_allclose(q_values(values, 0.3), expected)
    assert q_values(np.array([0.0]), 0.3).tolist() == [pytest.approx(0.7)]
    assert q_values(values, 0.0).tolist() == [1] * 4 and q_values(values, 1.0).tolist() == [0] * 4
    assert q_values(np.zeros(0), 0.5).shape == (0,)


def test_q_values_are_the_false_share():
    values, viral = sample(20_000, 0.1, 3)
    q = q_values(values, estimate_prevalence(values, 0.5).value)
    for level in (0.1, 0.3):
        assert np.mean(~viral[q <= level]) == pytest.approx(level, abs=0.035)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    for function in (lambda x: estimate_prevalence(x, 0.2), lambda x: q_values(x, 0.2), lambda x: probability(x, 0.2)):
        with pytest.raises(ValueError, match="infinite or NaN"):
            function(np.array([0.0, bad]))


def test_wrong_priors_and_shapes_are_refused():
    for prior in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            estimate_prevalence(np.zeros(3), prior)
    with pytest.raises(ValueError, match="shape"):
        q_values(np.zeros((2, 2)), 0.2)


def test_predictions_import_nothing_heavy_for_it():
    code = "import sys, virnucpro.classifier.evidence; sys.exit(' '.join({'scipy', 'sklearn', 'torch'} & sys.modules.keys()) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
