"""The examples of docs/library.md, run as a reader would, give what the workflow gives."""

from __future__ import annotations

import csv
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from tests.workflow.runner import ROOT, environment

pytestmark = pytest.mark.ci


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "library.md").read_text(), flags=re.M | re.S)


def table(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.soak  # mypy reads all of the package
def test_their_types(tmp_path):
    """As a type checker sees the package, which has a ``py.typed``, from elsewhere."""
    pytest.importorskip("mypy", reason="needs mypy, of the extra lint")
    embedding, preparing, *others = examples()
    for number, text in enumerate([embedding + preparing, *others]):
        (tmp_path / f"example_{number}.py").write_text(text)
    options = ["--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, *map(str, sorted(tmp_path.glob("*.py")))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples(tmp_path, monkeypatch):
    contigs = (ROOT / "resources/example/contigs.fa").read_text()[1:].split("\n>")
    (tmp_path / "contigs.fa").write_text("".join(f">{text.rstrip()}\n" for text in sorted(contigs, key=len)[:3]))
    command = [sys.executable, "-m", "virnucpro", "predict", "contigs.fa", "--output", "out", "--cores", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    embedding, preparing, scoring, reading, exporting = examples()
    names: dict = {}
    for text in (embedding, preparing):
        exec(text, names)
    assert names["vectors"].shape == (2, names["encoder"].config.width) and names["vectors"].dtype == np.float32
    same = names["embed"](names["encoder"], ["a"], [names["proteins"]["a"]]).vectors  # the prepared one
    assert np.abs(same - names["vectors"][:1]).max() < 1e-5

    exec(scoring, names := {})
    expected = {row["frame_id"]: float(row["score_virus"]) for row in table("out/contigs/predictions.tsv")}
    assert names["scored"].keys() == expected.keys() and len(expected) > 3
    assert max(abs(names["scored"][frame] - score) for frame, score in expected.items()) < 1e-4

    exec(reading, names := {})
    assert names["ids"] == list(expected) and names["merged"].count == len(expected)
    assert names["dna"].shape == names["protein"].shape == (len(expected), 160)

    exec(exporting, names := {})
    contigs = table("out/contigs/contigs.tsv")
    assert names["rows"] + names["left_out"] == len(contigs)
    with h5py.File("contigs.h5ad") as file:
        assert file["X"].shape == (names["rows"], 320) and np.isfinite(file["X"][()]).all()
