"""Vectors with the calls as AnnData: what is in the file by the documented format, and as anndata reads it."""

from __future__ import annotations

import json
import tracemalloc

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from tests.unit.tables import contig_table, read
from tests.unit.test_predict import run, small
from virnucpro.cli import cli
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.errors import StorageError
from virnucpro.handover.anndata import CONTIG, FRAME, export
from virnucpro.outputs import EMBEDDINGS
from virnucpro.result_tables import PREDICTION_COLUMNS

IDS = ["a_chunk_1F1", "a_chunk_1R2", "a_chunk_2F1", "c_chunk_1F3"]
VECTORS = np.array([[1, 2, 3], [3, 2, 1], [5, 8, 2], [7, 7, 0]], np.float32)
RECORDS = [("a", 600), ("b", 40), ("c", 70)]


def made(folder, ids=IDS, vectors=VECTORS, records=RECORDS):
    """A sample's folder, as a run leaves it."""
    given = small(folder, ids, vectors, records)
    run(**given)
    (folder / "e.h5").rename(given["output"] / EMBEDDINGS)
    return given["output"]


@pytest.fixture
def sample(tmp_path):
    return made(tmp_path)


def text(data):
    return data.asstr()[()].tolist()


def values(group):
    """A column, categories as their words."""
    if isinstance(group, h5py.Dataset):
        return text(group) if group.attrs["encoding-type"] == "string-array" else group[()].tolist()
    words = text(group["categories"])
    return [words[code] if code >= 0 else None for code in group["codes"][()].tolist()]


def test_frames(sample, tmp_path):
    assert export(sample, tmp_path / "f.h5ad") == (4, 0)
    predictions, contigs = (
        read(sample / "predictions.tsv"),
        {row["record"]: row for row in read(sample / "contigs.tsv")},
    )
    with h5py.File(tmp_path / "f.h5ad") as file:
        assert np.array_equal(file["X"], VECTORS) and file["X"].dtype == np.float32
        obs = {name: values(file["obs"][name]) for name in file["obs"]}
        assert list(file["obs"].attrs["column-order"]) == [
            name for name in file["obs"].attrs["column-order"] if name in obs
        ]
        assert obs["_index"] == IDS
        for name in ("record", "strand", "frame", "label"):
            assert obs[name] == [row[name] for row in predictions]
        for name in ("chunk", "start", "end"):
            assert obs[name] == [int(row[name]) for row in predictions]
        assert obs["score"] == [float(row["score_virus"]) for row in predictions]
        assert obs["call"] == [contigs[row["record"]]["call"] for row in predictions]
        assert np.isnan(obs["probability"]).all(), "not calibrated"
        assert text(file["var"]["_index"]) == ["dna_0", "dna_1", "protein_0"]
        assert values(file["var"]["encoder"]) == ["dna", "dna", "protein"]
        assert json.loads(file["uns"]["virnucpro"].asstr()[()])["classifier"]["name"] == "c"


def test_contigs_are_means_over_frames(sample, tmp_path):
    assert export(sample, tmp_path / "c.h5ad", CONTIG) == (2, 1), "b has no frame"
    contigs = {row["record"]: row for row in read(sample / "contigs.tsv")}
    with h5py.File(tmp_path / "c.h5ad") as file:
        assert values(file["obs"]["_index"]) == ["a", "c"]
        assert np.allclose(file["X"], [[3, 4, 2], [7, 7, 0]])
        assert values(file["obs"]["frames"]) == [3, 1] and values(file["obs"]["length"]) == [600, 70]
        assert values(file["obs"]["score"]) == [float(contigs[name]["mean_score"]) for name in ("a", "c")]
        assert values(file["obs"]["call"]) == [contigs[name]["call"] for name in ("a", "c")]


def test_partial_frames_count_for_contigs(tmp_path):
    given = small(tmp_path, IDS, VECTORS, RECORDS, manifest={"partial": 2})
    own = np.array([[5, 7, 9], [1, 1, 4]], np.float32)
    with h5py.File(tmp_path / "e.h5", "a") as file:
        place = file.create_group("partial")
        place.create_dataset("ids", data=["a_chunk_2F1:2-61", "b_chunk_1R1:1-40"], dtype=h5py.string_dtype())
        place["dna"], place["protein"] = own[:, :2], own[:, 2:]
    folder = given["output"]
    folder.mkdir()
    rows = [{"record": name, "length": length, "mean_score": 0.5, "call": "viral"} for name, length in RECORDS]
    (folder / "contigs.tsv").write_text(contig_table(rows))
    (folder / "summary.json").write_text("{}")
    cells = ["x", "1", "+", "F1", "1", "3", "0.5", "0.5", "others"]
    lines = ["\t".join([name, name.partition("_")[0], *cells[1:]]) for name in IDS]
    (folder / "predictions.tsv").write_text("\n".join(["\t".join(PREDICTION_COLUMNS), *lines, ""]))
    (tmp_path / "e.h5").rename(folder / EMBEDDINGS)
    assert export(folder, tmp_path / "c.h5ad", CONTIG) == (3, 0)
    with h5py.File(tmp_path / "c.h5ad") as file:
        assert values(file["obs"]["_index"]) == ["a", "b", "c"]
        assert (values(file["obs"]["frames"]), values(file["obs"]["partial_frames"])) == ([3, 0, 1], [1, 1, 0])
        assert np.allclose(file["X"], [[14 / 4, 19 / 4, 15 / 4], [1, 1, 4], [7, 7, 0]])


