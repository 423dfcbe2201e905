"""Small samples that are split and embedded together: what is computed after which change, and how vectors are kept."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import h5py
import psutil
import pytest

from tests.workflow.conftest import Models, coding, fasta, made_once
from tests.workflow.project import NONE, TABLES, records
from tests.workflow.runner import Run, command, environment, snakemake
from tests.workflow.test_command import run as run_command
from tests.workflow.test_command import words
from virnucpro.sequences.split import read_manifest, read_sample, read_shard

SAMPLES = {name: {f"r{seed}": coding(seed, 700)} for seed, name in enumerate("abcd")}
SAMPLES["e"] = SAMPLES["a"]
SUFFIXES = {"dnabert_s": "fna", "esm2": "faa"}


class Pool:
    """A working directory with several small samples, which are one unit."""

    def __init__(self, folder: Path, models: Models, samples: dict[str, dict[str, str]] | None = None):
        self.folder, self.models, self.results = folder, models, folder / "results"
        for name, content in (samples or {}).items():
            self.write(name, content)

    def write(self, name: str, content: dict[str, str]) -> None:
        time.sleep(0.01)
        (self.folder / f"{name}.fa").write_text(fasta(content))
        self.sheet()

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.fa").unlink()
        self.sheet()

    def sheet(self) -> None:
        rows = (f"{path.stem}\t{path.name}\n" for path in sorted(self.folder.glob("*.fa")))
        (self.folder / "samples.tsv").write_text("sample\tfasta\n" + "".join(rows))

    def config(self, *models: str, **changes: object) -> dict:
        return self.models.config(*models) | {"samples": "samples.tsv", "shard_frames": 1000} | changes

    def attempt(self, *models: str, extra: tuple[str, ...] = (), **changes: object) -> Run:
        return snakemake(self.folder, *extra, config=self.config(*models, **changes))

    def run(self, *models: str, extra: tuple[str, ...] = (), **changes: object) -> Run:
        return self.attempt(*models, extra=extra, **changes).ok()

    def vectors(self) -> dict[Path, int]:
        """Each shard's file of vectors, and how many its job computed."""
        found = {}
        for path in self.results.glob("embeddings/*/*/*.h5"):
            with h5py.File(path) as file:
                found[path] = int(file.attrs["computed"])
        return found

    def frames(self, unit: str, *samples: str) -> dict[str, set[bytes]]:
        """The samples' sequences in each encoder's letters."""
        shards = self.results / unit / "shards"
        found: dict[str, set[bytes]] = {}
        for encoder, suffix in SUFFIXES.items():
            found[encoder] = set()
            for piece in (piece for sample in samples for piece in read_sample(shards, sample)["pieces"]["frames"]):
                _, letters = read_shard(shards / f"{piece['sha']}.{suffix}")
                found[encoder].update(letters[piece["first"] : piece["first"] + piece["frames"]])
        return found

    def tables(self, *samples: str) -> dict[str, bytes]:
        return {
            f"{sample}/{name}": (self.results / sample / name).read_bytes() for sample in samples for name in TABLES
        }


def computed(run: Run) -> dict[str, int]:
    """Encoder → sequences that were embedded."""
    found = dict.fromkeys(SUFFIXES, 0)
    for count, encoder in re.findall(r"computed (\d+) embeddings of (\w+)", run.text):
        found[encoder] += int(count)
    return found


def counts(frames: dict[str, set[bytes]], without: dict[str, set[bytes]] | None = None) -> dict[str, int]:
    return {encoder: len(found - (without or {}).get(encoder, set())) for encoder, found in frames.items()}


def jobs(run: Run) -> list[str]:
    """The rule of each job, `all` apart."""
    rules = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", run.text, re.MULTILINE)
    return sorted(rule for rule in rules if rule != "all")


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tiny) -> Pool:
    """An undisturbed run of five samples, the last of which has the sequences of the first."""

    def make(folder: Path) -> None:
        pool = Pool(folder, tiny, SAMPLES)
        first = pool.run()
        assert jobs(first).count("split") == 1 and first.computed == {"embed_dnabert_s": 1, "embed_esm2": 1}

    return Pool(made_once(tmp_path_factory, "pooled", make), tiny)


