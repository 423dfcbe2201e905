"""Scores → tables: parity with the original's outputs, calls at ties, and refusals."""

import csv
import gzip
import json
import math
import random
import re
import shutil
import tempfile
import time
import tracemalloc
from functools import partialmethod
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.classifier.importer import import_original
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.predict import Outputs, predict
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.classifier.tables import CONTIGS, SortedRows, TablePaths, Tables, chunk_score, numbers
from virnucpro.embeddings.store import MergedEmbeddings, create_merged
from virnucpro.encoders.canonical import write_canonical
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.errors import ModelError, StorageError
from virnucpro.sequences.chunks import chunk_starts
from virnucpro.sequences.fasta import read_fasta

PARITY = Path(__file__).parents[1] / "data" / "parity"
EXPECTED = PARITY / "expected"


def tables_of(folder, records, frames, chunk_length=500, threshold=0.5, batch=3):
    """Write tables for (id, score_virus) or (id, others, virus) frames; returns paths and counts."""
    paths = TablePaths(*(folder / name for name in ("predictions", "chunks", "contigs", "results", "highest")))
    rows = [(frame[0], *((1 - frame[1], frame[1]) if len(frame) == 2 else frame[1:])) for frame in frames]
    with Tables(paths, iter(records), chunk_length, threshold) as tables:
        for at in range(0, len(rows), batch):
            part = rows[at : at + batch]
            tables.add([row[0] for row in part], np.array([row[1:] for row in part], np.float32))
        counts = tables.finish()
    return paths, counts


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def column(path, name):
    return [row[name] for row in read(path)]


# A whole run, against the original's


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The original's embeddings, classifier and input in this project's files."""
    folder = tmp_path_factory.mktemp("original")
    saved = np.load(EXPECTED / "merged.npz")
    write_run(folder, saved["ids"].tolist(), saved["embeddings"], int(saved["dna_dim"]))
    write_classifier(folder / "classifier", *import_original(PARITY / "tiny_model.pth"))
    return folder


def write_run(folder, ids, features, dna_width, records=None, chunk_length=500, manifest=None):
    records = records or [(record.id, len(record.sequence)) for record in read_fasta(PARITY / "input.fa")]
    provenance = {
        "chunk_length": chunk_length,
        "dna_encoder": {"name": "dna", "weights_sha256": "d" * 64},
        "protein_encoder": {"name": "protein", "weights_sha256": "e" * 64},
    }
    with create_merged(folder / "e.h5", len(ids), dna_width, features.shape[1] - dna_width, provenance) as file:
        file["ids"][:] = ids
        file["dna"][:], file["protein"][:] = features[:, :dna_width], features[:, dna_width:]
    (folder / "shards").mkdir(exist_ok=True)
    whole = {
        "format": 1,
        "chunk_length": chunk_length,
        "shard_frames": 10,
        "records": len(records),
        "bases": sum(length for _, length in records),
        "chunks": sum(len(chunk_starts(length, chunk_length)) for _, length in records),
        "frames": len(ids),
        "skipped_records": 0,
        "files": [str(PARITY / "input.fa")],
        "shards": [],
    }
    (folder / "shards" / "manifest.json").write_text(json.dumps(whole | (manifest or {})))
    lines = "".join(f"{record}\t{length}\tinput.fa\n" for record, length in records)
    (folder / "shards" / "records.tsv").write_text("record\tlength\tfile\n" + lines)


def outputs_in(folder):
    names = ["predictions.tsv", "chunks.tsv", "contigs.tsv", "prediction_results.txt"]
    names += ["prediction_results_highestscore.csv", "viral.fasta.gz", "summary.json"]
    return Outputs(*(folder / name for name in names))


def run(folder, output, **changes):
    given = {
        "merged": folder / "e.h5",
        "classifier": folder / "classifier",
        "shards": folder / "shards",
        "fastas": [PARITY / "input.fa"],
        "outputs": outputs_in(output),
    }
    summary = predict(**given | changes)
    return given["outputs"], summary


def test_vectors_of_other_encoders_are_refused(original, tmp_path):
    """Left by an earlier run with other models: never scored as if they were this run's."""
    write_canonical(ESM2(ESM2Config(1, 32, 2, 32)), tmp_path / "other", name="other")
    with pytest.raises(StorageError, match="dna vectors aren't from"):
        run(original, tmp_path / "out", encoders=(tmp_path / "other", tmp_path / "other"))
    assert not (tmp_path / "out" / "predictions.tsv").exists()


