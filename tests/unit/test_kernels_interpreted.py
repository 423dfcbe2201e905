"""The kernels without a GPU: their results in Triton's interpreter, their machine code for every kind of GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest

from virnucpro import installation

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed here")


def in_a_process_of_its_own(*arguments: str, **environment: str) -> str:
    """Triton reads TRITON_INTERPRET when it is imported, so it can't be changed here."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=installation.root(),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return run.stdout


@needs_triton
def test_results():
    out = in_a_process_of_its_own("-m", "pytest", "-q", "tests/kernels/test_kernels.py", TRITON_INTERPRET="1")
    assert " passed" in out and "skipped" not in out


@needs_triton
@pytest.mark.parametrize(
    "which",
    [
        pytest.param(which, marks=pytest.mark.ci if which == "86 widest" else pytest.mark.soak)
        for which in ("86 widest", "80", "86", "89", "90", "100")
    ],
)
def test_machine_code(which):
    """Compiled ahead, as it would be there: see compile_ahead.py for what is asked. Memory is smallest on 86."""
    out = in_a_process_of_its_own("tests/kernels/compile_ahead.py", *which.split(), TRITON_INTERPRET="0")
    assert "attention_kernel" in out
