"""embeddings.h5 refers to rows of the shards' files: read from anywhere, and never where they aren't the ones meant."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.unit.test_embeddings import IDS, parts, vectors  # noqa: F401
from virnucpro import installation
from virnucpro.classifier.dataset import Dataset, Sample
from virnucpro.embeddings.merge import merge
from virnucpro.embeddings.store import (
    MergedEmbeddings,
    Source,
    create_merged,
    open_shard,
    relative_path,
    runs,
    write_shard,
)
from virnucpro.errors import ConfigError, StorageError
from virnucpro.provenance import read_provenance
from virnucpro.sequences.shards import FRAMES

DIGESTS = np.arange(16 * len(IDS), dtype=np.uint8).reshape(-1, 16)


def run_merge(folder: Path, first: int = 0, frames: int = len(IDS), **options) -> MergedEmbeddings:
    """Of a sample that has so many frames of the shard, from row ``first`` on."""
    place = {"first": {"frames": first, "partial": 0}, "frames": frames, "partial": 0}
    for path, key, value in (
        (folder / "shards" / "manifest.json", "samples", {"s": place}),
        (folder / "shards" / "samples" / "s" / "manifest.json", "frames", frames),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    files = ([folder / role / "abc.h5"] for role in ("dna", "protein"))
    output = folder / "sample" / "embeddings.h5"
    merge(folder / "shards", "s", *files, folder / "dna.st", folder / "protein.st", output, **options)
    return MergedEmbeddings(output)


def rewrite(path: Path, rows: np.ndarray | None = None, **given) -> None:
    """Make a shard's file anew, with the same ids and attributes."""
    with open_shard(path) as file:
        ids, attributes = file["ids"].asstr()[:].tolist(), {"weights_sha256": file.attrs["weights_sha256"]}
        old = file["embeddings"][:]
    write_shard(path, ids, old if rows is None else rows, attributes, **given)


def whole(merged: MergedEmbeddings) -> np.ndarray:
    return merged.features(slice(0, merged.count))


@pytest.fixture
def folder(parts):  # noqa: F811
    for role in ("dna", "protein"):
        rewrite(parts / role / "abc.h5", digests=DIGESTS)
    return parts


def test_nothing_is_copied_but_ids(folder, monkeypatch):
    read: list[str] = []
    with monkeypatch.context() as patch:
        get = h5py.Dataset.__getitem__
        patch.setattr(h5py.Dataset, "__getitem__", lambda data, *rows: read.append(data.name) or get(data, *rows))
        merged = run_merge(folder)
    assert set(read) <= {"/ids", "/provenance"}
    assert merged.sources["dna"] == [Source("../dna/abc.h5", 0, 5, 5, merged.sources["dna"][0].id)]
    with open_shard(folder / "dna" / "abc.h5") as shard, h5py.File(merged.path) as file:
        assert re.fullmatch(r"[0-9a-f]{32}", shard.attrs["id"]) and shard.attrs["id"] == merged.sources["dna"][0].id
        assert file["dna"].is_virtual and np.isnan(file["dna"].fillvalue)
        assert [file[name].shape for name in ("dna_digests", "protein_digests")] == [(5, 16)] * 2
        assert np.array_equal(file["protein_digests"], DIGESTS) and not file["ids"].is_virtual
    assert merged.provenance["keys"] == {"dna": "dna", "protein": "protein"}
    assert merged.provenance["vectors"] == "float32"


