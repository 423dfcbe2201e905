"""A real SLURM of one node with two pretended GPUs: its own munged, slurmctld and slurmd, started by hand."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
ETC = Path("/etc/slurm")  # jobs lose SLURM_CONF on their way through Snakemake's executor
MARK = "# Written by VirNucPro's tests, which remove it.\n"

# No cgroups, systemd or database, so that it runs in any container. The two partitions share the node; memory is
# watched by polling. The devices only have to be character devices: SLURM numbers them and never opens them.
SLURM_CONF = """
ClusterName=virnucpro
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished.txt
SchedulerParameters=bf_interval=1
ReturnToService=2
KillWait=2
DefMemPerCPU=100
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=32000 Gres=gpu:h200:2 Feature=h100,h200
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes={host} MaxTime=INFINITE
"""
GRES_CONF = "Name=gpu Type=h200 File=/dev/null\nName=gpu Type=h200 File=/dev/zero\n"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n"


@dataclass(frozen=True)
class Finished:
    """A job that SLURM is done with."""

    number: int
    state: str
    partition: str


class Cluster:
    """Starts with ``with``; ends all daemons, jobs and configuration files at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Cluster:
        missing = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
        if missing:
            raise RuntimeError(f"SLURM isn't installed ({', '.join(missing)} missing): .ci/run installs it.")
        if os.geteuid():
            raise RuntimeError("These tests write /etc/slurm and start slurmd: they need root.")
        existing = ETC / "slurm.conf"
        if existing.exists() and not existing.read_text().startswith(MARK):
            raise RuntimeError(f"{existing} exists: this machine has a SLURM of its own, which the tests leave alone.")
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        host = socket.gethostname().split(".")[0]
        ETC.mkdir(exist_ok=True)
        for name, text in (
            ("slurm.conf", SLURM_CONF.format(host=host, ports=_free_ports(2), folder=self.folder)),
            ("gres.conf", GRES_CONF),
            ("cgroup.conf", CGROUP_CONF),
        ):
            (ETC / name).write_text(MARK + text)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key": key} | {name: self.folder / f"munged.{name}" for name in ("pid", "log", "seed")}
        self._daemon(
            "munged",
            "--foreground",
            "--force",  # in spite of pytest's folders, which only their owner may enter
            f"--socket={self.folder}/munge.socket",
            *(f"--{name}-file={path}" for name, path in files.items()),
        )
        _wait_for("munged", lambda: (self.folder / "munge.socket").exists())
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D")
        _wait_for("the node", lambda: "idle" in self.command("sinfo", "--noheader", "--format=%T", check=False))

    def _daemon(self, *arguments: str) -> None:
        with open(self.folder / f"{arguments[0]}.out", "w") as out:
            self.daemons.append(subprocess.Popen(arguments, stdout=out, stderr=out, env=os.environ | {"PATH": _path()}))

    def __exit__(self, *_: object) -> None:
        if len(self.daemons) > 1:
            self.command("scancel", "--user=root", check=False)
            with suppress(TimeoutError):
                _wait_for("the jobs' end", lambda: not self.command("squeue", "--noheader", check=False))
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
            (ETC / name).unlink(missing_ok=True)

    def command(self, *arguments: str, check: bool = True) -> str:
        """What one of SLURM's commands prints."""
        return subprocess.run(
            arguments, check=check, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if not check else None, text=True
        ).stdout

    def running(self, rule: str) -> dict[str, int]:
        """Jobs of a rule that run now: their comment (rule and wildcards) → number."""
        lines = self.command("squeue", "--noheader", "--states=RUNNING", "--format=%A %k").splitlines()
        jobs = {comment: int(number) for number, comment in (line.split(" ", 1) for line in lines)}
        return {comment: number for comment, number in jobs.items() if comment.startswith(f"rule_{rule}_")}

    def finished(self) -> list[Finished]:
        """All jobs that have ended, in that order."""
        lines = (self.folder / "finished.txt").read_text().splitlines()
        rows = [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines]
        return [Finished(int(row["JobId"]), row["JobState"], row["Partition"]) for row in rows]


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(what: str, ready, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not there after {seconds:.0f} s")
        time.sleep(0.2)
