"""Scores → tables: calls at ties, numbers, order, memory."""

import math
import random
import re
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tables import CATEGORIES, Frames, calibration, column, like, many_contigs, odds, read, tables_of, write
from virnucpro.calls.blocks import blocks
from virnucpro.calls.rows import chunk_score, numbers
from virnucpro.calls.tables import SortedRows, TablePaths
from virnucpro.classifier.scoring import Scores
from virnucpro.errors import StorageError
from virnucpro.result_tables import CONTIG_COLUMNS
from virnucpro.sequences.frames import FRAME_NAMES
from virnucpro.sequences.records import RecordRow

# The rules of the calls


def test_exact_ties(tmp_path):
    paths, _ = tables_of(tmp_path, [("a", 500)], [("a_chunk_1F1", 0.5, 0.5)])
    assert column(paths.predictions, "label") == column(paths.results, "Prediction") == ["others"]
    assert column(paths.highest, "Is_Virus") == ["True"]
    assert column(paths.chunks, "call") == column(paths.contigs, "call") == ["viral"]
    assert column(paths.chunks, "score") == ["0.5"]


def test_scores_as_viral_ngs_reads_them(tmp_path):
    """``virnucpro_contigs`` of viral-ngs wants these columns, separated by tabs, and ids that end in _chunk_NUMBER."""
    frames = [("a|b_1_chunk_2F1", 0.1, 0.9), ("a|b_1_chunk_2R3", 0.7, 0.3), ("c_chunk_1F2", 0.25, 0.75)]
    partial = [("a|b_1_chunk_1F2:2-61", 0.5)]
    paths, _ = tables_of(tmp_path, [("a|b_1", 800), ("c", 400)], frames, partial=partial)
    header, *rows = paths.chunk_scores.read_text().splitlines()
    assert header == "Modified_ID\tmax_score_0\tmax_score_1"
    assert rows == ["a|b_1_chunk_2\t0.7\t0.9", "c_chunk_1\t0.25\t0.75"], "0 is others, 1 virus; no partial frames"
    assert [re.sub(r"_chunk_\d+$", "", row.split("\t")[0]) for row in rows] == ["a|b_1", "c"]
    chunks = [row for row in read(paths.chunks) if row["kind"] == "frame"]
    assert rows == [
        "\t".join(row[name] for name in ("chunk_id", "max_score_others", "max_score_virus")) for row in chunks
    ]
    assert sorted(column(paths.chunk_scores, "Modified_ID")) == column(paths.highest, "Modified_ID")


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
    records = [RecordRow("a", 1400, "x.fa", 0.25, 0.01, 0.02), ("b", 0), ("c", 2)]
    paths, counts = tables_of(tmp_path, records, frames)
    rows = read(paths.contigs)
    assert {tuple(row) for row in rows} == {CONTIG_COLUMNS}
    third = chunk_score(0.75, 0.5)
    assert rows[0] == {
        **{
            "record": "a",
            "length": "1400",
            "chunks": "3",
            "scored_chunks": "2",
            "viral_chunks": "1",
            "viral_share": "0.5",
        },
        **{"mean_score": str(round((0.75 + third) / 2, 9)), "best_score": "0.75", "call": "viral"},
        **{"logit": "", "probability": "", "q_value": "", "reason": ""},
        **{"scored_share": "0.666666667", "low_complexity": "0.02", "gc": "0.25", "n_share": "0.01"},
        **{"distance": "", "category": "", "category_probability": ""},
    }
    assert (rows[1]["chunks"], rows[1]["call"], rows[1]["mean_score"]) == ("0", "unscored", "")
    assert (rows[1]["reason"], rows[1]["scored_share"]) == ("no_scored_chunk", "0.0")
    assert rows[2]["call"] == "non-viral"
    spans = [(row["start"], row["end"], row["open_frames"]) for row in read(paths.chunks)]
    assert spans == [("1", "500", "1"), ("467", "966", "0"), ("933", "1400", "2"), ("1", "2", "1")]
    second = read(paths.chunks)[1]
    assert (second["call"], second["kind"], second["reason"]) == ("unscored", "", "no_stop_free_frame")
    assert (counts.viral_records, counts.unscored_records, counts.scored_chunks) == (1, 1, 3)


# Partial frames and calibrated calls


