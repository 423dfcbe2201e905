"""Locks on GPUs: which devices there are, one holder each, free again whatever happens to it."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from virnucpro import installation
from virnucpro.cli import cli, workflow
from virnucpro.errors import DeviceError
from virnucpro.gpu import gpu_lock, gpus_to_use, visible_gpus

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-abbb-2)
  MIG 1g.10gb     Device  0: (UUID: MIG-1111)
  MIG 2g.20gb     Device  1: (UUID: MIG-2222)
GPU 2: NVIDIA RTX (Ada) (UUID: GPU-cccc-3)
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the PATH that prints a listing; without one there is none."""

    def install(listing: str | None, status: int = 0) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv("PATH", f"{folder}" if listing is None else f"{folder}:/usr/bin:/bin")
        if listing is not None:
            program = folder / "nvidia-smi"
            program.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}END\nexit {status}\n")
            program.chmod(0o755)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what a lease sets doesn't stay
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    return install


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (None, ["GPU-aaaa-1", "MIG-1111", "MIG-2222", "GPU-cccc-3"]),
        ("2,0", ["GPU-cccc-3", "GPU-aaaa-1"]),
        ("GPU-cc, 0", ["GPU-cccc-3", "GPU-aaaa-1"]),
        ("0,GPU-aaaa-1", ["GPU-aaaa-1"]),
        ("1", ["MIG-1111", "MIG-2222"]),
        ("MIG-2222", ["MIG-2222"]),
        ("MIG-GPU-abbb-2/1/0", ["MIG-GPU-abbb-2/1/0"]),
        ("", []),
        ("-1", []),
        ("0,-1,2", ["GPU-aaaa-1"]),
    ],
)
def test_the_pool_is_what_cuda_would_see(smi, monkeypatch, chosen, found):
    smi(LISTING)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == found


@pytest.mark.parametrize("absent", ["3", "GPU-dddd", "MIG-3333", "all"])
def test_a_gpu_that_is_not_there(smi, monkeypatch, absent):
    smi(LISTING)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"0,{absent}")
    with pytest.raises(DeviceError, match=rf"names GPU {absent}; nvidia-smi lists 0 .* 2 \(GPU-cccc-3\)"):
        visible_gpus()


@pytest.mark.parametrize(
    ("device", "limit", "used"), [("auto", None, 4), ("auto", 2, 2), ("cuda", 9, 4), ("auto", 0, 0), ("cpu", None, 0)]
)
def test_how_many_a_run_uses(smi, device, limit, used):
    smi(LISTING)
    assert gpus_to_use(device, limit) == used


def test_machines_without_nvidia_smi(smi, monkeypatch, caplog, tmp_path):
    caplog.set_level("INFO")
    smi(None)
    monkeypatch.setattr(installation, "has_gpu", lambda: False)
    for chosen in (None, "7", "GPU-abc", "all"):  # nothing of another machine is taken for a GPU
        if chosen:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert visible_gpus() == []
    with gpu_lock("test", tmp_path / "locks", 1) as gpu:
        assert gpu is None and "none visible (CUDA_VISIBLE_DEVICES=all)" in caplog.text
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(installation, "has_gpu", lambda: True)
    with pytest.raises(DeviceError, match="set CUDA_VISIBLE_DEVICES"):
        visible_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-x")
    assert visible_gpus() == ["1", "GPU-x"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    smi("couldn't communicate with the NVIDIA driver\n", status=9)
    assert visible_gpus() == [] and "communicate with the NVIDIA driver" in caplog.text


def test_one_holder_each(smi, tmp_path, monkeypatch):
    smi(LISTING)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    both = {"GPU-aaaa-1", "GPU-cccc-3"}
    firsts = set()
    for _ in range(20):
        with ExitStack() as stack:
            taken = []
            for _ in both:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
                taken.append(stack.enter_context(gpu_lock("a shard", tmp_path / "locks", 0)))
                assert os.environ["CUDA_VISIBLE_DEVICES"] == taken[-1]
            assert set(taken) == both and os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
            firsts.add(taken[0])
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
            with (
                pytest.raises(DeviceError, match=rf"held are GPU-aaaa-1 by process {os.getpid()} on .* for a shard"),
                gpu_lock("another", tmp_path / "locks", 0),
            ):
                pass
    assert firsts == both, "in random order"


def test_waiting_says_for_whom_and_how_long(smi, tmp_path, monkeypatch, caplog):
    smi(LISTING)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    caplog.set_level(logging.INFO)
    first = gpu_lock("the first shard", tmp_path, 0)
    first.__enter__()
    threading.Timer(1.5, first.__exit__, (None, None, None)).start()
    with gpu_lock("the second shard", tmp_path, 30) as gpu:
        assert gpu == "GPU-aaaa-1"
    waiting, leased = caplog.messages[-2:]
    assert waiting.startswith("waiting for a GPU; held are GPU-aaaa-1 by process") and "the first shard" in waiting
    assert float(leased.split()[-4]) > 1


def test_no_gpu_is_no_lease(smi, tmp_path, monkeypatch):
    smi(LISTING)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with gpu_lock("a shard", tmp_path / "locks", 0) as gpu:
        assert gpu is None and os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not (tmp_path / "locks").exists()


def test_lock_files_are_for_all_users(smi, tmp_path):
    smi(LISTING)
    before = os.umask(0o077)
    try:
        with gpu_lock("a shard", tmp_path / "locks", 0) as gpu:
            pass
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "locks" / f"{gpu}.lock").stat().st_mode) == 0o666
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="gpu_lease_dir"), gpu_lock("a shard", tmp_path / "file", 0):
        pass
    (tmp_path / "trap").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("kept")
    for name in ("GPU-aaaa-1", "MIG-1111", "MIG-2222", "GPU-cccc-3"):
        (tmp_path / "trap" / f"{name}.lock").symlink_to(victim)
    with pytest.raises(DeviceError, match="gpu_lease_dir"), gpu_lock("a shard", tmp_path / "trap", 0):
        pass
    assert victim.read_text() == "kept"


