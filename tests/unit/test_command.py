"""The ``virnucpro`` command before it starts a workflow, and after one that failed: inputs, samples, who else is there."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from virnucpro.cli import cli
from virnucpro.cli.inputs import samples_of
from virnucpro.cli.workflow import RUN_LOCK, _explain_failure, working_folder
from virnucpro.errors import ConfigError, InputError, VirNucProError
from virnucpro.locks import read_holder
from virnucpro.settings.configfile import read_config
from virnucpro.settings.samples import read_samples
from virnucpro.settings.validation import resolve


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ("b.fa.gz", "a.fna", "c.fastq.zst", "d=e.fa"):
        (tmp_path / name).write_bytes(b">x\nACGT\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(inputs, spool=Path("spool")):
    return {name: [path.name for path in paths] for name, paths in samples_of(inputs, spool).items()}


def test_files_patterns_and_named_samples(files):
    assert names(["b.fa.gz", "c.fastq.zst"]) == {"b": ["b.fa.gz"], "c": ["c.fastq.zst"]}
    assert names(["*.f*"]) == {"a": ["a.fna"], "b": ["b.fa.gz"], "c": ["c.fastq.zst"], "d_e": ["d=e.fa"]}
    assert names(["gut=b.fa.gz", "gut=a.*", "c.fastq.zst"]) == {"gut": ["b.fa.gz", "a.fna"], "c": ["c.fastq.zst"]}
    (files / "sheet.tsv").write_text("sample\tfasta\ngut\t[ab].f*\n")
    assert names(["sheet.tsv"]) == {"gut": ["a.fna", "b.fa.gz"]}
    for name in ("sheet.csv", "sheet.txt", "sheet"):
        (files / name).write_text("Sample;fasta\ngut;[ab].f*\n")
        assert names([name]) == {"gut": ["a.fna", "b.fa.gz"]}
    assert all(path.is_absolute() for path in samples_of(["a.fna"], files)["a"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["nothing*.fa"], "no file matches this pattern"),
        (["b.fa"], r"b\.fa: no such file; did you mean 'b.fa.gz'"),
        (["logs=a.fna"], "reserved"),
        (["."], r"is a folder\. Give its files, with a pattern such as"),
        (["a.fna", "a=b.fa.gz"], "would both be sample 'a'"),
        (["x=a.fna", "X=b.fa.gz"], "'x' and 'X' differ only by case"),
        (["samples.tsv=a.fna"], "'samples.tsv' is reserved"),
        ([""], "an empty path"),
        (["gut="], "an empty path"),
        (["g=sheet.txt"], r"sheet\.txt: is a sample sheet: give it alone, without 'g='"),
        (["a.fna", "sheet.txt"], r"sheet\.txt: is a sample sheet: give it alone\.$"),
        (["broken.csv"], r"broken\.csv, line 1: has no column 'sample'"),
        (["pipe"], "is a pipe, and a run reads its input more than once"),
    ],
)
def test_inputs_that_are_refused(files, inputs, message):
    (files / "sheet.txt").write_text("sample\tfasta\ns\ta.fna\n")
    (files / "broken.csv").write_text("x,y\n")
    os.mkfifo(files / "pipe")
    with pytest.raises(InputError, match=message):
        samples_of(inputs, files)


@pytest.mark.parametrize(
    ("options", "switches", "message"),
    [
        (["--esm-model=3b"], {}, r"'3b' is neither a path nor a known model; did you mean '3B'\?$"),
        (["--classifier=mine/c.pth"], {}, r"mine/c\.pth: no such file"),
        (["--control-fasta=host.fa"], {}, r"^host\.fa: no such file"),
        ([], {"VIRNUCPRO_V1_ATTENTION": "ja"}, "VIRNUCPRO_V1_ATTENTION can't be 'ja'"),
        ([], {"VIRNUCPRO_V1_ATENTION": "1"}, "did you mean VIRNUCPRO_V1_ATTENTION"),
    ],
)
def test_a_wrong_model_or_switch_is_refused_before_the_workflow_starts(files, monkeypatch, options, switches, message):
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda work, arguments: pytest.fail("it was started"))
    done = CliRunner(env=switches).invoke(cli, ["predict", "a.fna", "-o", "out", *options], obj=[])
    assert isinstance(done.exception, VirNucProError)
    with pytest.raises(VirNucProError, match=message):
        raise done.exception


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "a.fna", "-o", ""],
        ["predict", "a.fna", "--cache-dir", ""],
        ["predict", "a.fna", "--models-dir="],
        ["predict", "a.fna", "--classifier="],
        ["predict", "a.fna", "--configfile="],
        ["evaluate", "t.tsv", "--split="],
        ["train", ""],
        ["check", "a.fna", "--published="],
        ["doctor", "-o", ""],
        ["cache", "list", ""],
        ["provenance", ""],
        ["config", "init", ""],
        ["classifier", "import", "a.pth", ""],
        ["classifier", "calibrate", "", "t.tsv"],
        ["classifier", "calibrate", "mini-500", ""],
    ],
)
def test_an_empty_path_is_refused_by_its_name(files, monkeypatch, words):
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda arguments: pytest.fail("it was started"))
    before = sorted(files.iterdir())
    done = invoke(*words)
    assert isinstance(done.exception, ConfigError) and str(done.exception).startswith("empty '")
    assert sorted(files.iterdir()) == before


def test_any_name_of_a_folder_and_of_a_file_reaches_the_workflow(files, monkeypatch):
    """What YAML would take for a number, and what a sheet would take for a pattern, a quote or a blank."""
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda arguments, work: 0)
    given = ["a=[1].fa", 'a="q".fa', "a= b .fa ", "a=~c.fa"]
    for word in given:
        (files / word.removeprefix("a=")).write_text(">r\nACGT\n")
    for folder in ("2024_01_15", "007", "1e3", "1:30", "yes", "~"):
        done = invoke("predict", *given, "-o", f"./{folder}" if folder == "~" else folder, "--cache-dir", "none")
        assert not done.exception, done.exception
        settings = resolve(read_config(files / folder / "config.yaml"))
        assert (settings.output_dir, settings.cache_dir) == (str(files / folder), None)
        assert read_samples(settings.samples) == {"a": [files / word.removeprefix("a=") for word in given]}


def test_a_label_table_is_checked_before_anything_runs(files, monkeypatch):
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda arguments: pytest.fail("it was started"))
    for content, says in {
        "fasta\tlabel\na.fna\tyes\n": "line 2: label 'yes' must be",
        "fasta\tlabel\ngone.fa\t1\n": "gone.fa: no such file",
    }.items():
        (files / "t.tsv").write_text(content)
        for command in (["train"], ["evaluate"], ["classifier", "calibrate", "mini-500"]):
            done = invoke(*command, "t.tsv", "-o", "out")
            assert isinstance(done.exception, InputError) and says in str(done.exception)
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("options", "partial"),
    [
        ([], "true"),
        (["--partial-frames=false"], "false"),
        (["--configfile=no.yaml"], "false"),
        (["--configfile=auto.yaml"], "true"),
    ],
)
def test_calibrating_scores_partial_frames_unless_told_otherwise(files, monkeypatch, options, partial):
    started = []
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda work, arguments: started.append(arguments) or 0)
    (files / "t.tsv").write_text("id\tlabel\tgroup\nr\t1\tg\n")
    (files / "no.yaml").write_text("partial_frames: false\nlabels: other.tsv\n")
    (files / "auto.yaml").write_text("partial_frames: auto\nclassifier: mini-300\n")
    done = invoke("classifier", "calibrate", "mini-500", "t.tsv", "-o", "out", *options)
    assert not done.exception, done.exception
    settings = resolve(read_config(files / "out" / "config.yaml"))
    assert (settings.partial_frames, settings.classifier) == (partial, "mini-500")
    assert (started[0][0], settings.labels) == ("calibrate", str(files / "t.tsv"))


def test_a_file_where_the_samples_folder_has_to_be(files, monkeypatch):
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda arguments: pytest.fail("it was started"))
    (files / "contigs").write_text(">r\nACGT\n")
    done = invoke("predict", "contigs", "-o", ".")
    assert isinstance(done.exception, ConfigError) and "contigs: is a file, where the folder" in str(done.exception)


def test_the_page_over_all_samples_is_named_last(files, monkeypatch):
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda work, arguments: 0)
    for inputs, pages, made in (
        (["a.fa"], [], []),
        (["a.fa"], ["a/report.html"], ["a/report.html"]),
        (["a.fa", "b.fa"], ["a/report.html", "b/report.html", "report.html"], ["b/report.html", "report.html"]),
    ):
        for name in inputs:
            (files / name).write_text(">r\nACGT\n")
        for page in made:
            (files / "o" / page).parent.mkdir(parents=True, exist_ok=True)
            (files / "o" / page).touch()
        run = CliRunner().invoke(
            cli, ["predict", *(str(files / name) for name in inputs), "-o", str(files / "o")], obj=[]
        )
        assert run.output.split() == [str(files / "o" / page) for page in pages], run.output


def test_standard_input_is_kept_and_kept_as_it_is(files, monkeypatch):
    def pipe(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    pipe(b">x\nACGT\n")
    assert names(["-"]) == {"stdin": ["stdin"]}
    kept = files / "spool" / "stdin"
    before = kept.stat()
    pipe(b">x\nACGT\n")
    samples_of(["-"], files / "spool")
    assert kept.stat().st_mtime_ns == before.st_mtime_ns, "the same content must look unchanged to Snakemake"
    pipe(b">x\nACGTT\n")
    samples_of(["-"], files / "spool")
    assert kept.read_bytes() == b">x\nACGTT\n"
    pipe(b"")
    with pytest.raises(InputError, match=f"empty. What was piped before is {kept}"):
        samples_of(["-"], files / "spool")
    assert kept.read_bytes() == b">x\nACGTT\n"
    pipe(b">x\nACGT\n")
    assert names(["soil=-"]) == {"soil": ["soil"]}
    assert sorted(path.name for path in (files / "spool").glob("[!.]*")) == ["soil", "stdin"]


def test_a_folder_where_a_run_is_going_on_is_refused(tmp_path):
    with working_folder(tmp_path / "out", dry_run=False) as work:
        assert work == tmp_path / "out"
        says = rf"A run is going on in .*out \(process {os.getpid()} on {socket.gethostname()} for .*\)\. Wait"
        with pytest.raises(ConfigError, match=says), working_folder(work, dry_run=False):
            pass
    with working_folder(tmp_path / "out", dry_run=False):
        pass


def test_a_snakemake_that_outlives_its_command_is_named(tmp_path):
    lock = tmp_path / RUN_LOCK
    lock.parent.mkdir()

    def left(process: int, host: str = socket.gethostname(), began: float = 0.0) -> None:
        since = psutil.Process(process).create_time() if psutil.pid_exists(process) else 0
        former = {"process": process, "host": host, "started": since + began}
        lock.write_text(json.dumps({"process": 1, "host": host, "purpose": "a run", "snakemake": former}))

    with subprocess.Popen(["sleep", "60"]) as running:
        left(running.pid)
        says = rf"Snakemake is still running in .* \(process {running.pid}\).*kill -INT {running.pid}"
        with pytest.raises(ConfigError, match=says), working_folder(tmp_path, dry_run=False):
            pass
        left(running.pid, "elsewhere")
        with (
            pytest.raises(ConfigError, match=rf"process {running.pid} on elsewhere\. Stop it there.*-- --unlock"),
            working_folder(tmp_path, dry_run=False),
        ):
            pass
        left(running.pid, began=-3600)  # another process has its number by now
        with working_folder(tmp_path, dry_run=False):
            assert "snakemake" in read_holder(lock), "so that Snakemake's lock is removed"
        left(running.pid)
        running.kill()
    with working_folder(tmp_path, dry_run=False):
        assert "snakemake" in read_holder(lock)


def test_the_end_of_a_failed_run_repeats_what_its_jobs_said(tmp_path, capsys):
    logs, own = tmp_path / "logs", tmp_path / "own"
    logs.mkdir()
    own.mkdir()
    for name, last in (("a", "INFO done"), ("b", "ERROR a reason"), ("c", "INFO mini-esm2 on cpu"), ("d", "INFO old")):
        (logs / f"{name}.log").write_text(f"2026-01-01 00:00:00 INFO begun\n2026-01-01 00:00:01 {last}\n")
    os.utime(logs / "d.log", (0, 0))
    (logs / "e.log").touch()  # a cluster may kill a job before it says anything
    for name in ("1.snakemake.log", "2.snakemake.log"):
        (own / name).touch()
    _explain_failure(logs, own, time.time() - 60)
    b, c, e, whole, last = capsys.readouterr().err.splitlines()
    assert b == f"virnucpro: error: a reason (log: {logs / 'b.log'})"
    assert "ended without a word: killed" in c and c.endswith(f"(log: {logs / 'c.log'})")
    assert "ended without a word: killed" in e and e.endswith(f"(log: {logs / 'e.log'})")
    assert whole == f"Snakemake's own log: {own / '2.snakemake.log'}" and last.startswith("The workflow stopped")


def invoke(*words):
    return CliRunner().invoke(cli, words, obj=[])


def test_a_configuration_file_is_checked_before_anything_runs(files):
    (files / "c.yaml").write_text("threshold: 2\n")
    answer = invoke("predict", "a.fna", "--configfile=c.yaml", "--output=out")
    assert "'threshold' can't be 2" in str(answer.exception)
    assert invoke("predict", "a.fna", "--no-such-option").exit_code == 2


def test_a_misspelt_command_and_what_snakemake_does_not_know(files):
    assert "No such command 'predcit'; did you mean 'predict'?" in invoke("predcit", "a.fna").output
    done = CliRunner().invoke(cli, ["predict", "a.fna", "-o", "out", "--dry-run"], obj=["--no-such-option"])
    assert done.exit_code == 2
