"""An image that was built, run as on a machine that allows little: a read-only root, no network, a user without name or home.

``VIRNUCPRO_TEST_IMAGE`` names the image, ``VIRNUCPRO_TEST_ENGINE`` the program that runs it, if not podman or docker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.runner import PARITY, ROOT
from tests.workflow.test_parity import check, original_models

pytestmark = pytest.mark.soak
USER = 12345

Run = Callable[..., str]


@pytest.fixture
def inside(tmp_path) -> Run:
    """Runs ``virnucpro`` with these words in the image, in ``tmp_path`` as its only folder that can be written to."""
    image = os.environ.get("VIRNUCPRO_TEST_IMAGE")
    engine = os.environ.get("VIRNUCPRO_TEST_ENGINE") or shutil.which("podman") or shutil.which("docker")
    if not image or not engine:
        pytest.skip("needs an image and what runs it: set VIRNUCPRO_TEST_IMAGE to its name, after make image")
    where = ["--volume", f"{tmp_path}:/work", "--entrypoint", "sh"]
    limits = ["--network", "none", "--read-only", "--user", f"{USER}:{USER}"]

    def run(*words: str) -> str:
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.chown(path, USER, USER)
        command = [engine, "run", "--rm", *limits, *where, image, "-c", 'unset HOME; exec virnucpro "$@"', "sh", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    if os.geteuid() != 0:
        pytest.skip("needs root, to give files to another user")
    return run


def test_the_example(inside, tmp_path):
    shutil.copy(ROOT / "resources/example/contigs.fa", tmp_path)
    said = inside("doctor", "contigs.fa")
    assert "packages: " in said and "PROBLEM" not in said and said.splitlines()[-1] == "The run can work."
    assert inside("predict", "contigs.fa", "--output", "out", "--cores", "2").strip() == "/work/out/contigs/report.html"
    assert len((tmp_path / "out/contigs/contigs.tsv").read_text().splitlines()) == 19
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {USER}


def test_the_originals_run(inside, tmp_path):
    shutil.copy(PARITY / "input.fa", tmp_path)
    models = original_models(tmp_path)
    options = [
        f"--{key.replace('_', '-')}={value.relative_to(tmp_path) if isinstance(value, Path) else value}"
        for key, value in models.items()
    ]
    inside("predict", "input.fa", "--output", "out", "--cores", "2", *options)
    check(tmp_path / "out" / "input")
