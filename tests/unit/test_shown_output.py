"""What the command shows of a Snakemake run."""

from __future__ import annotations

import errno
import io
import logging
import re
from types import SimpleNamespace

import pytest
from snakemake.logging import DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_virnucpro import STEPS, LogHandler
from virnucpro import installation
from virnucpro.logging import QUIET, job


@pytest.fixture
def shown(capsys, monkeypatch):
    """Gives a function that logs something and returns what is shown of it."""
    monkeypatch.setenv(QUIET, "")  # restored after the handler has set it
    settings = SimpleNamespace(dryrun=False, show_failed_logs=False)
    handler = LogHandler(settings, None)
    handler.setFormatter(DefaultFormatter(show_failed_logs=True))

    def log(message: str, level: int = logging.INFO, **extra: object) -> str:
        handler.handle(logging.makeLogRecord({"msg": message, "levelno": level, "levelname": "", **extra}))
        return capsys.readouterr().err

    log.settings = settings
    return log


def test_every_step_has_words():
    rules = installation.root() / "workflow" / "rules"
    names = {
        name
        for file in rules.glob("*.smk")
        for name in re.findall(r"^ *(?:rule|checkpoint) (\w+):", file.read_text(), re.M)
    }
    assert {name for name in names if not name.startswith("all_")} - {"check"} == STEPS.keys(), "targets have none"


def test_a_step_is_said_once_when_it_begins(shown):
    said = [
        shown("", event=LogEvent.JOB_INFO, rule_name=rule, local=True)
        for rule in ("split", "embed_esm2", "embed_dnabert_s", "all")
    ]
    assert [re.sub(r"^\d\d:\d\d:\d\d  ", "", text) for text in said[:2]] == [
        "reading sequences, cutting them into chunks\n",
        "computing embeddings\n",
    ]
    assert said[2:] == ["", ""], "said already; a target"
    assert shown("", event=LogEvent.JOB_INFO, rule_name="split", local=True) == ""
    assert shown("", event=LogEvent.JOB_INFO, rule_name="predict", local=False)[10:].startswith("submitted: calling")


def test_chatter_is_left_out_and_notes_and_errors_are_not(shown):
    for chatter in ("Building DAG of jobs...", "Select jobs to execute...", "Complete log(s): x", "Execute 3 jobs..."):
        assert shown(chatter) == ""
    assert shown("debugging", logging.DEBUG) == shown("1 of 3", event=LogEvent.PROGRESS) == ""
    assert shown("Creating conda environment envs/gpu.yaml...") == "Creating conda environment envs/gpu.yaml...\n"
    assert shown("a file is missing", logging.WARNING) == "a file is missing\n"
    assert shown("WorkflowError:\nno such sample", logging.ERROR) == "WorkflowError:\nno such sample\n"
    assert shown("WorkflowError:\nAt least one job did not complete successfully.", logging.ERROR) == ""


def test_a_failed_job_is_named_with_its_log_and_what_the_executor_says(shown, tmp_path):
    log = tmp_path / "a.log"
    log.touch()
    job_error = {"event": LogEvent.JOB_ERROR, "rule_name": "split"}
    local = shown("x", logging.ERROR, **job_error, rule_msg=None, log=[str(log)], aux={})
    assert local == f"a job of split failed; log: {log}\n"
    said = "SLURM-job '7' failed, SLURM status is: 'OUT_OF_MEMORY'. "
    said += "For further error details see the cluster/cloud log and the log files of the involved rule(s)."
    logs = [str(tmp_path / "never-began.log"), str(log)]
    killed = shown("x", logging.ERROR, **job_error, rule_msg=said, log=logs, aux={"external_jobid": 7})
    reason = "SLURM-job '7' failed, SLURM status is: 'OUT_OF_MEMORY'"
    assert killed == f"a job of split failed: {reason}; log: {log}; external_jobid: 7\n"
    said = "SLURM sbatch failed. The error message was 'no such partition\nsubmission failed'.\n    sbatch call:\n  sbatch -p x"
    refused = shown("x", logging.ERROR, **job_error, rule_msg=said, log=logs[:1], aux={})
    reason = "SLURM sbatch failed. The error message was 'no such partition submission failed'"
    assert refused == f"a job of split failed: {reason}\n"


def test_what_follows_two_hyphens_is_heeded(shown, tmp_path):
    """A dry run begins nothing, but shows what would run; and ``--show-failed-logs``."""
    (tmp_path / "a.log").write_text("what the job said")
    failed = {"event": LogEvent.JOB_ERROR, "rule_name": "split", "rule_msg": None, "log": [str(tmp_path / "a.log")]}
    failed |= {"aux": {}, "jobid": 1, "input": [], "output": [], "conda_env": None, "shellcmd": None}
    shown.settings.show_failed_logs = True
    assert "what the job said" in shown("x", logging.ERROR, **failed)
    shown.settings.dryrun = True
    assert shown("job  count\nsplit  1", event=LogEvent.RUN_INFO) == "job  count\nsplit  1\n"
    assert shown("Building DAG of jobs...") == "Building DAG of jobs...\n"


def test_a_message_that_cannot_be_shown_ends_nothing(shown, monkeypatch):
    """Snakemake hands records over in a thread, which an exception would end."""

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("sys.stderr", Full())
        shown("a file is missing", logging.WARNING)
    assert shown("another file is missing", logging.WARNING) == "another file is missing\n"


def test_after_an_interrupt_only_tracebacks_and_jobs_it_ended_are_left_out(shown):
    assert shown("Terminating processes on user request, this might take some time.")
    assert shown("Traceback (most recent call last):\n  File ...", logging.ERROR) == ""
    assert shown("x", logging.ERROR, event=LogEvent.JOB_ERROR, rule_name="split", rule_msg="", log=[], aux={}) == ""
    left = "WorkflowError:\nUnable to cancel jobs with scancel (exit code 1)"
    assert shown(f'{left}\n  File "a.py", line 1, in cancel\n  File "b.py", line 2, in c', logging.ERROR) == f"{left}\n"
    assert shown("Unable to cancel jobs.", logging.WARNING) == "Unable to cancel jobs.\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_jobs_show_warnings_alone_and_log_everything(tmp_path, capsys, monkeypatch, quiet):
    monkeypatch.setenv(QUIET, "1" if quiet else "")
    with job(tmp_path / "a.log"):
        logging.getLogger("virnucpro").info("a count")
        logging.getLogger("virnucpro").warning("a doubt")
        logging.getLogger("virnucpro.classifier.evaluation").info("how good it is")
    said = capsys.readouterr().err
    assert "a doubt" in said and "how good it is" in said and ("a count" in said) != quiet
    assert "a count" in (tmp_path / "a.log").read_text()
