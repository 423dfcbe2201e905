"""Scores → tables: calls at ties, numbers, order, memory."""

import math
import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tables import Frames, column, read, tables_of, write
from virnucpro.calls.blocks import blocks
from virnucpro.calls.rows import chunk_score, numbers
from virnucpro.calls.tables import SortedRows, TablePaths
from virnucpro.errors import StorageError
from virnucpro.result_tables import CONTIG_COLUMNS
from virnucpro.sequences.frames import FRAME_NAMES

# The rules of the calls


def test_exact_ties(tmp_path):
    paths, _ = tables_of(tmp_path, [("a", 500)], [("a_chunk_1F1", 0.5, 0.5)])
    assert column(paths.predictions, "label") == column(paths.results, "Prediction") == ["others"]
    assert column(paths.highest, "Is_Virus") == ["True"]
    assert column(paths.chunks, "call") == column(paths.contigs, "call") == ["viral"]
    assert column(paths.chunks, "score") == ["0.5"]


def test_threshold_moves_the_own_calls_and_not_the_compatible_ones(tmp_path):
    frames = [("a_chunk_1F1", 0.6), ("a_chunk_1R2", 0.8), ("b_chunk_1F3", 0.7)]
    paths, counts = tables_of(tmp_path, [("a", 500), ("b", 500)], frames, threshold=0.7)
    assert column(paths.predictions, "label") == ["others", "virus", "others"]
    assert column(paths.results, "Prediction") == ["virus"] * 3
    assert column(paths.highest, "Is_Virus") == ["True", "True"]
    assert column(paths.chunks, "best_frame") == ["R2", "F3"]
    assert [float(x) for x in column(paths.chunks, "score")] == pytest.approx([0.8 / 1.2, 0.7], abs=1e-6)
    assert column(paths.chunks, "call") == ["non-viral", "viral" if float(np.float32(0.7)) >= 0.7 else "non-viral"]
    assert counts.virus_frames == 1


