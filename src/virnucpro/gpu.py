"""Which GPUs there are, and the lock that a job holds on one.

Snakemake only counts GPUs. So a job locks a file named after the device, before PyTorch is loaded, and shows itself that
device alone. The lock is free again when the process ends, however that ends.
"""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from virnucpro import installation
from virnucpro.errors import ConfigError, DeviceError
from virnucpro.locks import describe_holder, try_lock
from virnucpro.settings.options import Settings

logger = logging.getLogger(__name__)

_LISTED = re.compile(r"^(?:GPU (\d+):|\s+MIG ).*\(UUID:\s*([^\s)]+)\)", re.MULTILINE)
_POLL_SECONDS = (0.2, 1.0)
"""Between two looks for a free GPU, drawn anew each time, so that waiting jobs don't all look at once."""


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA names them: UUIDs, and MIG instances in place of a GPU split into such.

    They are what CUDA_VISIBLE_DEVICES says (indices in the order of the PCI bus, UUIDs or their beginnings, MIG
    ids), else all that nvidia-smi lists. Without nvidia-smi the entries of CUDA_VISIBLE_DEVICES stand for themselves where
    there is a GPU, and for nothing where there is none.

    Raises:
        DeviceError: CUDA_VISIBLE_DEVICES names a GPU that isn't there, or nothing says which there are.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = _list_gpus()
    if listed is None and not installation.has_gpu():
        return []
    if chosen is None:
        if listed is None:
            raise DeviceError(
                "there are GPUs, but no nvidia-smi to name them. Install it, or set CUDA_VISIBLE_DEVICES."
            )
        return [name for gpu, *instances in listed or () for name in instances or [gpu]]
    found: list[str] = []
    for entry in map(str.strip, chosen.split(",")):
        if entry in ("", "-1", "NoDevFiles"):  # as in CUDA: nothing counts from here on
            break
        found += [entry] if listed is None else _named(entry, listed)
    return list(dict.fromkeys(found))


def gpus_to_use(device: str, limit: int | None) -> int:
    """How many GPUs the embedding jobs of a run on this machine share.

    Args:
        device: of the configuration.
        limit: how many the run may use; None for all.

    Raises:
        DeviceError: see ``visible_gpus``.
    """
    if device == "cpu" or limit == 0:
        return 0
    found = len(visible_gpus())
    return found if limit is None else min(found, limit)


def _named(entry: str, listed: list[list[str]]) -> list[str]:
    """The devices that an entry of CUDA_VISIBLE_DEVICES stands for."""
    if entry.startswith("MIG-GPU-"):  # MIG-GPU-<uuid>/<instance>/<compute instance>, as older drivers name them
        return [entry]
    for number, (gpu, *instances) in enumerate(listed):
        if entry == str(number) or (entry.startswith("GPU-") and gpu.startswith(entry)):
            return instances or [gpu]
        if entry in instances:
            return [entry]
    names = ", ".join(f"{number} ({gpu})" for number, (gpu, *_) in enumerate(listed)) or "none"
    raise DeviceError(f"CUDA_VISIBLE_DEVICES names GPU {entry}; nvidia-smi lists {names}. Correct or unset it.")


def _list_gpus() -> list[list[str]] | None:
    """UUID of each GPU in the order of the PCI bus, with those of its MIG instances; None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:  # what subprocess says of it depends on folders of PATH that can't be read
        return None
    try:
        run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"nvidia-smi doesn't answer ({error}). Try `nvidia-smi -L`, or set device to cpu.") from None
    if run.returncode:  # as on a machine that has the driver's programs, but no GPU
        logger.warning("nvidia-smi finds no GPU: %s", (run.stdout + run.stderr).strip())
    gpus: list[list[str]] = []
    for number, uuid in _LISTED.findall(run.stdout):
        if number:
            gpus.append([uuid])
        else:
            gpus[-1].append(uuid)
    return gpus


@contextmanager
def gpu_lock(purpose: str, folder: Path, timeout: float) -> Iterator[str | None]:
    """Hold the lock on one of the visible GPUs, waiting until one is free; None where there is no GPU.

    From then on CUDA_VISIBLE_DEVICES names it alone, after the block too: this process's CUDA knows no other.

    Args:
        purpose: what it is for; those who wait see it.
        folder: a folder of this machine, the same for all its users, for a lock file per GPU.
        timeout: seconds to wait at most.

    Raises:
        DeviceError: none became free (names the holders), a lock file can't be made, or as ``visible_gpus``.
    """
    gpus = visible_gpus()
    if not gpus:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        logger.info("no NVIDIA GPU here, or none visible%s", f" (CUDA_VISIBLE_DEVICES={chosen})" if chosen else "")
        yield None
        return
    started, shown = time.monotonic(), ""
    while (taken := _take(gpus, folder, purpose)) is None:
        holders = ", ".join(f"{gpu} by {describe_holder(_lock_file(folder, gpu))}" for gpu in gpus)
        if time.monotonic() - started > timeout:
            raise DeviceError(
                f"no GPU became free in {timeout:,.0f} s; held are {holders}. End that, raise gpu_lease_timeout, "
                "or set gpu_lease to false where jobs may share a GPU."
            )
        if holders != shown:
            logger.info("waiting for a GPU; held are %s", holders)
            shown = holders
        time.sleep(random.uniform(*_POLL_SECONDS))
    gpu, lock = taken
    try:
        os.environ |= {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        logger.info("leased GPU: %s, after %.1f s of waiting", gpu, time.monotonic() - started)
        yield gpu
    finally:
        lock.release()


def _take(gpus: Sequence[str], folder: Path, purpose: str) -> tuple[str, FileLock] | None:
    """Lock one of the GPUs, if one is free."""
    for gpu in random.sample(gpus, len(gpus)):
        try:
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                folder.chmod(0o1777)
            if lock := try_lock(_lock_file(folder, gpu), purpose):
                return gpu, lock
        except OSError as error:
            raise DeviceError(
                f"can't open the lock of GPU {gpu} ({error}). Make {folder} a folder that all users can write to, or "
                "choose another one of this machine as gpu_lease_dir."
            ) from None
    return None


def _lock_file(folder: Path, gpu: str) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock"


def job_settings(configuration: Mapping[str, Any], resources: Mapping[str, Any]) -> Settings:
    """The options of a job, whose device is the CPU if it was given no GPU.

    Args:
        configuration: all options, resolved.
        resources: what the job was given: ``gpu`` is a number, and 0 where the run was told to use none
            (``--resources gpu=0``), unless ``gres`` says that a cluster counts its GPUs there.

    Raises:
        ConfigError: the configuration says ``device: cuda``, and there is none to be used.
    """
    settings = Settings(**configuration)
    if resources.get("gpu", 1) or "gres" in resources or settings.device == "cpu":
        return settings
    if settings.device == "cuda":
        raise ConfigError("The configuration says device: cuda, but --resources gpu=0 leaves no GPU. Drop one of them.")
    return replace(settings, device="cpu")
