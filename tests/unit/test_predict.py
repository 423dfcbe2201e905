"""A whole prediction: parity with the original's outputs, and refusals."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.tables import column, read
from virnucpro import installation
from virnucpro.calls.predict import Outputs, predict
from virnucpro.calls.rules import Rules
from virnucpro.classifier.importer import import_original
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.reference import Reference
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.embeddings.store import MergedEmbeddings, create_merged
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.loading import write_encoder
from virnucpro.errors import ModelError, StorageError
from virnucpro.sequences.chunks import chunk_starts
from virnucpro.sequences.frames import FRAME_NAMES
from virnucpro.sequences.read import read_fasta

PARITY = Path(__file__).parents[1] / "data" / "parity"
EXPECTED = PARITY / "expected"

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
        "shards": [],
    }
    with create_merged(folder / "e.h5", len(ids), dna_width, features.shape[1] - dna_width, provenance) as file:
        file["ids"][:] = ids
        file["dna"][:], file["protein"][:] = features[:, :dna_width], features[:, dna_width:]
    whole = {
        "chunk_length": chunk_length,
        "records": len(records),
        "bases": sum(length for _, length in records),
        "chunks": sum(len(chunk_starts(length, chunk_length)) for _, length in records),
        "frames": len(ids),
        "partial": 0,
        "skipped_records": 0,
        "rna_records": 0,
        "u_ignored_records": 0,
        "rna_as_dna": True,
        "files": [str(PARITY / "input.fa")],
        **(manifest or {}),
    }
    shard = {"sha": "ab", "frames": whole["frames"]}
    unit = {"format": 2, "shard_frames": 10, "chunk_length": chunk_length, "rna_as_dna": True, "shards": [shard]}
    counts = {kind: whole[kind] for kind in ("frames", "partial")}
    place = {"first": {"frames": 0, "partial": 0}, **counts}
    unit |= {**counts, "samples": {"s": place}, "partial_shards": []}
    sample = folder / "shards" / "samples" / "s"
    sample.mkdir(parents=True, exist_ok=True)
    (folder / "shards" / "manifest.json").write_text(json.dumps(unit))
    (sample / "manifest.json").write_text(json.dumps(whole))
    lines = "".join(f"{record}\t{length}\tinput.fa\t0.5\t0.0\t0.0\n" for record, length in records)
    (sample / "records.tsv").write_text("record\tlength\tfile\tgc\tn_share\tlow_complexity\n" + lines)


def outputs_in(folder):
    names = ["predictions.tsv", "chunks.tsv", "contigs.tsv", "prediction_results.txt"]
    names += ["prediction_results_highestscore.csv", "chunk_scores.tsv", "summary.json"]
    return Outputs(*(folder / name for name in names))


def run(folder, output, **changes):
    given = {
        "merged": folder / "e.h5",
        "classifier": folder / "classifier",
        "shards": folder / "shards",
        "sample": "s",
        "outputs": outputs_in(output),
        "rules": Rules(),
    }
    summary = predict(**given | changes)
    return given["outputs"], summary


def test_vectors_of_other_encoders_are_refused(original, tmp_path):
    """Left by an earlier run with other models: never scored as if they were this run's."""
    write_encoder(ESM2(ESM2Config(1, 32, 2, 32)), tmp_path / "other", name="other")
    with pytest.raises(StorageError, match="dna vectors aren't from"):
        run(original, tmp_path / "out", encoders=(tmp_path / "other", tmp_path / "other"))
    assert not (tmp_path / "out" / "predictions.tsv").exists()


