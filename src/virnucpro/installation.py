"""Where the workflow's own files are: in a clone, or carried by the installed package."""

from __future__ import annotations

import getpass
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


def prepare_account(folder: Path) -> None:
    """Let this process and its children run without a home that they can write to, or a name for their user.

    Snakemake and matplotlib keep files in the home's cache, and Snakemake logs the user's name; in containers there may be
    neither. ``folder``, which must be the user's own, then takes the caches.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["LOGNAME"] = str(os.getuid())
    if not os.path.isabs(os.path.expanduser("~")):
        os.environ["HOME"] = str(folder)
    cache = user_cache()
    if cache is None or not _writable(cache / "snakemake"):
        os.environ["XDG_CACHE_HOME"] = os.environ["MPLCONFIGDIR"] = str(folder)


def user_cache() -> Path | None:
    """The folder of this user's caches; None where there is no home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache if cache.is_absolute() else None


def _writable(folder: Path) -> bool:
    """Whether a folder is there, or can be made, and takes files."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK | os.X_OK)
    return False


def prepare_environment(alone: bool) -> None:
    """Set what the jobs inherit from this process; ``alone`` if they are this workflow's only, not those of one that uses it.

    Then ``PYTHONSAFEPATH``, so that they take no modules from the folder that they start in, such as a user's numpy.py.

    In a clone, ``PYTHONPATH``, so that they find this package whatever their own environment.
    ``OMP_WAIT_POLICY``: a thread that waits for another must not hold the core which that one needs; where other jobs
    keep the cores busy, spinning makes small models ten times slower. OpenMP reads it when PyTorch is loaded.
    ``TRITON_CACHE_DIR`` and ``TORCHINDUCTOR_CACHE_DIR``, so that only the first job compiles, on whichever node.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if alone:
        os.environ["PYTHONSAFEPATH"] = "1"
    cache = user_cache()
    if cache and _writable(kernels := cache / "virnucpro" / "kernels"):  # else each node compiles for itself
        os.environ.setdefault("TRITON_CACHE_DIR", str(kernels / "triton"))
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kernels / "inductor"))
    source = str(_PACKAGE.parent)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != source]
    if not (_PACKAGE / "_bundle").is_dir():
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *paths])


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device, told without loading a driver or PyTorch."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
