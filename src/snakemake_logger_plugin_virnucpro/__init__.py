"""What the ``virnucpro`` command shows of a Snakemake run: the steps, what went wrong, and what the workflow prints.

Snakemake finds this by its name (``--logger virnucpro``) where the package is installed. Its own log in
``.snakemake/log`` has everything, as ever.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from virnucpro.logging import QUIET

STEPS = {
    "fetch_model": "fetching models",
    "prepare_encoder": "preparing models",
    "prepare_classifier": "preparing models",
    "split": "reading sequences, cutting them into chunks",
    "make_controls": "shuffling contigs as controls",
    "embed_dnabert_s": "computing embeddings",
    "embed_esm2": "computing embeddings",
    "merge": "putting embeddings together",
    "score_controls": "scoring controls",
    "predict": "calling contigs, writing tables and report",
    "run_report": "writing the report over all samples",
    "train": "training",
    "evaluate": "evaluating",
    "calibrate": "calibrating",
    "measure": "comparing with fp32",
}
"""Rule → what it does, said when its first job begins, or is submitted to a cluster."""
CHATTER = re.compile(
    r"Assuming |Config file |host: |Waiting for more |Building DAG |Using shell|Conda environments: "
    r"|Singularity containers: |Group jobs: |Select jobs |Execute \d+ |DAG of jobs will |Updating checkpoint "
    r"|Updating job |Removing temporary |Job \d+ has been submitted |Complete log|Elapsed time|Nothing to be done"
    r"|Shutting down|Cleaning up SLURM log files "
    r"|RuleException:\s+CalledProcessError|Exiting because a job |WorkflowError:\s+At least one job did"
)
"""Beginnings of what Snakemake says that nobody waits for, or that this or the workflow says; all else is shown."""
POINTER = "For further error details see the cluster/cloud log and the log files of the involved rule(s)."
"""What Snakemake adds to an executor's reason, in the same line."""
SUBMISSION = "sbatch call:"
"""What the SLURM plugin shows after this is thousands of letters."""
INTERRUPTED = "Terminating processes on user request"
"""What follows it are jobs that this ended and tracebacks, which nobody waits for; and what couldn't be stopped."""
FRAMES = re.compile(r"\n +File \".*", re.DOTALL)
"""The lines of code that Snakemake adds to an error's message."""


class LogHandler(LogHandlerBase):
    writes_to_stream = True
    writes_to_file = False
    has_filter = False  # so that --quiet holds
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        logging.Handler.__init__(self)  # the base class of older interfaces (Snakemake 9.0) doesn't
        self._begun: set[str] = set()
        self._interrupted = False
        if not self.common_settings.dryrun:
            os.environ[QUIET] = "1"  # the jobs inherit it

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if (text := self._text(record)).strip():
                print(text, file=sys.stderr, flush=True)
        except Exception:  # Snakemake's thread for this would end, and show nothing from then on
            self.handleError(record)

    def _text(self, record: logging.LogRecord) -> str:
        """What is shown of a record, or nothing."""
        if self.common_settings.dryrun:  # asked for behind `--`: what is shown are the jobs
            return self.format(record) or ""
        event, said = getattr(record, "event", None), record.getMessage()
        if self._interrupted and (event == LogEvent.JOB_ERROR or said.startswith("Traceback ")):
            return ""
        self._interrupted = self._interrupted or said.startswith(INTERRUPTED)
        if event == LogEvent.JOB_INFO:
            return self._step(record.__dict__["rule_name"], record.__dict__["local"])
        if event == LogEvent.JOB_ERROR:
            return self.format(record) if self.common_settings.show_failed_logs else _failure(**record.__dict__)
        if CHATTER.match(said):
            return ""
        if record.levelno >= logging.WARNING:
            text = self.format(record)
            return FRAMES.sub("", text) if self._interrupted else text
        return said if record.levelno == logging.INFO and event is None else ""

    def _step(self, rule: str, local: bool) -> str:
        """The line of a step, unless it was said, or is none (a target). A cluster begins its jobs when it likes."""
        step = STEPS.get(rule, "")
        if not step or step in self._begun:
            return ""
        self._begun.add(step)
        return f"{time.strftime('%H:%M:%S')}  {'' if local else 'submitted: '}{step}"


def _failure(rule_name: str, rule_msg: str | None, log: list[str], aux: dict[str, object], **_: object) -> str:
    """A line on a job that failed: why, as a cluster's executor says, where to read on, the cluster's number."""
    told = (rule_msg or "").removesuffix(POINTER).partition(SUBMISSION)[0]
    reason = " ".join(told.split()).rstrip(".")
    logs = [path for path in log if os.path.exists(path)]  # a job that never began has none
    said = [f"log: {', '.join(logs)}"] if logs else []
    first = f"a job of {rule_name} failed" + f": {reason}" * bool(reason)
    return "; ".join([first, *said, *(f"{key}: {aux[key]}" for key in aux)])