def test_a_partial_frame_scores_a_chunk_without_frames(tmp_path):
    frames = [("a_chunk_1F1", *odds(1))]
    partial = [("a_chunk_2R3:41-190", *odds(2))]
    paths, counts = tables_of(tmp_path, [("a", 1500)], frames, partial=partial, calibration=calibration())
    first, second, third = read(paths.chunks)
    assert (first["kind"], first["part_start"], first["part_end"], first["logit"]) == ("frame", "", "", "1.0")
    assert float(first["probability"]) == pytest.approx(1 / (1 + math.exp(-1) * 4), abs=1e-6), "under the prior of 0.2"
    assert (second["kind"], second["best_frame"], second["open_frames"]) == ("partial", "R3", "0")
    assert (second["part_start"], second["part_end"]) == ("541", "690"), "on the contig"
    logit = 2 - 1.7 + 0.2 * math.log(0.3)
    assert float(second["logit"]) == pytest.approx(logit, abs=1e-4) and second["call"] == "viral"
    assert float(second["max_score_virus"]) == pytest.approx(odds(2)[1]) and float(second["score"]) > 0.8
    assert (third["kind"], third["call"], third["reason"], third["logit"]) == ("", "unscored", "no_stretch", "")
    (contig,) = read(paths.contigs)
    assert float(contig["logit"]) == pytest.approx(0.5 + (1 + logit) / 2, abs=1e-4)
    assert (contig["call"], contig["reason"]) == ("ambiguous", "between_thresholds,few_chunks")
    assert (counts.scored_chunks, counts.partial_chunks, counts.ambiguous_records) == (2, 1, 1)
    assert len(read(paths.predictions)) == 1 and len(read(paths.highest)) == 1, "the original's files have frames alone"


def test_without_a_calibration_partial_frames_count_as_they_are(tmp_path):
    paths, _ = tables_of(tmp_path, [("a", 500)], [], partial=[("a_chunk_1F2:2-400", *odds(1))])
    (chunk,), (contig,) = read(paths.chunks), read(paths.contigs)
    assert (chunk["kind"], chunk["call"], chunk["probability"]) == ("partial", "viral", "")
    assert float(chunk["logit"]) == pytest.approx(1, abs=1e-4)
    assert (contig["call"], contig["logit"], contig["mean_score"]) == ("viral", "", chunk["score"])


@pytest.mark.parametrize("partial", ["a_chunk_1F1:1-90", "b_chunk_1F1:1-90", "a_chunk_9F1:1-90"])
def test_partial_frames_out_of_place(tmp_path, partial):
    with pytest.raises(StorageError, match="no such chunk"):
        tables_of(tmp_path, [("a", 500)], [("a_chunk_1F1", 0.5)], partial=[(partial, 0.5)])


def test_calls_follow_the_preset_and_its_reasons(tmp_path):
    def call(logit, length=5000, chunks=5, gc=0.5, n=0.0, low=0.0, bases=(600, 2000, 9000), **rules):
        record = RecordRow("a", length, "x.fa", gc, n, low)
        frames = [(f"a_chunk_{i + 1}F1", *odds(logit - 0.5)) for i in range(chunks)]
        paths, _ = tables_of(tmp_path, [record], frames, calibration=calibration(fitted_on={"bases": bases}), **rules)
        (row,) = read(paths.contigs)
        return row["call"], row["reason"]

    assert call(2.1) == ("viral", "") and call(-1.1) == ("non-viral", "")
    assert call(1.9) == ("ambiguous", "between_thresholds")
    assert call(0, chunks=1) == ("ambiguous", "between_thresholds,few_chunks")
    assert call(3, low=0.9) == ("ambiguous", "low_complexity") and call(-2, low=0.9) == ("non-viral", "")
    assert call(1, n=0.5) == ("ambiguous", "between_thresholds,many_n")
    assert call(3, min_length=6000) == ("unscored", "short") and call(3, min_chunks=6) == ("unscored", "few_chunks")
    assert call(3, length=300, chunks=1)[0] == "viral" and call(3, length=299, chunks=1) == ("unscored", "read")
    assert call(3, length=299, chunks=1, threshold=0.5) == ("viral", "")
    assert call(-1.1, threshold=0.1) == ("viral", ""), "a given threshold decides alone"
    assert call(3, threshold=0.99) == ("non-viral", "")