@pytest.fixture
def pool(reference, tmp_path) -> Pool:
    """The same in a folder of its own."""
    shutil.copytree(reference.folder, tmp_path, dirs_exist_ok=True)
    return Pool(tmp_path, reference.models)


def test_the_same_sequences_in_two_samples_are_computed_once(reference):
    manifest = read_manifest(reference.results / "pooled" / "a" / "shards")
    assert list(manifest["samples"]) == sorted(SAMPLES) and len(manifest["shards"]) == 1
    expected = counts(reference.frames("pooled/a", *SAMPLES))
    assert {path.parts[-3]: number for path, number in reference.vectors().items()} == expected
    assert all(number < manifest["frames"] for number in expected.values())
    assert list(reference.tables("a").values()) == list(reference.tables("e").values())


@pytest.mark.soak
def test_a_sample_that_changes_comes_or_goes(pool):
    """Only new sequences are computed, also where the unit has another name then."""
    tables, before = pool.tables("a", "b", "d", "e"), pool.vectors()
    known = pool.frames("pooled/a", *SAMPLES)
    pool.write("c", SAMPLES["c"] | {"new": coding(50, 700)})
    changed = pool.run()
    expected = counts(pool.frames("pooled/a", "c"), known)
    assert computed(changed) == expected and all(expected.values())
    assert {path.parts[-3]: number for path, number in pool.vectors().items() if path not in before} == expected
    assert pool.tables("a", "b", "d", "e") == tables
    assert b"new\t" in pool.tables("c")["c/contigs.tsv"]
    assert pool.run().nothing_to_do

    known = pool.frames("pooled/a", *SAMPLES)
    pool.write("Z", {"first": coding(51, 700)})
    added = pool.run()
    assert computed(added) == counts(pool.frames("pooled/Z", "Z"), known)
    assert pool.tables("a", "b", "d", "e") == tables
    assert pool.run().nothing_to_do

    pool.remove("Z")
    assert pool.run().computed == NONE
    pool.remove("a")
    assert pool.run().computed == NONE
    assert pool.tables("b", "d", "e") == {path: text for path, text in tables.items() if path[0] != "a"}
    assert pool.run().nothing_to_do


@pytest.mark.soak
def test_an_embedding_job_that_is_killed_and_the_same_command_again(reference, tmp_path, tiny):
    tiny.prepare(tmp_path / "results")
    pool = Pool(tmp_path, tiny, SAMPLES)
    with open(tmp_path / "said", "w") as said:
        started = subprocess.Popen(
            command(config=pool.config()), cwd=tmp_path, stdout=said, stderr=said, env=environment()
        )
        killed: list[psutil.Process] = []
        while not killed:
            assert started.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.02)
            for process in psutil.Process(started.pid).children(recursive=True):
                try:
                    # Python, and not the shell that started it.
                    if process.cmdline()[-1].endswith(".embed.py") and "python" in process.name():
                        process.kill()
                        killed.append(process)
                except (psutil.Error, IndexError):
                    continue
        assert started.wait(120) == 1
    assert len(pool.vectors()) < 2 and not list(pool.results.glob("*/contigs.tsv"))
    kept = len(pool.vectors())
    again = pool.run()
    assert sum(again.computed.values()) == 2 - kept
    assert not list(pool.results.rglob("*.tmp"))
    assert pool.tables(*SAMPLES) == reference.tables(*SAMPLES)


@pytest.mark.soak
def test_vectors_kept_with_each_sample(pool):
    """keep: merged. Those of the shards go, whichever run made them."""
    tables = pool.tables(*SAMPLES)
    switched = pool.run(keep="merged")
    assert switched.computed == NONE and pool.tables(*SAMPLES) == tables
    assert not pool.vectors()
    for sample in SAMPLES:
        with h5py.File(pool.results / sample / "embeddings.h5") as file:
            assert not file["dna"].is_virtual and not file["protein"].is_virtual and len(file["dna"]) > 0
    assert pool.run(keep="merged").nothing_to_do
    threshold = pool.run(keep="merged", threshold=0.3)
    assert threshold.computed == NONE and set(jobs(threshold)) == {"predict", "run_report"}

    known = pool.frames("pooled/a", *SAMPLES)
    pool.write("c", {"new": coding(50, 700)})
    changed = pool.run(keep="merged", threshold=0.3)
    assert computed(changed) == counts(pool.frames("pooled/a", "c"), known)
    assert not pool.vectors()
    assert pool.run(keep="merged", threshold=0.3).nothing_to_do


