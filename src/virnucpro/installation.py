"""Where the workflow's own files are: in a clone, or carried by the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Folder that holds ``workflow/``, ``config/``, ``envs/`` and ``resources/``."""
    carried = _PACKAGE / "_bundle"
    return carried if carried.is_dir() else _PACKAGE.parents[1]


def snakefile() -> Path:
    """The workflow's entry point."""
    return root() / "workflow" / "Snakefile"
