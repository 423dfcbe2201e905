"""Chunk windows, against the table in the specification and a direct transcription of the original."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.sequences.chunks import chunk_id, chunk_starts, chunk_table


def original_starts(length, chunk_length):
    """The original's loop."""
    n = math.ceil(length / chunk_length)
    surplus = n * chunk_length - length
    low = surplus // n
    higher = surplus - low * (n - 1)
    starts, shift = [], 0
    for i in range(n):
        starts.append(i * chunk_length - shift)
        shift += low + 1 if i < higher else low
    return starts


@pytest.mark.parametrize(
    ("length", "starts", "lengths"),
    [
        (1, [0], [1]),
        (499, [0], [499]),
        (500, [0], [500]),
        (501, [0, 250], [500, 251]),
        (600, [0, 299], [500, 301]),
        (999, [0, 499], [500, 500]),
        (1000, [0, 500], [500, 500]),
        (1001, [0, 333, 666], [500, 500, 335]),
    ],
)
def test_table_of_the_specification(length, starts, lengths):
    table = chunk_table(np.array([length]), 500)
    assert chunk_starts(length, 500).dtype == np.int64
    assert chunk_starts(length, 500).tolist() == table.start.tolist() == starts
    assert table.length.tolist() == lengths


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.integers(1, 700))
def test_same_as_the_original(lengths, chunk_length):
    table = chunk_table(np.array(lengths), chunk_length)
    for record, length in enumerate(lengths):
        rows = table.record == record
        starts = original_starts(length, chunk_length)
        assert table.start[rows].tolist() == starts
        assert table.index[rows].tolist() == list(range(len(starts)))
        assert table.length[rows].tolist() == [min(chunk_length, length - start) for start in starts]


@given(st.integers(1, 5000), st.integers(1, 700))
def test_chunks_cover_the_record(length, chunk_length):
    table = chunk_table(np.array([length]), chunk_length)
    ends = table.start + table.length
    assert table.start[0] == 0 and ends[-1] == length
    assert (table.start[1:] <= ends[:-1]).all()
    assert (table.length[:-1] == min(chunk_length, length)).all()


def test_an_empty_record_has_no_chunk():
    assert chunk_starts(0, 500).tolist() == []


def test_names_count_from_one():
    assert chunk_id("a|x.1", 0) == "a|x.1_chunk_1"


def test_a_chunk_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="chunk_length"):
        chunk_starts(5, 0)