@pytest.mark.soak
def test_vectors_that_are_not_kept(reference, tmp_path, tiny):
    tiny.prepare(tmp_path / "results")
    pool = Pool(tmp_path, tiny, SAMPLES)
    assert sum(pool.run(keep="none").computed.values()) == 2
    assert not list(pool.results.rglob("*.h5"))
    assert pool.tables(*SAMPLES) == reference.tables(*SAMPLES)
    assert pool.run(keep="none").nothing_to_do
    other = pool.run("esm_a", "classifier_b", keep="none")
    assert sum(other.computed.values()) == 2 and not list(pool.results.rglob("*.h5"))
    assert pool.tables(*SAMPLES) != reference.tables(*SAMPLES)


@pytest.mark.soak
def test_vectors_of_half_the_size(pool):
    tables, whole = pool.tables(*SAMPLES), counts(pool.frames("pooled/a", *SAMPLES))
    assert computed(pool.run(vectors="float16")) == whole
    with h5py.File(pool.results / "b" / "embeddings.h5") as file:
        assert file["dna"].dtype == file["protein"].dtype == "f2"
    half = [path for path in pool.vectors() if path.parent.name.endswith("-float16")]
    assert len(half) == 2 and len(pool.vectors()) == 4
    assert pool.run().computed == NONE, "the others are there"
    assert pool.tables(*SAMPLES) == tables


def test_an_output_folder_that_was_moved(pool, tmp_path, tiny):
    """References lead from a sample's file to the shards' wherever the folder lies."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    pool.results.rename(tmp_path / "far" / "away" / "moved")
    changes = {"output_dir": "far/away/moved", "threshold": 0.99}
    pool.results = tmp_path / "far" / "away" / "moved"
    before = pool.tables(*SAMPLES)
    told = pool.run(extra=("--forcerun", "run_report"), **changes)
    assert "--forcerun merge predict" in told.text and pool.tables(*SAMPLES) == before, "Snakemake has no records of it"
    moved = pool.run(extra=("--forcerun", "predict"), **changes)
    assert (
        set(jobs(moved)) == {"predict", "run_report"}
        and "add: --forcerun" not in moved.text
        and pool.tables(*SAMPLES) != before
    )
    again = pool.run(**changes)
    assert again.nothing_to_do and "--forcerun" not in again.text


@pytest.mark.soak
def test_an_output_folder_of_the_command_that_was_moved(tmp_path, tiny):
    """Snakemake's records in it go by paths, so that the command tells it what to make again."""
    for name in "ab":
        (tmp_path / f"{name}.fa").write_text(fasta(SAMPLES[name]))
    status, said = run_command(tmp_path, words(tiny, "a.fa", "b.fa", "--output=out", shard_frames=1000))
    assert status == 0, said
    (tmp_path / "far").mkdir()
    (tmp_path / "out").rename(tmp_path / "far" / "moved")
    again = words(tiny, "a.fa", "b.fa", "--output=far/moved", "--verbose", shard_frames=1000, threshold=0.99)
    status, said = run_command(tmp_path, again)
    assert status == 0, said
    assert set(jobs(Run(status, said))) == {"predict", "run_report"}, said
    assert json.loads((tmp_path / "far" / "moved" / "a" / "summary.json").read_text())["threshold"] == 0.99


def test_a_shards_vectors_that_were_deleted(pool):
    gone = next(path for path in pool.vectors() if path.parts[-3] == "esm2")
    gone.unlink()
    refused = pool.attempt(extra=("--keep-going",), threshold=0.3)
    name = str(gone.relative_to(pool.folder))
    assert refused.status == 1 and f"{name}: no such file" in refused.text and "Traceback" not in refused.text
    assert "results/b/embeddings.h5 refers to vectors in it" in refused.text
    for sample in SAMPLES:
        (pool.results / sample / "embeddings.h5").unlink()
    assert pool.run(threshold=0.3).computed == {"embed_dnabert_s": 0, "embed_esm2": 1}


