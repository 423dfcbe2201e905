import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.encoders.packing import PackedBatch, gather_sequences, plan_batches

LENGTHS = st.lists(st.integers(1, 300), max_size=200)


@given(LENGTHS, st.integers(1, 1000))
def test_every_sequence_is_in_exactly_one_pack(lengths, budget):
    packs = plan_batches(np.array(lengths, dtype=np.int64), budget)
    assert sorted(np.concatenate([*packs, []]).tolist()) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 1000))
def test_packs_keep_the_budget_unless_one_sequence_exceeds_it(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    for pack in plan_batches(lengths, budget):
        assert len(pack) == 1 or lengths[pack].sum() <= budget


@given(LENGTHS, st.integers(1, 1000))
def test_equal_lengths_are_neighbours(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    planned = np.concatenate([lengths[pack] for pack in plan_batches(lengths, budget)] + [np.array([], int)])
    assert (np.diff(planned) <= 0).all()


@settings(deadline=None)  # the first example imports PyTorch
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_pack_tensors_describe_the_stream(lengths):
    tokens = np.arange(sum(lengths))
    pack = PackedBatch.build(np.array(lengths), tokens=tokens)
    assert pack.cu_seqlens.tolist() == [0, *np.cumsum(lengths)]
    assert pack.positions.tolist() == [i for n in lengths for i in range(n)]
    assert pack.lengths.tolist() == lengths
    assert pack.tokens.tolist() == tokens.tolist()
    assert [run.length for run in pack.runs for _ in range(run.sequences)] == lengths
    assert [run.start for run in pack.runs] == np.cumsum([0] + [r.sequences * r.length for r in pack.runs]).tolist()[
        :-1
    ]
    assert all(a.length != b.length for a, b in zip(pack.runs, pack.runs[1:], strict=False))
    assert (pack.total, pack.max_length) == (sum(lengths), max(lengths))


def test_padding_is_sequences_and_tokens_that_are_none():
    pack = PackedBatch.build(np.array([3, 2]), tokens=np.arange(10, 15), pad_to=(4, 8))
    assert pack.cu_seqlens.tolist() == [0, 3, 5, 5, 5] and pack.lengths.tolist() == [3, 2, 0, 0]
    assert pack.tokens.tolist() == [10, 11, 12, 13, 14, 0, 0, 0] and pack.total == 5
    assert pack.positions.tolist() == [0, 1, 2, 0, 1, 0, 0, 0]
    other = PackedBatch.build(np.array([2, 1, 1]), tokens=np.arange(4), pad_to=(4, 8))
    pack.buffer.copy_(other.buffer)  # as CUDA graphs do
    assert pack.cu_seqlens.tolist() == [0, 2, 3, 4, 4] and pack.tokens.tolist() == [0, 1, 2, 3, 0, 0, 0, 0]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.data())
def test_gathering_follows_the_order_asked_for(lengths, data):
    lengths = np.array(lengths)
    tokens = np.arange(lengths.sum())
    chosen = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True)))
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    expected = np.concatenate([parts[i] for i in chosen])
    assert gather_sequences(tokens, lengths, chosen).tolist() == expected.tolist()


def test_a_million_sequences_are_planned_quickly_and_tightly():
    lengths = np.random.default_rng(0).integers(30, 169, 1_000_000)
    started = time.process_time()
    packs = plan_batches(lengths, 32768)
    assert time.process_time() - started < 1
    assert lengths.sum() / (len(packs) * 32768) > 0.99


def test_nothing_to_plan():
    assert plan_batches(np.array([]), 100) == []


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_an_empty_sequence_has_no_place_in_a_pack(lengths):
    with pytest.raises(ValueError, match="batch needs"):
        PackedBatch.build(np.array(lengths))