def test_contig_row(tmp_path):
    frames = [("a_chunk_1F1", 0.75), ("a_chunk_3F1", 0.5), ("a_chunk_3R1", 0.25), ("c_chunk_1F1", 0.25)]
    paths, counts = tables_of(tmp_path, [("a", 1400), ("b", 0), ("c", 2)], frames)
    rows = read(paths.contigs)
    assert {tuple(row) for row in rows} == {CONTIG_COLUMNS}
    third = chunk_score(0.75, 0.5)
    assert rows[0] == {
        **{"record": "a", "length": "1400", "chunks": "3", "scored_chunks": "2", "viral_chunks": "1"},
        **{
            "viral_share": "0.5",
            "mean_score": str(round((0.75 + third) / 2, 9)),
            "best_score": "0.75",
            "call": "viral",
        },
    }
    assert (rows[1]["chunks"], rows[1]["call"], rows[1]["mean_score"]) == ("0", "unscored", "")
    assert rows[2]["call"] == "non-viral"
    spans = [(row["start"], row["end"], row["open_frames"]) for row in read(paths.chunks)]
    assert spans == [("1", "500", "1"), ("467", "966", "0"), ("933", "1400", "2"), ("1", "2", "1")]
    assert (counts.viral_records, counts.unscored_records, counts.scored_chunks) == (1, 1, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_never_pass(tmp_path, value):
    with pytest.raises(StorageError, match=r"b_chunk_1F1: its score isn't a number"):
        tables_of(tmp_path, [("a", 60), ("b", 40)], [("a_chunk_1F1", 0.5), ("b_chunk_1F1", value)])
    assert not list(tmp_path.glob("*"))


@given(st.floats(0, 1, width=32), st.integers(-3, 3))
def test_chunk_score_at_half_is_the_originals_comparison(virus, steps):
    others = np.float32(1 - virus)  # and its nearest neighbours
    for _ in range(abs(steps)):
        others = np.nextafter(others, np.float32(math.copysign(2, steps)))
    for v, o in ((virus, float(others)), (max(virus, 0.5), max(float(others), 0.5))):
        if v + o >= 0.9:  # softmax scores of one frame add up to 1
            assert (chunk_score(o, v) >= 0.5) == (v >= o)


# Number format and order


@given(st.floats(0, 1, width=32))
def test_numbers_are_the_shortest_that_read_back(value):
    (text,) = numbers(np.array([value], np.float32))
    assert np.float32(text) == np.float32(value)
    digits = text.split("e")[0].replace(".", "").strip("0")
    if len(digits) > 1:
        assert np.float32(f"{value:.{len(digits) - 2}e}") != np.float32(value)


def test_numbers_look_like_the_originals():
    values = [0.5, 1, 0, 1e-4, 1.5e-5, 0.19144064, 0.99999994, 1e-45]
    expected = ["0.5", "1.0", "0.0", "1e-04", "1.5e-05", "0.19144064", "0.99999994", "1e-45"]
    assert numbers(np.array(values, np.float32)) == expected


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\n\r", codec="utf-8")), st.booleans())))
def test_sorting_through_files_is_sorting(rows):
    with SortedRows(Path(tempfile.gettempdir()), limit=3) as ordered:
        for row in rows:
            ordered.extend([row])
        assert list(ordered) == sorted(rows)


def test_highest_is_sorted_as_text(tmp_path):
    frames = [(f"{record}_chunk_{number}F1", 0.9) for record in "ba" for number in range(1, 13)]
    paths, _ = tables_of(tmp_path, [("b", 6000), ("a", 6000)], frames)
    names = column(paths.highest, "Modified_ID")
    assert names == sorted(names) and names[1] == "a_chunk_10"


class ManyFrames:
    """A frame on every third chunk of one contig, with ids that are made as they are read."""

    def __init__(self, chunks, rows):
        self.count, self.rows, self.rng = len(range(0, chunks, 3)), rows, random.Random(0)

    def windows(self):
        return [slice(at, min(at + self.rows, self.count)) for at in range(0, self.count, self.rows)]

    def read(self, window):
        rows = range(window.start, window.stop)
        ids = [f"r_chunk_{3 * row + 1}F{self.rng.randint(1, 3)}" for row in rows]
        return ids, np.full((len(ids), 2), 0.5, np.float32)


@pytest.mark.parametrize(
    "records", [[("r", 500 * 60_000)], [("r", 500 * 60_000), *((f"n{i}", 0) for i in range(60_000))]]
)
def test_memory_does_not_grow_with_the_table(tmp_path, records):
    """One record of many chunks, a third of them with frames: about 40 bytes a chunk, its start."""
    paths = TablePaths(*(tmp_path / name for name in "abcde"))
    tracemalloc.start()
    counts = write(paths, records, ManyFrames(60_000, 2730), max_chunks=8192)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (counts.chunks, counts.scored_chunks, counts.records) == (60_000, 20_000, len(records))
    assert peak < 12 * 2**20


@pytest.mark.parametrize("max_chunks", [1, 2, 7, 10_000])
@pytest.mark.parametrize("batch", [1, 2, 5, 10_000])
def test_tables_do_not_depend_on_the_blocks(tmp_path, batch, max_chunks):
    """Contigs without frames and without bases, one over many blocks, ids that look like those of chunks."""
    rng = random.Random(1)
    records = [("a_chunk_1", 900), ("none", 1600), ("empty", 0), ("a", 40_000), ("a_chunk_2_chunk_2", 501), ("z", 3)]
    records += [(f"r{i}", rng.randint(1, 1200)) for i in range(30)] + [("end", 5000), ("void", 0)]
    frames = [
        (f"{record}_chunk_{number + 1}{frame}", rng.random())
        for record, length in records
        if record not in ("none", "end")
        for number in range(-(-length // 500))
        for frame in FRAME_NAMES
        if rng.random() < 0.3
    ]
    whole, counts = tables_of(tmp_path / "whole", records, frames, batch=10**6)
    paths, again = tables_of(tmp_path / "blocks", records, frames, batch=batch, max_chunks=max_chunks)
    assert counts == again and counts.records == len(records) and counts.frames == len(frames)
    for name, path in vars(paths).items():
        assert path.read_bytes() == getattr(whole, name).read_bytes(), name


@given(st.data())
@settings(max_examples=50)
def test_blocks_hold_every_chunk_and_row_once(data):
    lengths = data.draw(st.lists(st.integers(0, 3000), min_size=1, max_size=8))
    records = [(f"r{i}", length) for i, length in enumerate(lengths)]
    chunks = [f"{record}_chunk_{n + 1}" for record, length in records for n in range(-(-length // 500))]
    ids = [
        f"{chunk}{frame}"
        for chunk in chunks
        for frame in data.draw(st.lists(st.sampled_from(FRAME_NAMES), unique=True))
    ]
    sample = Frames(ids, np.zeros((len(ids), 2), np.float32), data.draw(st.integers(1, 9)))
    row, seen, met = 0, [], []
    for block in blocks(sample, iter(records), 500, limit := data.draw(st.integers(1, 6))):
        assert block.rows.start == row
        row, before = block.rows.stop, len(seen)
        for index, (record, length) in enumerate(block.records):
            end = block.end if index == len(block.records) - 1 else -(-length // 500)
            first = block.first if index == 0 else 0
            seen += [f"{record}_chunk_{n + 1}" for n in range(first, end)]
            met += [record] * (first == 0)
        assert {name[:-2] for name in ids[block.rows]} <= set(seen[before:]) and len(seen) - before <= limit
    assert (row, seen, met) == (len(ids), chunks, [record for record, _ in records])
