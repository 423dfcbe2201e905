"""The reference that calibrating fits: of labelled samples' vectors, its limit from groups held out."""

import json

import numpy as np
import pytest

from tests.unit.test_calibrate import classifier, small, tensors  # noqa: F401
from virnucpro.classifier.calibrate import calibrate_from_table, contig_numbers, read_development
from virnucpro.classifier.calibrating import group_folds
from virnucpro.classifier.labels import labelled_samples
from virnucpro.classifier.reference import Moments, Reference
from virnucpro.classifier.referencing import reference_of_samples
from virnucpro.classifier.spec import read_all
from virnucpro.embeddings.store import create_merged
from virnucpro.errors import InputError, StorageError
from virnucpro.result_tables import CHUNK_COLUMNS, PARTIAL, read_rows

DNA, PROTEIN = 4, 2


def vectors(folder, seed, far=(), width=DNA, alike=False):
    """embeddings.h5 of the chunks in a sample's table: two frames each, or a partial one; viral contigs' are around 2."""
    rng = np.random.default_rng(seed)
    ids, partial, rows = [], [], {"frames": [], PARTIAL: []}
    counts = {}
    for record, kind in read_rows(folder / "chunks.tsv", CHUNK_COLUMNS, ("record", "kind")):
        number = counts[record] = counts.get(record, 0) + 1
        if not kind:
            continue
        center = 50 if record in far else 2 if record[0] == "v" else -2
        names = (
            [f"{record}_chunk_{number}R1:5-90"]
            if kind == PARTIAL
            else [f"{record}_chunk_{number}{f}" for f in ("F1", "R2")]
        )
        (partial if kind == PARTIAL else ids).extend(names)
        for _ in names:
            rows[PARTIAL if kind == PARTIAL else "frames"].append(
                np.ones(width + PROTEIN) if alike else rng.normal(center, 1, width + PROTEIN)
            )
    with create_merged(folder / "embeddings.h5", len(ids), width, PROTEIN, {}, partial=len(partial)) as file:
        for place, names, values in ((file, ids, rows["frames"]), (file[PARTIAL], partial, rows[PARTIAL])):
            values = np.array(values, np.float32).reshape(len(names), -1)
            place["ids"][:], place["dna"][:], place["protein"][:] = names, values[:, :width], values[:, width:]
    return folder / "embeddings.h5"


@pytest.fixture
def given(tmp_path):
    table, folders = small(tmp_path)
    return table, folders, {name: vectors(folder, seed) for seed, (name, folder) in enumerate(folders.items())}


def test_a_reference_is_written_with_its_limit(tmp_path, given, classifier):  # noqa: F811
    table, folders, embeddings = given
    out = tmp_path / "out" / "classifier.safetensors"
    spec = calibrate_from_table(table, folders, classifier, out, embeddings=embeddings)
    _, reference, read = read_all(out)
    assert read == spec and reference.means.shape == (4, 6)
    frames = sum(len(each["ids"]) for each in map(_open, embeddings.values()))
    assert read.reference["rows"] == frames
    assert sorted(read.reference["classes"]) == ["n0", "n1", "v0", "v1"]
    whole = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert whole["reference"] == read.reference and 0.7 < read.reference["limit"] < 2.5
    near = np.random.default_rng(9).normal(2, 1, (400, 6)).astype(np.float32)
    assert np.mean(reference.distance(near)) < reference.limit < reference.distance(near - 30).min()
    assert len(reference.means) == len(set(read.reference["classes"]))


def _open(path):
    from virnucpro.embeddings.store import MergedEmbeddings

    names = [name for kind in ("frames", PARTIAL) for name in MergedEmbeddings(path, kind).ids(slice(None))]
    return {"ids": names}


def test_without_vectors_the_former_reference_stays_and_a_new_one_replaces_it(tmp_path, given, classifier):  # noqa: F811
    table, folders, embeddings = given
    calibrate_from_table(table, folders, classifier, tmp_path / "1" / "c", embeddings=embeddings)
    calibrate_from_table(table, folders, tmp_path / "1" / "c", tmp_path / "2" / "c")
    assert (tmp_path / "1" / "c").read_bytes() == (tmp_path / "2" / "c").read_bytes()
    other = {name: vectors(folder, 7 + seed) for seed, (name, folder) in enumerate(folders.items())}
    calibrate_from_table(table, folders, tmp_path / "1" / "c", tmp_path / "3" / "c", embeddings=other)
    before, after = tensors(tmp_path / "1" / "c"), tensors(tmp_path / "3" / "c")
    assert before.keys() == after.keys()
    assert {name for name in before if not np.array_equal(before[name], after[name])} >= {"reference_means"}
    assert all(np.array_equal(before[name], after[name]) for name in before if not name.startswith("reference"))


def fitted(folders, table, embeddings, only=None, width=DNA + PROTEIN):
    samples = labelled_samples(table, folders, headers=True)
    data = read_development(samples, only)
    return reference_of_samples(embeddings, contig_numbers(samples, only), data, width), data


def test_the_limit_is_of_groups_that_the_reference_did_not_see(given, monkeypatch):
    """A group of its own kind is far from the others, and so is the limit; a reference that saw it would say it is near."""
    table, folders, _ = given
    far = {f"v1{digit}" for digit in range(10)} | {"v1"}
    embeddings = {name: vectors(folder, 3, far) for name, folder in folders.items()}
    found, data = fitted(folders, table, embeddings)
    assert found.reference.limit > 5
    assert len(np.unique(group_folds(data))) == 5


def test_classes_are_viral_and_non_viral_without_categories(given):
    table, folders, embeddings = given
    text = table.read_text().splitlines()
    table.write_text("\n".join(line.rpartition("\t")[0] for line in text) + "\n")
    found, _ = fitted(folders, table, embeddings)
    assert found.classes == ["viral", "non-viral"] and found.reference.means.shape[0] == 2


def test_only_the_test_part_is_looked_at(given):
    table, folders, embeddings = given
    samples = labelled_samples(table, folders, headers=True)
    kept = {key for key in contig_numbers(samples) if key[1] not in ("v7", "n7")}
    some, every = fitted(folders, table, embeddings, kept)[0], fitted(folders, table, embeddings)[0]
    dropped = [name for path in embeddings.values() for name in _open(path)["ids"] if name.startswith(("v7_", "n7_"))]
    assert dropped and every.rows - some.rows == len(dropped)


def test_wrong_widths_and_equal_vectors_are_refused(given):
    table, folders, embeddings = given
    with pytest.raises(StorageError, match="has 6 columns, the classifier takes 9"):
        fitted(folders, table, embeddings, width=9)
    same = {name: vectors(folder, 0, alike=True) for name, folder in folders.items()}
    with pytest.raises(InputError, match="all alike"):
        fitted(folders, table, same)
    with pytest.raises(InputError, match="there are none"):
        Moments(2, 3).reference()


def test_a_class_without_frames_is_left_out():
    moments = Moments(3, 2)
    moments.add(np.random.default_rng(0).normal(0, 1, (50, 2)).astype(np.float32), np.repeat([0, 2], 25))
    reference = moments.reference()
    assert isinstance(reference, Reference) and reference.means.shape == (2, 2)