@pytest.mark.parametrize("threads", [1, 4])
def test_batches_keep_their_order_and_scores_whatever_the_threads(original, tmp_path, monkeypatch, threads):
    def slow_at_first(model, features, scores=Classifier.scores):
        assert len(features) <= 2 and torch.get_num_threads() == 1, "no sum depends on how many there are"
        time.sleep(0.02 if not started.append(features) and len(started) % 3 == 1 else 0)
        return scores(model, features)

    whole, _ = run(original, tmp_path / "whole")
    started = []
    monkeypatch.setattr(MergedEmbeddings, "batches", partialmethod(MergedEmbeddings.batches, rows=2))
    monkeypatch.setattr(Classifier, "scores", slow_at_first)
    outputs, summary = run(original, tmp_path / "batches", threads=threads)
    assert len(started) == -(-summary["frames"] // 2) > 8
    for mine, other in zip(read(outputs.predictions), read(whole.predictions), strict=True):
        assert mine["frame_id"] == other["frame_id"]
        assert float(mine["score_virus"]) == pytest.approx(float(other["score_virus"]), abs=1e-5)


def test_a_value_that_is_not_finite_is_found_in_any_batch(original, tmp_path, monkeypatch):
    monkeypatch.setattr(MergedEmbeddings, "batches", partialmethod(MergedEmbeddings.batches, rows=2))
    for name in ("e.h5", "classifier"):
        shutil.copy(original / name, tmp_path / name)
    shutil.copytree(original / "shards", tmp_path / "shards")
    with h5py.File(tmp_path / "e.h5", "r+") as file:
        file["protein"][6, 3] = np.nan
        named = file["ids"].asstr()[6]
    with pytest.raises(StorageError, match=rf"not finite near {re.escape(named)}\."):
        run(tmp_path, tmp_path / "out", threads=3)
    assert not (tmp_path / "out" / "predictions.tsv").exists()


def test_compatible_files_equal_the_originals(original, tmp_path):
    outputs, _ = run(original, tmp_path)
    ours, theirs = read(outputs.results), read(EXPECTED / "prediction_results.txt")
    assert outputs.results.read_text().splitlines()[0] == "Sequence_ID\tPrediction\tscore1\tscore2"
    assert [row["Sequence_ID"] for row in ours] == [row["Sequence_ID"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == list(other)
        for score in ("score1", "score2"):
            assert float(mine[score]) == pytest.approx(float(other[score]), abs=1e-4)
        assert mine["Prediction"] == other["Prediction"]
    assert outputs.highest.read_bytes() == (EXPECTED / "prediction_results_highestscore.csv").read_bytes()


def test_all_tables_agree_with_one_another(original, tmp_path):
    outputs, summary = run(original, tmp_path)
    frames, chunks, contigs = read(outputs.predictions), read(outputs.chunks), read(outputs.contigs)
    assert (summary["frames"], summary["chunks"], summary["records"]) == (len(frames), len(chunks), len(contigs))
    assert sum(int(chunk["open_frames"]) for chunk in chunks) == len(frames)
    assert sum(int(contig["viral_chunks"]) for contig in contigs) == summary["viral_chunks"]
    assert [c["chunk_id"] for c in chunks if c["call"] == "no_open_frame"]
    assert {c["call"] for c in contigs if c["record"] == "noframe"} == {"unscored"}
    records = {record.id: record.sequence for record in read_fasta(PARITY / "input.fa")}
    nucleotides = (EXPECTED / "input_identified_nucleotide.fa").read_text().split()
    texts = dict(zip((name[1:] for name in nucleotides[::2]), nucleotides[1::2], strict=True))
    complement = str.maketrans("ACGT", "TGCA")
    for frame in frames:
        text = records[frame["record"]][int(frame["start"]) - 1 : int(frame["end"])].decode().upper()
        strand = text if frame["strand"] == "+" else text.translate(complement)[::-1]
        assert len(text) % 3 == 0 and (texts[frame["frame_id"]].startswith(strand) or not set(text) <= set("ACGT"))
        assert frame["frame_id"] == f"{frame['record']}_chunk_{frame['chunk']}{frame['frame']}"
        assert frame["label"] == ("virus" if float(frame["score_virus"]) > 0.5 else "others")
    assert json.loads(outputs.summary.read_text()) == summary
    assert summary["classifier"]["source_sha256"] and summary["dna_encoder"]["weights_sha256"] == "d" * 64


def test_viral_records_are_the_inputs_own(original, tmp_path):
    outputs, summary = run(original, tmp_path / "a")
    again, _ = run(original, tmp_path / "b")
    assert outputs.viral.read_bytes() == again.viral.read_bytes()
    wanted = [row["record"] for row in read(outputs.contigs) if row["call"] == "viral"]
    text = gzip.decompress(outputs.viral.read_bytes())
    (tmp_path / "viral.fa").write_bytes(text)
    assert b">amb|x.1 some words\n" in text
    found = {record.id: record.sequence for record in read_fasta(tmp_path / "viral.fa")}
    inputs = {record.id: record.sequence for record in read_fasta(PARITY / "input.fa")}
    assert found == {name: inputs[name] for name in wanted}
    assert len(found) == summary["viral_records"] > 0


def test_input_that_changed_since_is_refused(original, tmp_path):
    lines = (PARITY / "input.fa").read_text()
    for name, text in (("short", lines[: lines.rindex(">")]), ("renamed", lines.replace(">contig3", ">contig33"))):
        (tmp_path / name).write_text(text)
        with pytest.raises(StorageError, match="changed"):
            run(original, tmp_path, fastas=[tmp_path / name])
        assert not outputs_in(tmp_path).summary.exists()


# Refusals


def small(folder, ids=("a_chunk_1F1",), features=None, records=(("a", 60), ("b", 40)), manifest=None):
    """A run of few frames, and a classifier of 2 + 1 inputs."""
    features = np.zeros((len(ids), 3), np.float32) if features is None else features
    write_run(folder, list(ids), features, 2, list(records), manifest=manifest)
    write_classifier(folder / "classifier", Classifier(3, 4), ClassifierSpec("c", 3, 4))
    (folder / "in.fa").write_text("".join(f">{name} it\n{'A' * length}\n" for name, length in records))
    return {"folder": folder, "output": folder / "out", "fastas": [folder / "in.fa"]}


@pytest.mark.parametrize("what", ["records", "chunks", "frames"])
def test_counts_that_disagree_with_the_manifest(tmp_path, what):
    with pytest.raises(StorageError, match=r"frames|records|chunks"):
        run(**small(tmp_path, manifest={what: 7}))
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "ids",
    [
        ["b_chunk_1F1", "a_chunk_1F1"],
        ["a_chunk_1F2", "a_chunk_1F1"],
        ["a_chunk_1F1", "a_chunk_1F1"],
        ["c_chunk_1F1"],
        ["a_chunk_2F1"],
        ["a_chunk_1X1"],
        [""],
    ],
)
def test_frames_out_of_place(tmp_path, ids):
    with pytest.raises(StorageError, match=r"out of order|no such chunk"):
        run(**small(tmp_path, ids))
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_never_pass(tmp_path, value):
    features = np.zeros((2, 3), np.float32)
    features[1, 2] = value
    with pytest.raises(StorageError, match="not finite"):
        run(**small(tmp_path, ["a_chunk_1F1", "b_chunk_1F1"], features))
    with pytest.raises(StorageError, match=r"b_chunk_1F1: its score isn't a number"):
        tables_of(tmp_path / "t", [("a", 60), ("b", 40)], [("a_chunk_1F1", 0.5), ("b_chunk_1F1", value)])
    assert not list((tmp_path / "out").glob("*")) + list((tmp_path / "t").glob("*"))


def test_other_chunk_length_or_encoders(tmp_path):
    given_ = small(tmp_path)
    with pytest.raises(StorageError, match="500-base chunks, the run has 300"):
        run(**given_, chunk_length=300)
    write_classifier(tmp_path / "classifier", Classifier(9, 4), ClassifierSpec("c", 9, 4))
    with pytest.raises(ModelError, match="takes 9 inputs, but dna gives 2 and protein gives 1"):
        run(**given_)


def test_no_frames_at_all(tmp_path):
    outputs, summary = run(**small(tmp_path, [], records=[("a", 60), ("b", 1200)]))
    assert column(outputs.chunks, "call") == ["no_open_frame"] * 4
    assert column(outputs.contigs, "call") == ["unscored"] * 2
    assert not read(outputs.predictions) and not read(outputs.results)
    assert outputs.highest.read_text() == "Modified_ID\tIs_Virus\n"
    assert gzip.decompress(outputs.viral.read_bytes()) == b""
    assert (summary["unscored_records"], summary["frames"]) == (2, 0)


def test_records_without_a_sequence_are_no_change_of_the_input(tmp_path):
    """They were left out when the input was split."""
    given_ = small(tmp_path, ["b_chunk_1F1"])
    model = Classifier(3, 4)
    torch.nn.init.zeros_(model.output_layer.weight)
    torch.nn.init.zeros_(model.output_layer.bias)  # every score is 0.5, so every scored record is viral
    write_classifier(tmp_path / "classifier", model, ClassifierSpec("c", 3, 4))
    (tmp_path / "in.fa").write_text(f">a\n{'A' * 60}\n>empty\n>b it\n{'c' * 40}\n>end\n")
    outputs, _ = run(**given_)
    assert gzip.decompress(outputs.viral.read_bytes()).decode() == f">b it\n{'c' * 40}\n"


def test_a_failed_run_leaves_no_summary_of_an_earlier_one(tmp_path):
    outputs, _ = run(**small(tmp_path))
    assert outputs.summary.exists()
    with pytest.raises(StorageError):
        run(**small(tmp_path, ["b_chunk_2F1"]))
    assert not outputs.summary.exists()


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
    rows = [dict(zip(CONTIGS, row.values(), strict=True)) for row in read(paths.contigs)]
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
            ordered.add(*row)
        assert list(ordered) == sorted(rows)


def test_highest_is_sorted_as_text(tmp_path):
    frames = [(f"{record}_chunk_{number}F1", 0.9) for record in "ba" for number in range(1, 13)]
    paths, _ = tables_of(tmp_path, [("b", 6000), ("a", 6000)], frames)
    names = column(paths.highest, "Modified_ID")
    assert names == sorted(names) and names[1] == "a_chunk_10"


def test_memory_does_not_grow_with_the_table(tmp_path):
    """One record of many chunks, a third of them with frames: about 40 bytes a chunk, its start."""
    count = 60_000
    paths = TablePaths(*(tmp_path / name for name in "abcde"))
    rng = random.Random(0)
    tracemalloc.start()
    with Tables(paths, iter([("r", 500 * count)]), 500, 0.5) as tables:
        for start in range(0, count, 8192):
            ids = [f"r_chunk_{i + 1}F{rng.randint(1, 3)}" for i in range(start, min(start + 8192, count), 3)]
            scores = np.full((len(ids), 2), 0.5, np.float32)
            tables.add(ids, scores)
        counts = tables.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.chunks == count
    assert peak < 12 * 2**20


def test_scores_do_not_depend_on_the_batch(original):
    model, _ = import_original(PARITY / "tiny_model.pth")
    features = torch.from_numpy(np.load(EXPECTED / "merged.npz")["embeddings"])
    parts = torch.cat([model.scores(part) for part in features.split(7)])
    assert torch.allclose(model.scores(features), parts, atol=1e-6)
