"""Runs the real ``snakemake`` command as a user does, and counts what was computed."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from virnucpro import installation

ROOT = installation.root()
PARITY = Path(__file__).parents[1] / "data" / "parity"

WITHOUT_BF16 = {"ATEN_CPU_CAPABILITY": "avx2"} if platform.machine() == "x86_64" else {}
"""For a process's environment: PyTorch as on a processor that doesn't multiply bf16 numbers, so that ``auto`` is fp32."""


@dataclass
class Run:
    """A finished run: exit status and everything it printed."""

    status: int
    text: str

    @property
    def computed(self) -> dict[str, int]:
        """Shards that an encoder really embedded, by rule."""
        counts = {"embed_dnabert_s": 0, "embed_esm2": 0}
        for name in re.findall(r"computed \d+ embeddings of (\w+)", self.text):
            counts[f"embed_{name}"] = counts.get(f"embed_{name}", 0) + 1
        return counts

    @property
    def cache_hits(self) -> int:
        return self.text.count("cache hit: ")

    @property
    def nothing_to_do(self) -> bool:
        return "Nothing to be done" in self.text

    def ok(self) -> Run:
        assert self.status == 0, self.text
        return self


def environment() -> dict[str, str]:
    """The user's environment without this process's own settings, one thread per library.

    And ``WITHOUT_BF16``, so that tests compare the same numbers on every machine.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("VIRNUCPRO_", "SNAKEMAKE_", "PYTHONPATH"))
    }
    return kept | {"OMP_NUM_THREADS": "1"} | WITHOUT_BF16


def command(*arguments: str, config: dict | None = None) -> list[str]:
    settings = ["--config", *(f"{key}={value}" for key, value in config.items())] if config else []
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "workflow" / "Snakefile"),
        "--cores",
        "2",
        *arguments,
        *settings,
    ]


def snakemake(folder: Path, *arguments: str, config: dict | None = None, **variables: str) -> Run:
    """Run the workflow in ``folder``, which has no configuration file."""
    done = subprocess.run(
        command(*arguments, config=config), cwd=folder, capture_output=True, text=True, env=environment() | variables,
        timeout=600,
    )  # fmt: skip
    return Run(done.returncode, done.stdout + done.stderr)