def test_read_from_any_folder_and_after_a_move(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    run_merge(folder)
    shutil.move(folder, elsewhere / "moved")
    script = (
        "import h5py, sys; from virnucpro.embeddings.store import MergedEmbeddings as M\n"
        "path = sys.argv[1]; m = M(path); x = m.features(slice(0, 5)); f = h5py.File(path)\n"
        "assert (x[:, :16] == f['dna'][:]).all() and (x[:, 16:] == f['protein'][:]).all(); print(x.sum())"
    )
    link = elsewhere / "link.h5"
    link.symlink_to(elsewhere / "moved" / "sample" / "embeddings.h5")
    for cwd, path in (
        (elsewhere, "moved/sample/embeddings.h5"),
        (elsewhere / "moved" / "sample", "embeddings.h5"),
        ("/", str(elsewhere / "moved" / "sample" / "embeddings.h5")),
        (elsewhere, "link.h5"),
    ):
        said = subprocess.run([sys.executable, "-c", script, path], cwd=cwd, capture_output=True, text=True)
        assert said.stdout.strip() == str(np.hstack([vectors(16), vectors(32)]).sum()), (path, said.stderr)


def test_where_the_sample_s_folder_is_a_link(folder):
    (folder / "disk" / "deep").mkdir(parents=True)
    (folder / "sample").symlink_to(folder / "disk" / "deep")
    assert np.array_equal(whole(run_merge(folder))[:, :16], vectors(16))
    with h5py.File(folder / "sample" / "embeddings.h5") as file:
        assert np.array_equal(file["dna"], vectors(16))


def test_a_link_on_the_way_stays_relative(tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "out" / "s").mkdir(parents=True)
    (tmp_path / "out" / "embeddings").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "far" / "away" / "x.h5").touch()
    assert relative_path(tmp_path / "out" / "embeddings" / "x.h5", tmp_path / "out" / "s") == "../embeddings/x.h5"


def damage(path: Path, how: str) -> str:
    """Do it to a shard's file; returns what the error says."""
    if how == "missing":
        path.unlink()
        return "no such file, but .*embeddings.h5 refers to vectors in it. Put it back, or delete "
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-500])
        return "not a readable HDF5 file .* Delete it and .*embeddings.h5, which refers to it, and run again"
    if how == "unfinished":
        with h5py.File(path, "r+") as file:
            file.attrs["complete"] = False
        return "was not written to its end. Delete it and .*embeddings.h5, which refers to it"
    if how == "made anew":
        rewrite(path)
    else:
        with h5py.File(path, "r+") as file:
            for name in ("ids", "embeddings", "digests"):
                rows = file[name][:-1]
                del file[name]
                file[name] = rows
            file.attrs["count"] = len(rows)
    return "isn't the file that .*embeddings.h5 refers to, but was made anew since. Delete .* and run again"


