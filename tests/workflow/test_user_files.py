"""What the user gave is never written to, and a changed input is noticed, through the real commands."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import coding, fasta
from tests.workflow.project import NONE, Project, copy_of, records
from tests.workflow.runner import environment, snakemake
from tests.workflow.test_command import run, words

SEQUENCES = fasta({"r1": coding(1, 700)})


def state(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts
    }


@pytest.mark.parametrize("output", [".", "../here", "link"])
def test_an_input_in_the_place_of_an_output(tmp_path, tiny, output):
    here = tmp_path / "here"
    (here / "viral").mkdir(parents=True)
    (here / "link").symlink_to(".")
    (here / "viral" / "viral.fasta.gz").write_bytes(gzip.compress(SEQUENCES.encode()))
    (here / "samples.tsv").write_text("sample\tfasta\nviral\tviral/viral.fasta.gz\n")
    before = state(here)
    status, said = run(here, words(tiny, "viral/viral.fasta.gz", f"--output={output}"))
    assert status == 1 and said.startswith("virnucpro: error:") and "is an input of this run" in said
    plain = snakemake(here, config=tiny.config() | {"samples": "samples.tsv", "output_dir": output})
    assert plain.status == 1 and "viral/viral.fasta.gz is an input of this run" in plain.text
    assert "Traceback" not in plain.text and "common.smk" not in plain.text
    assert state(here) == before


def test_files_that_no_run_made(tmp_path, tiny):
    for name, content in {"samples.tsv": "# mine\nsample\tfasta\textra\na\tin*.fa\t1\n", "in1.fa": SEQUENCES}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "config.yaml").write_text("# mine\nthreshold: 0.4\n")
    before = state(tmp_path)
    for command in (
        words(tiny, "samples.tsv", "--output=."),
        words(tiny, "samples.tsv", "--output=.", "--configfile=config.yaml"),
        words(tiny, "in1.fa", "--output=."),
    ):
        status, said = run(tmp_path, command)
        assert status == 1 and said.count("\n") == 1 and ("config.yaml" in said or "samples.tsv" in said), said
        assert state(tmp_path) == before
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "contigs.tsv").write_text("mine")
    before = state(tmp_path)
    plain = snakemake(tmp_path, config=tiny.config() | {"samples": "samples.tsv", "output_dir": "."})
    assert plain.status == 1 and "a/contigs.tsv is there already, and no run of VirNucPro made it" in plain.text
    assert "Traceback" not in plain.text
    assert state(tmp_path) == before


def test_what_the_command_wrote_is_its_own(tmp_path, tiny):
    """The same command, its own sheet and standard input again; an older version's sheet."""
    command = words(tiny, "s=-", "--output=out")
    tiny.prepare(tmp_path / "out")
    for turn in range(2):
        status, said = run(tmp_path, command, SEQUENCES.encode())
        assert status == 0 and ("Nothing to be done" in said) == bool(turn), said
        assert ("computing embeddings" in said) != bool(turn) and "Building DAG" not in said and "jobid" not in said
        assert "/out/s/report.html  what was found" in said, "the end, also of a run with nothing to do"
    status, said = run(tmp_path, [*command, "--dry-run"], SEQUENCES.encode())
    assert status == 0 and "Nothing to be done" in said, said
    sheet = tmp_path / "out" / "samples.tsv"
    status, said = run(tmp_path, words(tiny, "out/samples.tsv", "--output=out"))
    assert status == 0 and "Nothing to be done" in said
    sheet.write_text(sheet.read_text().partition("\n")[2])
    status, said = run(tmp_path, command, SEQUENCES.encode())
    assert status == 0 and "Nothing to be done" in said
    status, said = run(
        tmp_path, words(tiny, "out/samples.tsv", "--output=out", "--configfile=out/config.yaml", threshold=0.7)
    )
    assert status == 1 and "out/config.yaml is an input of this run" in said


@pytest.mark.soak
def test_an_input_replaced_by_an_older_one(tmp_path, tiny, reference):
    project = copy_of(reference, tmp_path)
    other = records()
    other.pop("r3")
    other["new"] = coding(77, 1500)
    old = tmp_path / "old.fa"
    old.write_text(fasta(other))
    os.utime(old, (1e9, 1e9))
    os.replace(old, project.fasta)
    again = project.run()
    assert 0 < sum(again.computed.values()) < 2 * project.shards()
    ids = [line.split("\t")[0] for line in project.tables()["contigs.tsv"].decode().splitlines()[1:]]
    assert ids == list(other)
    os.utime(project.fasta, (1.1e9, 1.1e9))
    assert project.run().computed == NONE
    assert project.run().nothing_to_do


