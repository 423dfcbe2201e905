"""The package built, as a wheel from its source distribution, and installed far from the clone: it carries the workflow along."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.workflow.runner import ROOT, environment

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> Path:
    """``virnucpro`` in a virtual environment of its own, which finds the other packages where this one does."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True
    )  # the wheel from the .tar.gz
    venv.create(folder / "env", with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(folder / "env/bin/python"), "install", "--no-deps", str(wheel)], check=True)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "env/bin/virnucpro"


def test_what_is_shipped(command):
    folder = command.parents[2]
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        shipped = set(file.namelist())
    package = {
        str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".typed")
    }
    assert "virnucpro/py.typed" in package <= shipped
    for name in ("workflow/Snakefile", "config/config.yaml", "envs/cpu.yaml", "resources/models/mini-500.safetensors"):
        assert f"virnucpro/_bundle/{name}" in shipped
    with tarfile.open(source) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "recipe/meta.yaml", "tests/conftest.py"} <= names
    assert not {name for name in names if name.startswith((".venv", ".git/", "dist", "results"))}


def test_it_runs_from_another_folder(command, tmp_path):
    kept = {key: value for key, value in environment().items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def run(*words: str) -> str:
        done = subprocess.run([command, *words], cwd=tmp_path, capture_output=True, text=True, env=kept, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "mine.fa").write_bytes((ROOT / "resources/example/contigs.fa").read_bytes())
    assert "calls: balanced" in run("config", "show")
    where = run("doctor", "mine.fa", "--no-measure")
    assert str(command.parents[1]) in where and str(ROOT / "resources") not in where
    assert run("predict", "mine.fa", "-o", "out", "-c", "2").strip() == str(tmp_path / "out/mine/report.html")
    assert len((tmp_path / "out/mine/contigs.tsv").read_text().splitlines()) == 21
