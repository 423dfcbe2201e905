"""Starting the workflow: the one place where the command becomes a Snakemake run."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psutil
import yaml

from virnucpro import installation
from virnucpro.cli.inputs import sheet
from virnucpro.cli.options import given_keys
from virnucpro.errors import ConfigError, DeviceError
from virnucpro.gpu import gpus_to_use, visible_gpus
from virnucpro.locks import describe_holder, read_holder, try_lock, write_holder
from virnucpro.models.ahead import about_to_run
from virnucpro.models.registry import CLASSIFIER
from virnucpro.models.sources import KEYS, find, is_name
from virnucpro.outputs import (
    CONTROL_SETS,
    EMBEDDINGS,
    GIVEN_CONTROLS,
    TABLES,
    check_own,
    refuse_inputs,
    refuse_replacing,
    write_own,
)
from virnucpro.paths import check_file, user_path
from virnucpro.provenance import OPTIONS_OF_VECTORS, other_options
from virnucpro.sequences.split import changed_inputs
from virnucpro.sequences.units import units_of
from virnucpro.settings.environment import read_switches
from virnucpro.settings.options import Settings, path_keys
from virnucpro.settings.samples import check_folders
from virnucpro.settings.validation import resolve

FAILED = 3
"""Exit status of a workflow that ended with an error."""
USAGE = 2
"""Exit status of a command line that can't be understood."""
RUN_LOCK = Path(".snakemake", "virnucpro.lock")
"""In the folder of results; who runs there holds it."""
MOST_FORCED = 1000
"""Files that Snakemake is told by name to make again."""
SHOWN = 10
"""Errors of jobs that are repeated at the end; a cause that many jobs share would fill the screen."""


@contextmanager
def working_folder(output: str | Path, dry_run: bool) -> Iterator[Path]:
    """The folder that a run writes its configuration to and starts in: ``output``, held against other runs.

    A dry run gets a temporary folder that links to what Snakemake remembers of ``output`` and to what was piped in,
    and leaves ``output`` untouched.

    Raises:
        ConfigError: a run is going on in ``output``, or it can't be written to.
    """
    folder = user_path(str(output), os.getcwd())
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="virnucpro-dry-run-") as name:
            temporary = Path(name)
            memory = [folder / ".snakemake" / name for name in ("metadata", "incomplete")]
            for known in (*memory, *folder.glob("inputs/*"), folder / "config.yaml"):
                if known.exists():
                    link = temporary / known.relative_to(folder)
                    link.parent.mkdir(exist_ok=True)
                    link.symlink_to(known)
            yield temporary
        return
    lock = folder / RUN_LOCK
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise ConfigError(f"{folder}: can't be written to ({error.strerror}). Choose another --output.") from error
    former = read_holder(lock).get("snakemake")
    with ExitStack() as stack:
        with suppress(OSError):  # no locks on this file system: Snakemake's own decides
            if (held := try_lock(lock, "a run")) is None:
                raise ConfigError(
                    f"A run is going on in {folder} ({describe_holder(lock)}). Wait until it ends, stop it, or choose "
                    "another --output."
                )
            stack.callback(held.release)
        if former:
            _refuse_if_alive(former, folder)
            write_holder(lock, "a run", snakemake=former)
        yield folder


def _refuse_if_alive(former: Mapping[str, Any], folder: Path) -> None:
    """Raise ConfigError unless the Snakemake of a command that was killed is known to have ended."""
    process, host = former["process"], former["host"]
    if host != socket.gethostname():
        raise ConfigError(
            f"The last run in {folder} didn't end well, and was on another machine: Snakemake, process {process} on {host}. "
            f"Stop it there if it is still running, delete {folder / RUN_LOCK}, and give the same command "
            "with `-- --unlock` at its end; then give it again."
        )
    with suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(process).create_time() - former["started"]) < 10:  # else another one of that number
            raise ConfigError(
                f"Snakemake is still running in {folder} (process {process}), though the command that started it was "
                f"killed. Wait until it ends, stop it (kill -INT {process}), or choose another --output."
            )