HOW = ["missing", "cut", "unfinished", "made anew", "fewer rows"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("role", ["dna", "protein"])
def test_a_shard_that_is_not_the_one_meant_is_named(folder, how, role):
    before = run_merge(folder)
    says = f"{role}/abc.h5: {damage(folder / role / 'abc.h5', how)}"
    with pytest.raises(StorageError, match=says):
        MergedEmbeddings(before.path)
    for read in (before.read, before.features):  # opened when all was well
        with pytest.raises(StorageError, match=says):
            read(slice(0, 2))
    with pytest.raises(StorageError, match=says):
        Dataset([Sample("s", before.path, True, {})])
    assert read_provenance(before.path)["keys"], "what was done is known all the same"


def test_a_file_of_that_name_in_the_current_folder_is_not_taken(folder, tmp_path, monkeypatch):
    """HDF5 itself takes it."""
    merged = run_merge(folder)
    (tmp_path / "other" / "cwd").mkdir(parents=True)
    shutil.move(folder / "dna", tmp_path / "other" / "dna")
    monkeypatch.chdir(tmp_path / "other" / "cwd")
    with h5py.File(merged.path) as file:
        assert np.array_equal(file["dna"], vectors(16))
    with pytest.raises(StorageError, match="no such file"):
        MergedEmbeddings(merged.path)


def test_what_hdf5_reads_of_a_missing_shard_is_no_number(folder):
    merged = run_merge(folder)
    (folder / "dna" / "abc.h5").unlink()
    with h5py.File(merged.path) as file:
        assert np.isnan(file["dna"][:]).all()


@pytest.mark.parametrize("how", [None, *HOW])
def test_the_documented_snippets_notice_it_too(folder, how):
    section = (installation.root() / "docs" / "outputs.md").read_text().split("\n## embeddings.h5\n")[1]
    snippets = [text for text in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "embeddings.h5" in text]
    assert len(snippets) == 2
    merged = run_merge(folder)
    if how:
        damage(folder / "protein" / "abc.h5", how)
    for snippet in snippets:
        code = snippet.replace("results/gut/embeddings.h5", str(merged.path))
        assert code != snippet
        names: dict = {}
        if how:
            with pytest.raises((StorageError, OSError, ValueError), match=r"abc\.h5|truncated file"):
                exec(code, names)
        else:
            exec(code, names)
            assert np.array_equal(names["protein"], vectors(32)), "all rows, though they are less than 1000"


def test_rows_of_a_shard_that_samples_share(folder):
    for first, frames in ((0, 2), (2, 3)):
        rows = slice(first, first + frames)
        merged = run_merge(folder, first, frames)
        ids, features = merged.read(slice(0, frames))
        assert merged.count == frames and ids == IDS[rows]
        assert np.array_equal(features, np.hstack([vectors(16), vectors(32)])[rows])
        with h5py.File(merged.path) as file:
            assert np.array_equal(file["protein"], features[:, 16:])
            assert np.array_equal(file["dna_digests"], DIGESTS[rows])
        assert [shard["frames"] for shard in merged.provenance["shards"]] == [frames] * 2


def test_a_sample_s_statistics_are_its_share(folder):
    for role in ("dna", "protein"):
        path = folder / role / "abc.h5"
        with h5py.File(path, "r+") as file:
            file.attrs.update({"tokens": 500, "seconds": 10.0, "computed": 5, "max_rss": 7.0})
    shard = run_merge(folder, 1, 2).provenance["shards"][0]
    names = ("frames", "tokens", "seconds", "computed", "max_rss", "shard_frames")
    assert [shard[name] for name in names] == [2, 200, 4.0, 2, 7.0, 5]


def test_rows_that_are_not_there_are_refused(folder):
    with pytest.raises(StorageError, match="its shards don't hold all frames of sample 's'"):
        run_merge(folder, 3, 3)


def test_a_copy_needs_no_shards(folder):
    merged = run_merge(folder, keep="merged")
    for role in ("dna", "protein"):
        (folder / role / "abc.h5").unlink()
    assert np.array_equal(whole(MergedEmbeddings(merged.path)), np.hstack([vectors(16), vectors(32)]))
    with h5py.File(merged.path) as file:
        names = ("ids", "dna", "protein", "dna_digests", "protein_digests")
        assert all(file[name].chunks is None and not file[name].is_virtual for name in names), "in one piece"
        assert np.array_equal(file["dna_digests"], DIGESTS)


def test_a_copy_of_values_that_are_not_finite_is_refused(folder):
    with h5py.File(folder / "protein" / "abc.h5", "r+") as file:
        file["embeddings"][3, 1] = np.inf
    with pytest.raises(StorageError, match=r"protein/abc\.h5: holds values that are not finite"):
        run_merge(folder, keep="merged")


def test_a_shard_of_version_0_1_is_known_by_its_rows_alone(folder):
    for role in ("dna", "protein"):
        rewrite(folder / role / "abc.h5")
        with h5py.File(folder / role / "abc.h5", "r+") as file:
            del file.attrs["id"]
    merged = run_merge(folder)
    assert merged.sources["dna"][0].id is None
    with h5py.File(merged.path) as file:
        assert "dna_digests" not in file
    rewrite(folder / "dna" / "abc.h5", rows=vectors(16, seed=1))
    assert np.array_equal(whole(MergedEmbeddings(merged.path))[:, :16], vectors(16, seed=1))
    damage(folder / "dna" / "abc.h5", "missing")
    with pytest.raises(StorageError, match="no such file"):
        MergedEmbeddings(merged.path)


def test_many_shards_read_in_any_windows_by_several_threads(tmp_path):
    """As one array would be."""
    rng, counts = np.random.default_rng(0), [7, 1, 30, 2, 11, 5] * 5
    rows = {"dna": rng.normal(size=(sum(counts), 3)), "protein": rng.normal(size=(sum(counts), 4))}
    ids, sources, at = [f"f{i}" for i in range(sum(counts))], {"dna": [], "protein": []}, 0
    for number, count in enumerate(counts):
        for role, own in rows.items():
            path = tmp_path / f"{role}{number}.h5"
            write_shard(path, ids[at : at + count], own[at : at + count].astype(np.float32), {})
            with open_shard(path) as file:
                sources[role].append(Source(path.name, 0, count, count, file.attrs["id"]))
        at += count
    with create_merged(tmp_path / "e.h5", at, 3, 4, {}, sources={FRAMES: sources}) as file:
        file["ids"][:] = ids
    merged, expected = MergedEmbeddings(tmp_path / "e.h5"), np.hstack([*rows.values()]).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        for size in (1, 8, 13, 1000):
            found = list(pool.map(merged.read, merged.windows(size)))
            assert [name for names, _ in found for name in names] == ids
            assert np.array_equal(np.concatenate([features for _, features in found]), expected)


def test_a_sample_without_frames(folder):
    merged = run_merge(folder, frames=0)
    assert merged.count == 0 and merged.windows() == [] and whole(merged).shape == (0, 48)


def test_float16_is_read_as_float32_and_takes_half_the_space(folder):
    for role in ("dna", "protein"):
        rewrite(folder / role / "abc.h5", vectors="float16", digests=DIGESTS)
    expected = np.hstack([vectors(16), vectors(32)]).astype(np.float16).astype(np.float32)
    for keep in ("shards", "merged"):
        merged = run_merge(folder, keep=keep)
        assert whole(merged).dtype == np.float32 and np.array_equal(whole(merged), expected)
        with h5py.File(merged.path) as file:
            assert file["dna"].dtype == file["protein"].dtype == np.float16
        assert merged.provenance["vectors"] == "float16"


def test_two_types_of_vectors_are_not_mixed(folder):
    rewrite(folder / "protein" / "abc.h5", vectors="float16", digests=DIGESTS)
    with pytest.raises(StorageError, match=r"stored as float16, but .*: float32"):
        run_merge(folder)


def test_values_that_cannot_be_stored_are_refused_by_name(tmp_path):
    rows = vectors(4)
    rows[2, 1] = 70_000
    with pytest.raises(
        ConfigError, match=r"can't hold values of up to 70,000 .* of r_chunk_3F1\. Use vectors: float32"
    ):
        write_shard(tmp_path / "x.h5", IDS, rows, {}, vectors="float16")
    write_shard(tmp_path / "x.h5", IDS, rows, {})
    rows[1, 0] = np.nan
    for kind in ("float32", "float16"):
        with pytest.raises(StorageError, match=r"y\.h5: refused values that are not finite, of r_chunk_2F1"):
            write_shard(tmp_path / "y.h5", IDS, rows.clip(-9, 9), {}, vectors=kind)
    assert not (tmp_path / "y.h5").exists()


@pytest.mark.parametrize(("kind", "limit"), [("float32", 13_700), ("float16", 7_000)])
def test_bytes_a_frame(tmp_path, kind, limit):
    """All files together, for DNABERT-S and ESM-2 3B."""
    count, rng = 20_000, np.random.default_rng(0)
    ids = [f"NODE_{row // 600}_length_300000_cov_12.345678_chunk_{row % 600 + 1}F{row % 3 + 1}" for row in range(count)]
    sources = {}
    for role, width in (("dna", 768), ("protein", 2560)):
        rows, path = rng.normal(size=(count, width)).astype(np.float32), tmp_path / f"{role}.h5"
        write_shard(path, ids, rows, {}, rng.integers(0, 256, (count, 16), np.uint8), kind)
        with open_shard(path) as file:
            sources[role] = [Source(path.name, 0, count, count, file.attrs["id"])]
    with create_merged(
        tmp_path / "e.h5", count, 768, 2560, {}, sources={FRAMES: sources}, digests=True, vectors=kind
    ) as merged:
        merged["ids"][:] = ids
    size = sum(path.stat().st_size for path in tmp_path.glob("*.h5"))
    print(f"{kind}: {size / count:,.0f} bytes a frame")
    assert size / count <= limit


def test_rows_without_a_gap():
    assert runs(np.array([], int)) == []
    assert runs(np.array([3, 4, 5, 9, 11, 12])) == [slice(0, 3), slice(3, 4), slice(4, 6)]


def test_provenance_of_an_empty_reference_is_readable(folder):
    merged = run_merge(folder)
    assert json.loads(json.dumps(read_provenance(merged.path)))["sources"]["dna"][0]["count"] == 5
    assert os.path.getsize(merged.path) < 30_000