def test_a_sample_that_is_refused_leaves_the_others(pool):
    """Its `merge` says why, and so does the run at its end."""
    tables = pool.tables(*SAMPLES)
    (pool.folder / "bad.fa").write_text(">p1\nMKVLATEFILPQEFILPQ\n")
    pool.sheet()
    refused = pool.attempt(extra=("--keep-going",))
    assert refused.status == 1 and refused.computed == NONE and "Traceback" not in refused.text
    (said,) = re.findall(r"^Sample bad was refused: (.*)$", refused.text, re.MULTILINE)
    assert "bad.fa" in said and "record 'p1'" in said and "protein" in said
    assert said in (pool.results / "logs" / "merge" / "bad.log").read_text()
    assert pool.tables(*SAMPLES) == tables
    assert not (pool.results / "bad" / "contigs.tsv").exists()
    pool.write("bad", {"good": coding(60, 700)})
    assert all(pool.run().computed.values())
    assert b"good\t" in pool.tables("bad")["bad/contigs.tsv"]


def test_one_sample_of_many_runs_no_other_units_jobs(tmp_path, tiny):
    tiny.prepare(tmp_path / "results")
    pool = Pool(tmp_path, tiny, {"large": records()} | {name: SAMPLES[name] for name in "abc"})
    small = pool.run(extra=("results/b/contigs.tsv",), shard_frames=24)
    assert re.findall(r"output: results/(\S+)/shards\n", small.text) == ["pooled/a"]
    assert jobs(small).count("merge") == jobs(small).count("predict") == 1
    assert {path.name for path in pool.results.iterdir()} == {"b", "embeddings", "logs", "models", "pooled"}
    large = pool.run(extra=("results/large/contigs.tsv",), shard_frames=24)
    assert re.findall(r"output: results/(\S+)/shards\n", large.text) == ["large"]
    assert not any((pool.results / name).exists() for name in "ac")
    rest = pool.run(shard_frames=24)
    assert rest.computed == NONE and "split" not in jobs(rest)


def test_what_is_only_asked_writes_nothing(tmp_path, tiny):
    pool = Pool(tmp_path, tiny, {"large": records()} | {name: SAMPLES[name] for name in "ab"})
    before = {path.name for path in tmp_path.iterdir()}
    for keep in ("shards", "merged", "none"):
        pool.run(extra=("--dry-run",), keep=keep)
        pool.run(extra=("--lint",), keep=keep)
    assert {path.name for path in tmp_path.iterdir()} - before == {".snakemake"}


def test_snakemakes_own_commands(pool):
    summary = pool.run(extra=("--summary",)).text
    rows = {line.split("\t")[0]: line.split("\t") for line in summary.splitlines() if line.startswith("results/")}
    assert {f"results/{sample}/contigs.tsv" for sample in SAMPLES} <= set(rows)
    assert all(row[-1] == "no update" for row in rows.values()), rows
    pool.run(extra=("--unlock",))
    pool.run(extra=("--report", "all.html"))
    page = (pool.folder / "all.html").read_text()
    assert all(f"results/{sample}/report.html" in page for sample in SAMPLES)
    assert pool.run().nothing_to_do


@pytest.mark.ci  # time
def test_jobs_follow_the_frames_and_not_the_samples(tmp_path, tiny):
    samples = {f"s{number:03}": {f"r{number}": coding(number, 450)} for number in range(200)}
    pool = Pool(tmp_path, tiny)
    for name, content in samples.items():
        (tmp_path / f"{name}.fa").write_text(fasta(content))
    pool.sheet()
    # Their vectors: what is asked of each sample itself takes a second, 200 times.
    run = pool.run(extra=("all_dnabert_s", "all_esm2"))
    found = jobs(run)
    assert found.count("split") <= 2
    assert found.count("embed_dnabert_s") + found.count("embed_esm2") <= 4
    manifests = [read_manifest(path.parent) for path in pool.results.glob("**/shards/manifest.json")]
    assert sum(len(manifest["samples"]) for manifest in manifests) == 200
    assert os.path.isdir(pool.results / "pooled") and not (pool.results / "s000").exists()
    assert pool.run(extra=("all_dnabert_s", "all_esm2")).nothing_to_do