def test_the_marks_of_the_format(sample, tmp_path):
    """anndata's on-disk format: every part names its encoding."""
    export(sample, tmp_path / "f.h5ad")
    kinds = {}
    with h5py.File(tmp_path / "f.h5ad") as file:
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        file.visititems(lambda name, place: kinds.update({name: dict(place.attrs)}))
        assert file["obs"].attrs["_index"] == file["var"].attrs["_index"] == "_index"
    versions = {kind["encoding-type"]: kind["encoding-version"] for kind in kinds.values()}
    assert versions == {
        **{name: "0.2.0" for name in ("array", "string-array", "string", "categorical", "dataframe")},
        "dict": "0.1.0",
    }
    assert {"layers", "obs", "obsm", "obsp", "uns", "var", "varm", "varp", "X"} <= set(kinds)
    assert not kinds["obs/call"]["ordered"]


@pytest.mark.parametrize("level", [FRAME, CONTIG])
def test_anndata_reads_it(sample, tmp_path, level):
    anndata = pytest.importorskip("anndata")
    export(sample, tmp_path / "x.h5ad", level)
    for backed in (None, "r"):
        found = anndata.read_h5ad(tmp_path / "x.h5ad", backed=backed)
        assert found.shape == ((4, 3) if level == FRAME else (2, 3))
        assert str(found.obs["call"].dtype) == "category" and found.var_names[2] == "protein_0"
    found = anndata.read_h5ad(tmp_path / "x.h5ad")
    found.write_h5ad(tmp_path / "again.h5ad")
    assert np.array_equal(anndata.read_h5ad(tmp_path / "again.h5ad").X, found.X)


def many(folder, frames):
    """Frames of contigs with 7 chunks each."""
    ids = [f"r{i // 7}_chunk_{i % 7 + 1}F1" for i in range(frames)]
    vectors = np.random.default_rng(0).normal(size=(frames, 3)).astype(np.float32)
    return made(folder, ids, vectors, [(f"r{i}", 3500) for i in range(-(-frames // 7))]), vectors


def test_contigs_that_go_on_in_the_next_block(tmp_path):
    sample, vectors = many(tmp_path, 4900)
    export(sample, tmp_path / "c.h5ad", CONTIG)
    export(sample, tmp_path / "f.h5ad")
    with h5py.File(tmp_path / "c.h5ad") as contigs, h5py.File(tmp_path / "f.h5ad") as frames:
        assert np.allclose(contigs["X"], vectors.reshape(-1, 7, 3).mean(axis=1), atol=1e-6)
        assert np.array_equal(frames["X"], vectors)
        assert text(frames["obs"]["_index"]) == MergedEmbeddings(sample / EMBEDDINGS).ids(slice(0, 4900))


def test_memory_does_not_grow_with_the_sample(tmp_path):
    peaks = []
    for frames in (7_000, 70_000):
        sample, _ = many(tmp_path / str(frames), frames)
        tracemalloc.start()
        export(sample, tmp_path / f"{frames}.h5ad")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks


def test_a_sample_without_frames(tmp_path):
    sample = made(tmp_path, [], np.zeros((0, 3), np.float32), [("a", 40)])
    for level, rows in ((FRAME, (0, 0)), (CONTIG, (0, 1))):
        assert export(sample, tmp_path / "x.h5ad", level) == rows
        with h5py.File(tmp_path / "x.h5ad") as file:
            assert file["X"].shape == (0, 3)


def test_tables_of_other_vectors_are_refused(sample, tmp_path):
    whole = (sample / "predictions.tsv").read_text()
    for other in (whole.replace("a_chunk_1R2", "a_chunk_1R1"), whole + whole.splitlines()[-1] + "\n"):
        (sample / "predictions.tsv").write_text(other)
        with pytest.raises(StorageError, match="aren't of the same frames"):
            export(sample, tmp_path / "x.h5ad")
    assert not (tmp_path / "x.h5ad").exists()


def test_a_sample_without_vectors(sample, tmp_path):
    (sample / EMBEDDINGS).unlink()
    with pytest.raises(StorageError, match="keep: none"):
        export(sample, tmp_path / "x.h5ad")


def test_the_command(sample, tmp_path):
    words = ["export", str(sample), "--anndata", str(tmp_path / "x.h5ad"), "--level", "contig"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0 and "2 contigs; 1 without a frame left out" in done.output
    assert "is there already" in str(CliRunner().invoke(cli, words).exception)
    assert CliRunner().invoke(cli, [*words, "--force"]).exit_code == 0
