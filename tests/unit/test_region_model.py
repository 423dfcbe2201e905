"""Posteriors of chunks, compared with the sum over all paths of states."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.classifier.region_model import DEFAULT, RegionModel
from virnucpro.errors import ModelError

chunk = st.tuples(st.integers(1, 900), st.none() | st.floats(-20, 20), st.booleans())
model = st.builds(
    RegionModel, st.floats(0.01, 0.99), *[st.floats(0.001, 2)] * 2, *[st.floats(0, 1)] * 2, st.floats(0.5, 6)
)


def by_enumeration(model, starts, logits, partial):
    total, viral = 0.0, [0.0] * len(starts)
    for path in itertools.product((0, 1), repeat=len(starts)):
        likelihood = model.viral if path[0] else 1 - model.viral
        for i, state in enumerate(path):
            if i:
                rate = model.leave if path[i - 1] else model.enter
                stay = math.exp(-rate * (starts[i] - starts[i - 1]) / 1000)
                likelihood *= stay if state == path[i - 1] else 1 - stay
            if state and logits[i] is not None:
                weighted = logits[i] * (model.partial if partial[i] else model.frame)
                likelihood *= math.exp(min(max(weighted, -model.limit), model.limit))
        total += likelihood
        for i, state in enumerate(path):
            viral[i] += likelihood * state
    return [each / total for each in viral]


@given(model, st.lists(chunk, min_size=1, max_size=7))
def test_they_are_the_sum_over_all_paths(model, chunks):
    starts = list(itertools.accumulate(length for length, _, _ in chunks))
    logits, partial = [logit for _, logit, _ in chunks], [each for _, _, each in chunks]
    expected = by_enumeration(model, starts, logits, partial)
    assert model.posteriors(starts, logits, partial) == pytest.approx(expected, abs=1e-9)


def test_a_long_contig_stays_finite():
    starts = [500 * i for i in range(4000)]
    found = DEFAULT.posteriors(starts, [9.0 if 1000 <= i < 1040 else -9.0 for i in range(4000)], [False] * 4000)
    assert [round(each) for each in found] == [int(1000 <= i < 1040) for i in range(4000)]


def test_parameters_survive_a_file_and_bad_ones_are_named():
    assert RegionModel.from_dict(DEFAULT.to_dict(), "a") == DEFAULT
    for name, value in (("viral", 1), ("leave", -1), ("limit", 0), ("frame", "x"), ("enter", math.nan)):
        with pytest.raises(ModelError, match=f"a: .*{name}"):
            RegionModel.from_dict(DEFAULT.to_dict() | {name: value}, "a")
    with pytest.raises(ModelError, match="aren't viral, enter"):
        RegionModel.from_dict({"viral": 0.1}, "a")


def test_viral_parts_without_end_are_refused():
    """Then nothing would bound the odds of a long contig."""
    with pytest.raises(ModelError, match=r"leave 0\.0"):
        RegionModel.from_dict(RegionModel(leave=0.0).to_dict(), "c")