@pytest.mark.soak
def test_an_older_input_that_snakemake_cannot_notice(tmp_path, tiny):
    """Told to go by dates; without records of the run that made the results: another command's, or moved."""

    def replace(number: int) -> str:
        (tmp_path / "in.fa").write_text(fasta({f"r{number}": coding(number, 700)}))
        os.utime(tmp_path / "in.fa", (1e9, 1e9 + number))
        return f"r{number}"

    def found(output: str) -> str:
        return (tmp_path / output / "in/contigs.tsv").read_text().splitlines()[1].split("\t")[0]

    for name in ("in", "other"):
        (tmp_path / f"{name}.tsv").write_text(f"sample\tfasta\n{name}\tin.fa\n")
    made = replace(1)
    for output in ("other", "results"):
        tiny.prepare(tmp_path / output)
    snakemake(tmp_path, config=tiny.config() | {"samples": "other.tsv", "output_dir": "other"}).ok()
    command = words(tiny, "in.fa", "--output=results")
    assert run(tmp_path, command)[0] == 0 and found("results") == made
    made = replace(2)
    assert run(tmp_path, [*command, "--", "--rerun-triggers", "mtime"])[0] == 0 and found("results") == made
    before, made, config = made, replace(3), tiny.config() | {"samples": "in.tsv"}
    for output in ("results", "moved"):
        if output == "moved":
            (tmp_path / "results").rename(tmp_path / "moved")
            before, made = made, replace(4)
        told = snakemake(tmp_path, "-R", "run_report", config=config | {"output_dir": output}).ok()
        assert f"--forcerun {output}/in/shards" in told.text and found(output) == before
        snakemake(tmp_path, "--forcerun", f"{output}/in/shards", config=config | {"output_dir": output}).ok()
        assert found(output) == made
        again = snakemake(tmp_path, config=config | {"output_dir": output}).ok()
        assert again.nothing_to_do and "--forcerun" not in again.text


def test_files_of_a_pattern_that_come_and_go(tmp_path, tiny):
    for number in range(2):
        (tmp_path / f"in{number}.fa").write_text(fasta({f"r{number}": coding(number, 700)}))
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ns\tin*.fa\n")
    config = tiny.config() | {"samples": "samples.tsv"}
    tiny.prepare(tmp_path / "results")

    def found() -> list[str]:
        snakemake(tmp_path, config=config).ok()
        return [line[:2] for line in (tmp_path / "results/s/contigs.tsv").read_text().splitlines()[1:]]

    assert found() == ["r0", "r1"]
    (tmp_path / "in2.fa").write_text(fasta({"r2": coding(2, 700)}))
    os.utime(tmp_path / "in2.fa", (1e9, 1e9))
    assert found() == ["r0", "r1", "r2"]
    (tmp_path / "in0.fa").unlink()
    assert found() == ["r1", "r2"]


@pytest.mark.soak
def test_an_input_of_the_future(tmp_path, tiny):
    tiny.prepare(tmp_path / "results")
    project = Project(tmp_path, tiny, count=2)
    later = time.time() + 10_000
    os.utime(project.fasta, (later, later))
    project.run()
    assert project.run().nothing_to_do
    project.write({"new": coding(9, 700)})
    os.utime(project.fasta, (later, later))
    project.run()
    assert b"new\t" in project.tables()["contigs.tsv"]


@pytest.mark.soak
def test_shards_that_were_removed_one_by_one(tmp_path, tiny, reference):
    project = copy_of(reference, tmp_path)
    folder = tmp_path / "results" / "s"
    remedy = "\nrm -r results/s/shards\n"
    (folder / "contigs.tsv").unlink()
    own = folder / "shards" / "samples" / "s" / "manifest.json"
    for damage in (lambda: own.write_text("{}"), own.unlink, (folder / "shards" / "manifest.json").unlink):
        damage()
        refused = snakemake(tmp_path, config=project.config())
        assert refused.status == 1 and remedy in refused.text and "Traceback" not in refused.text
    subprocess.run(remedy, shell=True, cwd=tmp_path, check=True)
    assert project.run().computed == NONE
    removed = next((folder / "shards").glob("*.faa"))
    removed.unlink()
    (folder / "embeddings.h5").unlink()
    assert project.run().computed == NONE, "its vectors are there"
    for vectors in (tmp_path / "results").glob(f"embeddings/*/*/{removed.stem}.h5"):
        vectors.unlink()
    (folder / "embeddings.h5").unlink()
    refused = snakemake(tmp_path, config=project.config())
    assert refused.status == 1 and remedy in refused.text and removed.name in refused.text
    assert "Traceback" not in refused.text


def test_a_prepared_model_that_was_removed(tmp_path, tiny, reference):
    project = copy_of(reference, tmp_path)
    (model,) = (tmp_path / "results" / "models").glob("*/dnabert*/model.safetensors")
    model.unlink()
    (tmp_path / "results" / "s" / "embeddings.h5").unlink()
    refused = snakemake(tmp_path, config=project.config())
    assert refused.status == 1 and "Traceback" not in refused.text
    assert f"rm -r results/models/{model.parent.parent.name}/{model.parent.name}" in refused.text
    subprocess.run(f"rm -r {model.parent}", shell=True, check=True)
    assert project.run().computed == NONE


def test_a_full_disk_at_the_first_write(tmp_path, tiny):
    (tmp_path / "in.fa").write_text(SEQUENCES)
    full = tmp_path / "full"
    full.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs more than this user may")
    try:
        with open(full / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="space"):
            while True:
                filler.write(bytes(4096))
        status, said = run(tmp_path, words(tiny, "in.fa", "--output=full/out"))
    finally:
        subprocess.run(["umount", str(full)], check=True)
    assert status == 1 and said.startswith("virnucpro: error: No space left on device: ") and "Traceback" not in said


def test_a_name_for_a_classifier_that_is_taken(tmp_path):
    (tmp_path / "model.pth").write_text("mine")
    command = [sys.executable, "-m", "virnucpro", "classifier", "import", "model.pth"]
    for words_, said in ((["model.pth", "--force"], "the file to be read"), (["model.pth"], "the file to be read")):
        done = subprocess.run([*command, *words_], cwd=tmp_path, capture_output=True, text=True, env=environment())
        assert done.returncode == 1 and said in done.stderr
    assert (tmp_path / "model.pth").read_text() == "mine"