HOLDER = """
import multiprocessing, subprocess, sys, time
from pathlib import Path
from virnucpro.gpu import gpu_lock

with gpu_lock("a shard", Path(sys.argv[1]), 0):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    program = subprocess.Popen(["sleep", "60"], close_fds=False)
    print(child.pid, program.pid, flush=True)
    time.sleep(60)
"""


def test_kill_frees_the_gpu_though_children_live_on(smi, tmp_path, monkeypatch):
    smi("GPU 0: One (UUID: GPU-aaaa-1)\n")
    environment = os.environ | {"PYTHONPATH": str(Path(installation.__file__).parents[1])}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "locks")], stdout=subprocess.PIPE, text=True, env=environment
    )
    children = [int(pid) for pid in holder.stdout.readline().split()]
    try:
        with pytest.raises(DeviceError, match=f"process {holder.pid} "), gpu_lock("b", tmp_path / "locks", 0.5):
            pass
        holder.kill()
        holder.wait()
        for pid in children:
            os.kill(pid, 0)
        started = time.monotonic()
        with gpu_lock("b", tmp_path / "locks", 0) as gpu:
            assert gpu == "GPU-aaaa-1" and time.monotonic() - started < 2
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.parametrize(
    ("given", "resources", "visible"),
    [
        ([], [], "be,fore"),
        (["--gpus", "2"], ["--resources=gpu=2"], "be,fore"),
        (["--gpus", "0"], ["--resources=gpu=0"], "be,fore"),
        (["--gpus", "2,3"], ["--resources=gpu=2"], "2,3"),
        (["--gpus", "2,"], ["--resources=gpu=1"], "2"),
        (["--gpus", "GPU-1f, MIG-3a/1/0"], ["--resources=gpu=2"], "GPU-1f,MIG-3a/1/0"),
    ],
)
def test_gpus_of_the_command(smi, tmp_path, monkeypatch, given, resources, visible):
    smi(None)
    monkeypatch.setattr(installation, "has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "be,fore")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")
    started = []
    monkeypatch.setattr(workflow, "run_workflow", lambda work, arguments: started.append(arguments) or 0)
    (tmp_path / "x.fa").write_text(">r\nACGT\n")
    run = CliRunner().invoke(cli, ["predict", str(tmp_path / "x.fa"), "-o", str(tmp_path / "o"), *given], obj=[])
    assert run.exit_code == 0, run.output
    assert [argument for argument in started[0] if argument.startswith("--resources")] == resources
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize(
    ("listed", "given", "says"),
    [
        ("GPU 0: A (UUID: GPU-aaaa)\n", "2", "--gpus asks for 2, but there is 1 here"),
        (None, "2", "--gpus asks for 2, but there are none here"),
        (None, "3,", "--gpus asks for 1, but there are none here"),
    ],
)
def test_more_gpus_than_there_are_end_the_command_before_any_job(smi, tmp_path, monkeypatch, listed, given, says):
    smi(listed)
    monkeypatch.setattr(installation, "has_gpu", lambda: bool(listed))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what the command sets doesn't stay
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(workflow, "run_workflow", lambda work, arguments: pytest.fail("it ran"))
    (tmp_path / "x.fa").write_text(">r\nACGT\n")
    run = CliRunner().invoke(
        cli, ["predict", str(tmp_path / "x.fa"), "-o", str(tmp_path / "o"), "--gpus", given], obj=[]
    )
    assert says in str(run.exception)


def test_a_gpu_of_the_command_that_is_not_there_ends_it_before_any_job(smi, tmp_path, monkeypatch):
    smi("GPU 0: A (UUID: GPU-aaaa)\n")
    started = []
    monkeypatch.setattr(workflow, "run_workflow", lambda work, arguments: started.append(arguments) or 0)
    (tmp_path / "x.fa").write_text(">r\nACGT\n")
    words = ["predict", str(tmp_path / "x.fa"), "-o", str(tmp_path / "o"), "--gpus", "0,9"]
    run = CliRunner().invoke(cli, words, obj=[])
    assert "names GPU 9" in str(run.exception) and not started
    assert CliRunner().invoke(cli, [*words, "--profile", "slurm"], obj=[]).exit_code == 0 and started


@pytest.mark.parametrize("given", ["-1", "two", "2,2", ",", "1;2"])
def test_gpus_that_are_none(tmp_path, given):
    run = CliRunner().invoke(cli, ["predict", "x.fa", "--gpus", given], obj=[])
    assert run.exit_code == 2 and "neither a number of GPUs nor a list" in run.output