def test_q_values_where_prevalence_can_be_told(tmp_path):
    records, frames = many_contigs(40, 60)
    paths, _ = tables_of(tmp_path, records, frames, calibration=calibration(contig=(0.0, 1.0, 0.0)))
    values = [float(value) for value in column(paths.contigs, "q_value")]
    assert max(values[:40]) < 0.01 and min(values[40:]) > 0.5
    few, _ = tables_of(tmp_path, records[:20], frames[:20], calibration=calibration(), ending="few")
    assert set(column(few.contigs, "q_value")) == {""} and set(column(few.contigs, "call")) == {"viral"}


def test_fdr_and_its_edges(tmp_path):
    records, frames = many_contigs(40, 60)
    for fdr, viral, reason in ((0.05, 40, ""), (1e-6, 0, "q_value"), (0, 0, "q_value")):
        paths, counts = tables_of(
            tmp_path, records, frames, calibration=calibration(contig=(0.0, 1.0, 0.0)), fdr=fdr, ending=str(fdr)
        )
        calls = column(paths.contigs, "call")
        assert calls.count("viral") == viral == counts.viral_records
        assert calls.count("ambiguous") == 40 - viral == counts.ambiguous_records
        assert set(column(paths.contigs, "reason")[:40]) == {reason}
    few, _ = tables_of(tmp_path, records[:9], frames[:9], calibration=calibration(), fdr=0.1, ending="few")
    assert set(column(few.contigs, "reason")) == {"no_q_value"}


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
        return ids, Scores(np.full((len(ids), 2), 0.5, np.float32))


@pytest.mark.parametrize(
    "records", [[("r", 500 * 60_000)], [("r", 500 * 60_000), *((f"n{i}", 0) for i in range(60_000))]]
)
def test_memory_does_not_grow_with_the_table(tmp_path, records):
    """One record of many chunks, a third of them with frames: about 40 bytes a chunk, its start."""
    paths = TablePaths(*(tmp_path / name for name in "abcdef"))
    tracemalloc.start()
    counts = write(paths, records, ManyFrames(60_000, 2730), 8192)
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
    with_frames = {name[:-2] for name, _ in frames}
    chunks = (f"{record}_chunk_{n + 1}" for record, length in records for n in range(-(-length // 500)))
    partial = [(f"{chunk}R1:1-60", rng.random()) for chunk in chunks if chunk not in with_frames and rng.random() < 0.6]
    given = {"partial": partial, "calibration": calibration(), "likeness": like(frames, partial)}
    given |= {"limit": 1.2, "categories": CATEGORIES}
    whole, counts = tables_of(tmp_path / "whole", records, frames, batch=10**6, **given)
    paths, again = tables_of(tmp_path / "blocks", records, frames, batch=batch, max_chunks=max_chunks, **given)
    assert counts.partial_chunks == len(partial)
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
    with_frames = {name[:-2] for name in ids}
    rest = [f"{chunk}F1:1-60" for chunk in chunks if chunk not in with_frames and data.draw(st.booleans())]
    sample = Frames([(name, 0.5) for name in ids], data.draw(st.integers(1, 9)))
    partial = Frames([(name, 0.5) for name in rest])
    row, part, seen, met = 0, 0, [], []
    rows = [RecordRow(*record, "x.fa", 0.5, 0.0, 0.0) for record in records]
    for block in blocks(sample, partial, iter(rows), 500, limit := data.draw(st.integers(1, 6))):
        assert block.rows.start == row and block.partial.start == part
        row, part, before = block.rows.stop, block.partial.stop, len(seen)
        for index, (record, length, *_) in enumerate(block.records):
            end = block.end if index == len(block.records) - 1 else -(-length // 500)
            first = block.first if index == 0 else 0
            seen += [f"{record}_chunk_{n + 1}" for n in range(first, end)]
            met += [record] * (first == 0)
        assert {name[:-2] for name in ids[block.rows]} <= set(seen[before:]) and len(seen) - before <= limit
        assert {name.rpartition(":")[0][:-2] for name in rest[block.partial]} <= set(seen[before:])
    assert (row, part, seen, met) == (len(ids), len(rest), chunks, [record for record, _ in records])
