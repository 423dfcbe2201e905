"""``virnucpro predict`` as a user meets it: dry runs, pipes, interrupts, exit status."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import zstandard

from tests.workflow.conftest import Models, coding, fasta
from tests.workflow.project import records
from tests.workflow.runner import environment


def words(tiny: Models, *arguments: str, **changes: object) -> list[str]:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in (tiny.config() | changes).items()]
    return [sys.executable, "-m", "virnucpro", "predict", *arguments, "--cores=2", *options]


def run(folder: Path, command: list[str], piped: bytes = b"") -> tuple[int, str]:
    done = subprocess.run(command, cwd=folder, input=piped, capture_output=True, env=environment(), timeout=300)
    return done.returncode, (done.stdout + done.stderr).decode()


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.ci  # time
def test_pipes_formats_and_dry_runs(tmp_path, tiny):
    """One sample of a pipe, a zstd FASTA and a FASTQ; a dry run before and after."""
    content = records(3)
    piped = fasta({"r0": content["r0"]}).encode()
    (tmp_path / "p1.fa.zst").write_bytes(zstandard.compress(fasta({"r1": content["r1"]}).encode()))
    (tmp_path / "p2.fq").write_text(f"@r2\n{content['r2']}\n+\n{'I' * len(content['r2'])}\n")
    command = words(tiny, "s=-", "s=p*", "--output=out", shard_frames=1000)
    status, said = run(tmp_path, [*command, "--dry-run"], piped)
    assert status == 0 and "split:" in said, said
    assert not (tmp_path / "out").exists(), "a dry run wrote"
    status, said = run(tmp_path, command, piped)
    assert status == 0, said
    contigs = [line.split("\t")[:2] for line in (tmp_path / "out/s/contigs.tsv").read_text().splitlines()[1:]]
    assert contigs == [[name, "1500"] for name in content]
    before = everything(tmp_path / "out")
    status, said = run(tmp_path, [*command, "--dry-run", "--threshold=0.9"], piped)
    assert status == 0 and "rule predict:" in said and "split:" not in said, said
    assert everything(tmp_path / "out") == before, "a dry run wrote"


@pytest.mark.soak
def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path, tiny):
    (tmp_path / "x.fa").write_text(fasta(records(1)))
    tiny.prepare(tmp_path / "out")
    command = words(tiny, "x.fa", "--output=out", "--verbose", shard_frames=6)
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said, env=environment())
        while not list((tmp_path / "out").glob("embeddings/*/*/*.h5")):
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    text = (tmp_path / "said").read_text()
    assert "the same command goes on from there:\nvirnucpro predict x.fa --output=out" in text
    assert not list((tmp_path / "out").rglob("*.tmp"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("embeddings/*/*/*.h5")}
    shards = list((tmp_path / "out/x/shards").glob("*.fna"))
    assert len(kept) < 2 * len(shards), "the run was over before it was interrupted"
    status, text = run(tmp_path, command)
    assert status == 0, text
    assert text.count("computed ") == 2 * len(shards) - len(kept)
    assert all(path.stat().st_mtime_ns == date for path, date in kept.items())


@pytest.mark.ci
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_in_the_background_can_be_stopped_and_outlives_its_terminal(tmp_path, tiny, stop):
    """A script's ``&`` ignores SIGINT, which is also what stops Snakemake; ``nohup`` ignores SIGHUP."""
    (tmp_path / "x.fa").write_text(fasta(records(1)))
    tiny.prepare(tmp_path / "out")
    command = shlex.join(words(tiny, "x.fa", "--output=out", shard_frames=6))
    shell = ["sh", "-c", f"trap '' INT HUP; exec {command}"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(shell, cwd=tmp_path, stdout=said, stderr=said, env=environment())
        while not (tmp_path / "out/logs/split/x.log").exists():
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        while not list((tmp_path / "out").glob("embeddings/*/*/*.h5")):
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        process.send_signal(stop)
        assert process.wait(60) == 128 + stop
    assert len(list((tmp_path / "out").glob("embeddings/*/*/*.h5"))) < 2 * len(
        list(tmp_path.glob("out/x/shards/*.fna"))
    )


def test_exit_status_and_last_word(tmp_path, tiny):
    (tmp_path / "x.fa").write_text(fasta({"r1": coding(1, 700)}))
    (tmp_path / "protein.fa").write_text(">p1\nMKVLATEFILPQEFILPQ\n")
    status, said = run(tmp_path, words(tiny, "absent.fa"))
    assert status == 1 and said.startswith("virnucpro: error:") and "absent.fa: no such file" in said
    status, said = run(tmp_path, words(tiny, "x.fa", precision="fp61"))
    assert status == 1 and "did you mean 'fp16'" in said
    assert not (tmp_path / "results" / "config.yaml").exists()
    status, said = run(tmp_path, words(tiny, "protein.fa"))
    assert status == 3
    last = said[said.rindex("virnucpro: error:") :]
    assert "record 'p1'" in last and "protein" in last and "logs/split/protein.log" in last
    assert re.search(r"\nSnakemake's own log: \S+\.snakemake\.log\n", last) and "What is finished is kept" in last
    assert "a job of split failed" in said and "RuleException" not in said


def test_what_lies_in_the_folder_that_the_user_is_in(tmp_path, tiny):
    """Modules called as ones that Snakemake, a script or PyTorch import; another workflow's profile; a deleted folder."""
    (tmp_path / "x.fa").write_text(fasta({"r1": coding(1, 700)}))
    profile = tmp_path / "profiles" / "default" / "config.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text("another-option: true\n")
    output = tmp_path / "out"
    output.mkdir()
    for folder in (tmp_path, output):
        for name in ("json", "numpy", "torch", "yaml"):
            (folder / f"{name}.py").write_text("raise RuntimeError('not the library')\n")
    command = words(tiny, "x.fa", "--output=out")
    command.insert(1, "-P")  # as the installed command has it
    status, said = run(tmp_path, command)
    assert status == 0, said
    gone = tmp_path / "gone"
    gone.mkdir()
    status, said = run(gone, ["sh", "-c", 'rmdir ../gone && exec "$@"', "sh", *command])
    assert (status, said) == (
        1,
        "virnucpro: error: The folder that you are in was deleted. Change to another one: cd FOLDER.\n",
    )


def test_a_home_that_takes_no_files(tmp_path):
    (tmp_path / "x.fa").write_text(fasta({"r1": coding(1, 700)}))
    command = [sys.executable, "-m", "virnucpro", "predict", "x.fa", "--cores=1", "--dry-run", "--", "--quiet"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment() | {"HOME": "/dev/null"}, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_written(tmp_path, tiny):
    (tmp_path / "x.fa").write_text(fasta({"r1": coding(1, 700)}))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    root = os.geteuid() == 0  # who may write everywhere, but for a disk that is mounted so
    if (
        root
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(locked)], capture_output=True).returncode
    ):
        pytest.skip("mounting a read-only file system needs more than root has here")
    try:
        status, said = run(tmp_path, words(tiny, "x.fa", "--output=locked/out"))
    finally:
        if root:
            subprocess.run(["umount", str(locked)], check=True)
    assert status == 1 and "can't be written to" in said and "Choose another --output" in said


