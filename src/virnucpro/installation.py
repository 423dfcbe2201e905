"""Where the workflow's own files are: in a clone, or carried by the installed package."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Folder that holds ``workflow/``, ``config/``, ``envs/`` and ``resources/``."""
    carried = _PACKAGE / "_bundle"
    return carried if carried.is_dir() else _PACKAGE.parents[1]


def snakefile() -> Path:
    """The workflow's entry point."""
    return root() / "workflow" / "Snakefile"


def prepare_environment() -> None:
    """Set what the jobs inherit from this process.

    In a clone, ``PYTHONPATH``, so that they find this package whatever their own environment.
    ``OMP_WAIT_POLICY``: a thread that waits for another must not hold the core which that one needs; where other jobs
    keep the cores busy, spinning makes small models ten times slower. OpenMP reads it when PyTorch is loaded.
    ``TRITON_CACHE_DIR`` and ``TORCHINDUCTOR_CACHE_DIR``, so that only the first job compiles, on whichever node.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    kernels = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "virnucpro" / "kernels"
    with suppress(OSError):  # a home that can't be written: each node then compiles for itself
        kernels.mkdir(parents=True, exist_ok=True)
        if os.access(kernels, os.W_OK):
            os.environ.setdefault("TRITON_CACHE_DIR", str(kernels / "triton"))
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kernels / "inductor"))
    source = str(_PACKAGE.parent)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != source]
    if not (_PACKAGE / "_bundle").is_dir():
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *paths])


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device, told without loading a driver or PyTorch."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