def start(
    target: str,
    output: str | Path,
    work: Path,
    made: Sequence[Path],
    *,
    cores: int | None,
    gpus: tuple[int, str | None] | None,
    profile: str | None,
    configfile: str | None,
    dry_run: bool,
    verbose: bool,
    samples: Mapping[str, Sequence[Path]] | None = None,
    named: Sequence[str | Path] = (),
    **given: Any,
) -> None:
    """Write the configuration to the folder ``work``, run the workflow there, say what was made, and exit.

    Args:
        target: of the workflow.
        output: the folder of results.
        work: see ``working_folder``.
        made: files to name at the end.
        cores, gpus, profile, configfile, dry_run, verbose: the options that all such commands have.
        samples: sample name → its files, where the command was given sequences.
        named: files beside those that the user named as inputs.
        given: configuration keys; None is as if not given.

    Raises:
        ConfigError, ModelError, DeviceError: a key, an environment switch, a model or a GPU's name is wrong, or an input or
            another file of the user's would be overwritten; nothing has run then.
    """
    out = Path(output)
    inputs = [*(path for files in (samples or {}).values() for path in files), *named, *filter(None, [configfile])]
    refuse_inputs(out, samples or (), inputs)
    check_own(out / "config.yaml")
    if samples is not None:
        check_own(out / "samples.tsv", out / "config.yaml")  # earlier versions' sheets don't say whose they are
        given["samples"] = str(work / "samples.tsv")
    asked = resolve(given_keys(given, configfile))
    read_switches(os.environ)  # the workflow applies them; the configuration stays as it was given
    sources = [find(role, getattr(asked, key), asked.models_dir) for role, key in KEYS.items()]
    if asked.control_fasta:
        check_file(Path(asked.control_fasta))
    if gpus and gpus[1]:
        os.environ |= {"CUDA_VISIBLE_DEVICES": gpus[1], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # the jobs inherit it
    if gpus and gpus[0] and not profile:  # which may be a cluster's, whose nodes have other GPUs
        found = len(visible_gpus())
        if found < gpus[0]:
            raise DeviceError(
                f"--gpus asks for {gpus[0]}, but there {'is' if found == 1 else 'are'} {found or 'none'} here. Ask for "
                f"{'fewer, or leave it out' if found else 'none (leave it out) to compute on the CPU'}; "
                "`virnucpro doctor` says what it sees."
            )
    settings = resolve(_absolute(asked) | {"output_dir": str(out.absolute())})
    made_here = {"config.yaml": yaml.safe_dump(settings.as_dict(), sort_keys=False)}
    if samples is not None:
        check_folders(samples, out)
        made_here["samples.tsv"] = sheet(samples)
    for name, content in made_here.items():
        refuse_replacing(out / name, content, inputs)
        write_own(work / name, content)
    forced = ["measure"] if target == "check" else []
    forced += _changed(out.absolute(), samples or {}, settings)
    forced += _made_otherwise(out.absolute(), samples or {}, settings) if target == "all" else []
    given_targets, others = _forced(click.get_current_context().obj)
    forced += given_targets
    arguments = [
        target,
        *(["--forcerun", *forced] if forced else []),
        f"--directory={work}",
        f"--configfile={work / 'config.yaml'}",
    ]
    if profile:
        carried = installation.root() / "workflow" / "profiles" / profile
        arguments.append(f"--profile={carried if carried.is_dir() else profile}")
    # A profile says what it may use; on a cluster a total of GPUs would make jobs wait for one another.
    if cores or not profile:
        arguments.append(f"--cores={cores or os.cpu_count()}")
    if gpus:
        arguments.append(f"--resources=gpu={gpus[0]}")
    if not verbose and not dry_run:
        arguments.append("--logger=virnucpro")
    if dry_run:  # else the workflow says it before its first job
        here = None if profile else gpus_to_use(settings.device, gpus and gpus[0])
        needed = [source for source in sources if source.kind != CLASSIFIER or target != "train"]
        if text := about_to_run(needed, out, here):
            click.echo(text, err=True)
    installation.prepare_account(work / ".snakemake" / "cache")
    began = time.time()
    status = run_workflow(work, [*arguments, *["--dry-run"] * dry_run, *others])
    if status < 0:
        click.echo(
            f"\nInterrupted. What is finished is kept; the same command goes on from there:\n{_again(work)}", err=True
        )
        sys.exit(128 - status)
    if status == USAGE:  # of what follows `--`; Snakemake has said it
        sys.exit(USAGE)
    if status:
        _explain_failure(out.absolute() / "logs", work / ".snakemake" / "log", began)
        sys.exit(FAILED)
    for path in made if not dry_run else ():
        if path.exists():  # all of it, unless options of Snakemake's own asked for a part
            click.echo(path)


def _forced(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What Snakemake's ``--forcerun`` names among the user's arguments, and the others: given twice, its last list alone holds."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--forcerun", "-R", nargs="*", action="extend", default=[])
    found, others = parser.parse_known_args(arguments)
    return found.forcerun, others


def run_workflow(work: Path, arguments: Sequence[str]) -> int:
    """Run the workflow with Snakemake's own arguments; returns its exit status, or minus the signal that ended it.

    Interrupts (also SIGTERM and, unless under ``nohup``, a closed terminal) reach Snakemake and its jobs once, and this
    waits for them. If this process is killed, Snakemake goes on; so the lock in the folder ``work`` says which process
    that is. What a dead one left of Snakemake's own lock is removed first.
    """
    workflow = installation.root() / "workflow"
    # Nothing of the folder that the user is in: a numpy.py there isn't numpy, nor another workflow's profiles/default this one's.
    own = [f"--snakefile={installation.snakefile()}", f"--workflow-profile={workflow / 'profiles' / 'default'}"]
    command = [sys.executable, "-P", "-m", "snakemake", *own, *arguments]
    lock = work / RUN_LOCK
    if "snakemake" in read_holder(lock):
        subprocess.run([*command, "--unlock"], stdin=subprocess.DEVNULL, capture_output=True)
        write_holder(lock, "a run")
    received: list[int] = []
    started: list[subprocess.Popen] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

    heeded = {signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heeded.add(signal.SIGHUP)
    # Before Snakemake starts: what a script's background ignores is ignored by its children, too, unless it is handled.
    before = {number: signal.signal(number, forward) for number in heeded}
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        started.append(process)
        if received:
            forward(received.pop(), None)
        since = psutil.Process(process.pid).create_time()
        write_holder(lock, "a run", snakemake={"process": process.pid, "host": socket.gethostname(), "started": since})
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status >= 0:  # else it was killed, and its lock is left
        write_holder(lock, "a run")
    return -received[0] if received and status else status


def _changed(out: Path, samples: Mapping[str, Sequence[Path]], settings: Settings) -> list[str]:
    """What was made from other files than a sample has now, or the user's controls are, as Snakemake can't always tell by dates.

    These are shard folders, and the shuffled contigs, with which it is known that a sample shares no id with the user's controls.
    """
    units = units_of(samples, settings.chunk_length, settings.shard_frames)
    folders = {
        f"{out}/{unit}/shards": {sample: samples[sample] for sample in members} for unit, members in units.items()
    }
    if settings.control_fasta:
        folders[f"{out}/{GIVEN_CONTROLS}/shards"] = {GIVEN_CONTROLS: [Path(settings.control_fasta)]}
    changed = {folder: found for folder, own in folders.items() if (found := changed_inputs(folder, own))}
    others = {sample for found in changed.values() for sample in found}
    if GIVEN_CONTROLS in others:
        return [*changed, "make_controls"]
    shuffled = others if settings.controls or settings.control_fasta else ()
    return [*changed, *_few([f"{out}/{CONTROL_SETS}/{sample}/controls.fasta" for sample in shuffled], "make_controls")]


def _made_otherwise(out: Path, samples: Iterable[str], settings: Settings) -> list[str]:
    """A file of each result that was made with other options, as Snakemake can't tell where the folder was moved."""
    files: list[str] = []
    rules = {"predict", "score_controls"}
    for sample in samples:
        if other := other_options(out / sample, settings.as_dict()):
            names = [TABLES["contigs"]]
            if other.intersection(OPTIONS_OF_VECTORS):
                names.append(EMBEDDINGS)
                rules.add("merge")
            sets = [sample]
            if settings.controls:
                sets.append(f"{CONTROL_SETS}/{sample}")
            if settings.control_fasta:
                sets.append(GIVEN_CONTROLS)
            files += [f"{out}/{each}/{name}" for each in sets for name in names]
            if "controls" in other and settings.controls:
                files.append(f"{out}/{CONTROL_SETS}/{sample}/controls.fasta")
                rules.add("make_controls")
    return _few(list(dict.fromkeys(files)), *sorted(rules))


def _few(files: list[str], *rules: str) -> list[str]:
    """The files, or if a command line may be too short for so many, all that these rules make."""
    return files if len(files) <= MOST_FORCED else list(rules)


def _absolute(settings: Settings) -> dict[str, Any]:
    """The configuration with absolute paths: the workflow runs in another folder than the user does."""
    roles = {key: role for role, key in KEYS.items()}
    found = settings.as_dict()
    for key in {*path_keys(), *roles}:
        if found[key] is not None and not (key in roles and is_name(roles[key], found[key])):
            found[key] = str(Path(found[key]).absolute())
    return found


def _again(work: Path) -> str:
    """The command that goes on: this one, with what was piped in as a file."""
    spooled = {"-": str(work / "inputs" / "stdin")}
    spooled |= {f"{path.name}=-": str(path) for path in (work / "inputs").glob("*")}
    return shlex.join(["virnucpro", *(spooled.get(word, word) for word in sys.argv[1:])])


def _explain_failure(logs: Path, snakemake: Path, began: float) -> None:
    """Say what the jobs of this run said last, and where all is that Snakemake said, in the folder ``snakemake``."""
    errors = []
    for log in sorted(logs.rglob("*.log")):
        if log.stat().st_mtime < began:
            continue
        lines = log.read_text(errors="replace").splitlines()
        said = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
        if not said and not (lines and lines[-1].endswith(" INFO done")):
            said = ["the job ended without a word: killed, perhaps by the system for want of memory"]
        errors += [f"virnucpro: error: {message} (log: {log})" for message in said]
    more = [f"... and {len(errors) - SHOWN} more in {logs}"] if len(errors) > SHOWN else []
    whole = [
        f"Snakemake's own log: {log}" for log in sorted(snakemake.glob("*.log"))[-1:] if log.stat().st_mtime >= began
    ]
    last = "The workflow stopped with an error. What is finished is kept; mend it and give the same command."
    click.echo("\n".join([*errors[:SHOWN], *more, *whole, last]), err=True)