@pytest.mark.ci
def test_a_killed_command_goes_on_once_its_snakemake_has_ended(tmp_path, tiny):
    """First everything of a run is killed, then the command alone, whose Snakemake goes on meanwhile."""
    (tmp_path / "x.fa").write_text(fasta(records(1)))
    tiny.prepare(tmp_path / "out")
    command = words(tiny, "x.fa", "--output=out", "--verbose", shard_frames=6)
    with open(tmp_path / "said", "w") as said:

        def begin(shards: int) -> tuple[subprocess.Popen, psutil.Process]:
            started = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said, env=environment())
            while len(list((tmp_path / "out").glob("embeddings/*/*/*.h5"))) < shards:
                assert started.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.02)
            (child,) = psutil.Process(started.pid).children()
            started.kill()
            started.wait()
            return started, child

        _, child = begin(1)
        os.killpg(child.pid, signal.SIGKILL)
        psutil.wait_procs([child], timeout=60)
        assert list((tmp_path / "out").glob(".snakemake/locks/*")), "Snakemake's own lock is left"
        _, child = begin(3)
        status, text = run(tmp_path, command)
        assert status == 1 and f"Snakemake is still running in {tmp_path / 'out'} (process {child.pid})" in text, text
        os.kill(child.pid, signal.SIGINT)
        psutil.wait_procs([child], timeout=60)
    status, text = run(tmp_path, command)
    assert status == 0 and "rule merge" in text, text
    assert not list((tmp_path / "out").rglob("*.tmp")) and not list((tmp_path / "out").glob(".snakemake/locks/*"))
