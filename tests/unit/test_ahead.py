"""What is said before the first job: downloads, and models that want a GPU."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from virnucpro.cli import cli
from virnucpro.models.ahead import about_to_run, record_of_digests
from virnucpro.models.sources import KEYS, find, find_published
from virnucpro.settings.presets import PRESETS


def sources(preset, folder):
    return [find(role, PRESETS[preset][key], folder) for role, key in KEYS.items()]


def test_downloads_are_named_with_size_place_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    monkeypatch.delenv("VIRNUCPRO_ESM_URL", raising=False)
    first, *models, last = about_to_run(sources("virnucpro-500", tmp_path), tmp_path / "out", gpus=2).splitlines()
    assert first == f"Models that aren't here are fetched first, 6.2 GB to {tmp_path}:"
    assert [line.split()[:3] for line in models[:2]] == [["3B", "5.7", "GB"], ["DNABERT-S", "470", "MB"]]
    assert models[0].endswith("/esm2_t36_3B_UR50D.pt") and models[1].endswith(
        "https://mirror.example/zhihan1996/DNABERT-S"
    )
    assert last.endswith(f": virnucpro models fetch 3B DNABERT-S virnucpro-500 --models-dir {tmp_path}")
    for source in find_published("virnucpro-500", tmp_path):
        source.path.touch()
    assert about_to_run(sources("virnucpro-500", tmp_path), tmp_path / "out", gpus=2) == "", "all is here"


def test_what_an_earlier_run_fetched_and_prepared_is_not_fetched_again(tmp_path):
    """The models' folder may be emptied once it was."""
    protein, *others = sources("virnucpro-500", tmp_path)
    for source in others:
        record = record_of_digests(source, tmp_path / "out")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.touch()
    said = about_to_run([protein, *others], tmp_path / "out", gpus=2)
    assert "fetched first, 5.7 GB" in said and "DNABERT-S" not in said


def test_training_fetches_no_classifier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda work, arguments: 0)
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    (tmp_path / "t.tsv").write_text("fasta\tlabel\na.fa\tviral\n")
    words = ["train", "t.tsv", "-n", "--preset=virnucpro-500", f"--models-dir={tmp_path}"]
    done = CliRunner().invoke(cli, words, obj=[])
    assert done.exit_code == 0, done.output
    assert "fetch 3B DNABERT-S --models-dir" in done.output


@pytest.mark.parametrize(
    ("preset", "gpus", "warned"),
    [("virnucpro-500", 0, True), ("virnucpro-500", 1, False), ("virnucpro-500", None, False), ("mini-500", 0, False)],
)
def test_days_on_a_cpu_are_told(tmp_path, preset, gpus, warned):
    said = about_to_run(sources(preset, tmp_path), tmp_path, gpus)
    assert ("Without a GPU, 3B takes days" in said) == warned
    assert ("mini-500" in said) == warned


@pytest.mark.parametrize("without", ["--device=cpu", "--gpus=0"])
def test_a_dry_run_says_it_too(tmp_path, monkeypatch, without):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    monkeypatch.setattr("virnucpro.cli.workflow.run_workflow", lambda work, arguments: 0)
    monkeypatch.setattr("virnucpro.gpu.visible_gpus", lambda: ["GPU-a", "GPU-b"])
    words = ["predict", "a.fa", "-n", "--preset=virnucpro-500", f"--models-dir={tmp_path}", without]
    done = CliRunner().invoke(cli, words, obj=[])
    assert done.exit_code == 0 and "6.2 GB" in done.output and "Without a GPU" in done.output