def test_the_job_imports_neither_pytorch_nor_modules_that_do():
    code = (
        "import sys; import virnucpro.calls.predict, virnucpro.calls.viral\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'jinja2', 'Bio', 'tokenizers', 'virnucpro.classifier.model'} & sys.modules.keys()\n"
        "encoders = {name for name in sys.modules if name.startswith('virnucpro.encoders.')} - {'virnucpro.encoders.spec'}\n"
        "sys.exit(' '.join(heavy | encoders) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_blas_thread_is_set_before_numpy_is_there():
    code = (
        "import os, sys; from virnucpro.calls import one_blas_thread; assert 'numpy' not in sys.modules\n"
        "one_blas_thread(); assert os.environ['OPENBLAS_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '1'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "one_blas_thread()" in (installation.root() / "workflow/scripts/predict.py").read_text()


CATEGORIES = ("phage", "bacterium", "plant")


def many(folder, records, width=70, chance=0.4):
    """A run of random vectors, with frames on some chunks of these records."""
    rng = np.random.default_rng(0)
    ids = [
        f"{record}_chunk_{number + 1}{frame}"
        for record, length in records
        if not record.startswith("none")
        for number in range(-(-length // 500))
        for frame in FRAME_NAMES
        if rng.random() < chance
    ]
    write_run(folder, ids, rng.standard_normal((len(ids), width), dtype=np.float32), width - 30, records)
    torch.manual_seed(0)
    spec = ClassifierSpec("c", width, 16, categories=[{"name": name, "viral": name == "phage"} for name in CATEGORIES])
    arrays = (rng.standard_normal(shape, dtype=np.float32) for shape in (width, (width, 8), (2, 8)))
    reference = Reference(*arrays, limit=6.0)
    spec = replace(spec, reference=reference.described(["viral", "non-viral"], 100))
    write_classifier(folder / "classifier", Classifier(width, 16, categories=3), spec, reference=reference)
    return len(ids)


@pytest.mark.parametrize(
    "records",
    [
        [
            ("none1", 1200),
            *((f"r{i}", 1 + 37 * i) for i in range(90)),
            ("huge", 200_001),
            ("none2", 700),
            ("last", 501),
        ],
        [("huge", 300_000)],
        [("none1", 1200), ("none2", 5)],
    ],
)
def test_tables_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch, records):
    monkeypatch.setattr("virnucpro.calls.predict.SMALL_SAMPLE", 1)
    frames = many(tmp_path, records)
    whole, summary = run(tmp_path, tmp_path / "whole")
    assert summary["frames"] == frames and summary["records"] == len(records)
    monkeypatch.setattr(MergedEmbeddings, "windows", partialmethod(MergedEmbeddings.windows, rows=101))
    one, _ = run(tmp_path, tmp_path / "one")
    three, again = run(tmp_path, tmp_path / "three", threads=3)
    assert summary == again
    for name, path in vars(one).items():
        assert path.read_bytes() == getattr(three, name).read_bytes(), name
    for mine, other in zip(read(three.predictions), read(whole.predictions), strict=True):
        assert mine["frame_id"] == other["frame_id"]
        assert float(mine["score_virus"]) == pytest.approx(float(other["score_virus"]), abs=1e-6)
    for row in read(three.contigs):
        viral, scored = row["call"] == "viral", row["call"] != "unscored"
        assert row["category"] in (("phage",) if viral else CATEGORIES[1:] if scored else ("",))
        assert (row["distance"] != "") == (row["category_probability"] != "") == scored


def test_what_a_process_refuses_is_the_same_message(tmp_path, monkeypatch):
    monkeypatch.setattr("virnucpro.calls.predict.SMALL_SAMPLE", 1)
    monkeypatch.setattr(MergedEmbeddings, "windows", partialmethod(MergedEmbeddings.windows, rows=2))
    ids = [f"{record}_chunk_1{frame}" for record in "ab" for frame in ("F1", "F2", "F2", "R1")]
    with pytest.raises(
        StorageError, match=r"^a_chunk_1F2: out of order in the embeddings\. Delete them and run again\.$"
    ):
        run(**small(tmp_path, ids), threads=3)
    assert not list((tmp_path / "out").glob("*"))


def test_compatible_files_equal_the_originals(original, tmp_path):
    outputs, _ = run(original, tmp_path)
    ours, theirs = read(outputs.results), read(EXPECTED / "prediction_results.txt")
    assert outputs.results.read_text().splitlines()[0] == "Sequence_ID\tPrediction\tscore1\tscore2"
    assert [row["Sequence_ID"] for row in ours] == [row["Sequence_ID"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == list(other)
        for score in ("score1", "score2"):
            assert float(mine[score]) == pytest.approx(float(other[score]), abs=1e-4)
        tie = abs(float(other["score2"]) - 0.5) < 1e-4  # as README.md there says; contig8_chunk_1R3 is 2e-6 from one
        assert mine["Prediction"] == other["Prediction"] or tie
    assert outputs.highest.read_bytes() == (EXPECTED / "prediction_results_highestscore.csv").read_bytes()


def test_all_tables_agree_with_one_another(original, tmp_path):
    outputs, summary = run(original, tmp_path)
    frames, chunks, contigs = read(outputs.predictions), read(outputs.chunks), read(outputs.contigs)
    assert (summary["frames"], summary["chunks"], summary["records"]) == (len(frames), len(chunks), len(contigs))
    assert sum(int(chunk["open_frames"]) for chunk in chunks) == len(frames)
    assert sum(int(contig["viral_chunks"]) for contig in contigs) == summary["viral_chunks"]
    assert [c["chunk_id"] for c in chunks if c["call"] == "unscored"]
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


# Refusals


def small(folder, ids=("a_chunk_1F1",), features=None, records=(("a", 60), ("b", 40)), manifest=None):
    """A run of few frames, and a classifier of 2 + 1 inputs."""
    features = np.zeros((len(ids), 3), np.float32) if features is None else features
    write_run(folder, list(ids), features, 2, list(records), manifest=manifest)
    write_classifier(folder / "classifier", Classifier(3, 4), ClassifierSpec("c", 3, 4))
    return {"folder": folder, "output": folder / "out"}


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
def test_values_that_are_not_finite_never_pass(tmp_path, monkeypatch, value):
    monkeypatch.setattr(MergedEmbeddings, "windows", partialmethod(MergedEmbeddings.windows, rows=2))
    ids = [f"{record}_chunk_1{frame}" for record in "ab" for frame in ("F1", "F2", "F3", "R1")]
    features = np.zeros((8, 3), np.float32)
    features[6, 2] = value
    for threads, small_sample in ((1, 10), (3, 1)):
        monkeypatch.setattr("virnucpro.calls.predict.SMALL_SAMPLE", small_sample)
        with pytest.raises(StorageError, match=r"not finite near b_chunk_1F3\."):  # whatever block it is in
            run(**small(tmp_path, ids, features), threads=threads)
    assert not list((tmp_path / "out").glob("*"))


def test_other_chunk_length_or_encoders(tmp_path):
    given_ = small(tmp_path)
    with pytest.raises(StorageError, match="500-base chunks, the run has 300"):
        run(**given_, rules=Rules(chunk_length=300))
    write_classifier(tmp_path / "classifier", Classifier(9, 4), ClassifierSpec("c", 9, 4))
    with pytest.raises(ModelError, match="takes 9 inputs, but dna gives 2 and protein gives 1"):
        run(**given_)


def test_no_frames_at_all(tmp_path):
    outputs, summary = run(**small(tmp_path, [], records=[("a", 60), ("b", 1200)]))
    assert column(outputs.chunks, "call") == ["unscored"] * 4
    assert column(outputs.contigs, "call") == ["unscored"] * 2
    assert not read(outputs.predictions) and not read(outputs.results)
    assert outputs.highest.read_text() == "Modified_ID\tIs_Virus\n"
    assert (summary["unscored_records"], summary["frames"]) == (2, 0)


def test_a_failed_run_leaves_nothing_that_says_it_is_complete(tmp_path):
    outputs, _ = run(**small(tmp_path))
    assert outputs.summary.exists()
    with pytest.raises(StorageError):
        run(**small(tmp_path, ["b_chunk_2F1"]))
    assert not outputs.summary.exists()
