"""No run writes over a file of the user's."""

from __future__ import annotations

import os
import time

import pytest

from virnucpro.embeddings.cache import prune_cache
from virnucpro.errors import ConfigError
from virnucpro.outputs import (
    OWN_FIRST_LINE,
    REGIONS,
    SAMPLE_FILES,
    check_clock,
    check_own,
    identity,
    refuse_existing,
    refuse_foreign,
    refuse_inputs,
    refuse_replacing,
    remove_regions,
    without_future,
    write_own,
)
from virnucpro.result_tables import REGION_COLUMNS


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A working folder with one sample's folder, and a file of the user's in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "s").mkdir(parents=True)
    (tmp_path / "out" / "s" / "viral.fasta.gz").write_text("mine")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "spelling", ["out/s/viral.fasta.gz", "out/../out/./s/viral.fasta.gz", "link/s/viral.fasta.gz", "pointing.fa"]
)
@pytest.mark.parametrize("folder", ["out", "./out/", "link"])
def test_an_input_that_is_an_output(out, spelling, folder):
    os.symlink("out", "link")
    os.symlink("out/s/viral.fasta.gz", "pointing.fa")
    with pytest.raises(ConfigError, match=r"is an input of this run, which would write .*s/viral\.fasta\.gz"):
        refuse_inputs(folder, ["r", "s"], ["other.fa", spelling])


def test_an_input_in_a_folder_that_is_replaced(out):
    (out / "s" / "shards").mkdir()
    (out / "s" / "shards" / "mine.fa").write_text(">a\nACGT\n")
    with pytest.raises(ConfigError, match="shards"):
        refuse_inputs("out", ["s"], ["out/s/shards/mine.fa"])
    with pytest.raises(ConfigError, match="prepared"):
        refuse_inputs("out", ["s"], ["out/prepared/model.pt"], ["out/prepared"])


def test_a_samples_folder_that_is_a_link(out):
    (out / "s").rename("elsewhere")
    os.symlink("../elsewhere", "out/s")
    with pytest.raises(ConfigError, match="elsewhere/viral"):
        refuse_inputs("out", ["s"], ["elsewhere/viral.fasta.gz"])


def test_another_spelling_of_the_name(out):
    """As on a file system without upper and lower case; a hard link stands for it."""
    os.link("out/s/viral.fasta.gz", "out/s/VIRAL.fasta.gz")
    with pytest.raises(ConfigError, match="VIRAL"):
        refuse_inputs("out", ["s"], ["out/s/VIRAL.fasta.gz"])


def test_inputs_beside_the_outputs_are_fine(out):
    (out / "training").mkdir()
    for name in ("inputs.fa", "s/notes.txt", "training/classifier.safetensors", "r"):
        (out / name).write_text("x")
    names = ["out/inputs.fa", "out/s/notes.txt", "out/training/classifier.safetensors", "in.fa", "gut=-"]
    refuse_inputs("out", ["s"], [*names, "out/other/viral.fasta.gz"])


@pytest.mark.parametrize("name", [*SAMPLE_FILES, "shards", "embeddings"])
def test_a_file_that_no_run_made(out, name):
    (out / "s" / "viral.fasta.gz").unlink()
    refuse_foreign(out, ["s"])
    path = out / "s" / name
    if "." in name:
        path.write_text("mine")
    else:
        path.mkdir()
    if name == "summary.json":  # which says so
        refuse_foreign(out, ["s"])
        return
    with pytest.raises(ConfigError, match=f"{name} is there already, and no run of VirNucPro made it"):
        refuse_foreign(out, ["r", "s"])
    (out / "logs" / "split").mkdir(parents=True)
    (out / "logs" / "split" / "s.log").write_text("2026-01-01 00:00:00 INFO virnucpro 0.1.0 on host\n")
    refuse_foreign(out, ["s"])


@pytest.mark.parametrize("rule", ["split", "predict"])
def test_logs_of_another_workflow(out, rule):
    """Whose rules and samples may have the same names; they tell nothing of who made the sample's folder."""
    log = out / "logs" / rule / "new.log"
    log.parent.mkdir(parents=True)
    log.touch()
    refuse_foreign(out, ["new"])
    log.write_text("splitting\n")
    with pytest.raises(ConfigError, match=rf"logs/{rule}/new\.log is there already"):
        refuse_foreign(out, ["new"])
    (out / "new").mkdir()
    (out / "new" / "report.html").write_text("mine")
    with pytest.raises(ConfigError, match=r"new/report\.html is there already"):
        refuse_foreign(out, ["new"])


def test_folders_of_targets_and_the_page_over_all_samples(out):
    (out / "report.html").write_text("<html>mine")
    (out / "evaluation").mkdir()
    (out / "training").mkdir()
    refuse_foreign(out, ["r"], ["evaluation", "training"])
    with pytest.raises(ConfigError, match=r"report\.html"):
        refuse_foreign(out, ["r", "t"])
    (out / "evaluation" / "notes.txt").write_text("mine")
    (out / "training" / "split.tsv").write_text("mine")
    for target in ("evaluation", "training"):
        with pytest.raises(ConfigError, match=target):
            refuse_foreign(out, ["r"], [target])
        (out / target / f"{target}.json").write_text("{}")
        refuse_foreign(out, ["r"], [target])


def test_what_the_command_writes(out):
    path = out / "config.yaml"
    check_own(path)
    write_own(path, "a: 1\n")
    assert path.read_text().startswith(OWN_FIRST_LINE)
    check_own(path)
    check_own(out / "s" / "viral.fasta.gz", out / "absent", path)
    before = path.stat().st_mtime_ns
    write_own(path, "a: 1\n")
    assert path.stat().st_mtime_ns == before
    refuse_replacing(path, "a: 1\n", ["out/config.yaml"])
    with pytest.raises(ConfigError, match=r"out/config\.yaml is an input of this run"):
        refuse_replacing(path, "a: 2\n", ["in.fa", "out/config.yaml"])
    path.write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"config\.yaml is there already"):
        check_own(path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"config\.yaml is there already"):
        check_own(path)


def test_what_the_user_names_for_writing(out):
    refuse_existing(out / "new", False)
    with pytest.raises(ConfigError, match="--force"):
        refuse_existing(out / "s" / "viral.fasta.gz", False)
    refuse_existing(out / "s" / "viral.fasta.gz", True, "in.pth")
    with pytest.raises(ConfigError, match="is the file to be read"):
        refuse_existing(out / "s" / "viral.fasta.gz", True, out / "s" / ".." / "s" / "viral.fasta.gz")


def test_files_of_regions_are_removed_if_a_run_made_them(out):
    folder = out / "s"
    for name in REGIONS.values():
        (folder / name).write_text("mine")
    remove_regions(folder)
    assert (folder / "regions.bed").read_text() == "mine"
    (folder / "regions.tsv").write_text("\t".join(REGION_COLUMNS) + "\n")
    remove_regions(folder)
    assert not any((folder / name).exists() for name in REGIONS.values()) and (folder / "viral.fasta.gz").exists()
    remove_regions(folder)


def test_identity_and_dates(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text("abc")
    os.utime(path, ns=(5, 7))
    assert identity([path]) == [[3, 7]]
    assert without_future([path, tmp_path / "absent"], now=0.0) == [str(tmp_path / "absent")]
    assert without_future([path], now=1.0) == [str(path)]
    with pytest.raises(FileNotFoundError):
        identity([tmp_path / "absent"])


def test_a_file_system_whose_clock_is_behind(tmp_path):
    now = time.time()
    path = tmp_path / "in put.fa"
    path.write_text("")
    check_clock(tmp_path, now + 1, [path, tmp_path / "absent"], now + 1)
    with pytest.raises(ConfigError, match=r"in put\.fa: dated 5\d s after the clock of .*\ntouch -d '1 day ago' '"):
        check_clock(tmp_path, now - 55, [path], now + 5)
    os.utime(path, (now + 100, now + 100))  # no input of a job then
    check_clock(tmp_path, now - 55, [path], now)


def test_pruning_takes_entries_of_a_cache_only(tmp_path):
    entry = tmp_path / "embeddings" / "e" / "key" / ("0" * 32 + ".h5")
    entry.parent.mkdir(parents=True)
    for path in (entry, entry.with_name("mine.h5")):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="a sample's folder"):
        prune_cache(tmp_path, 1)
    (tmp_path / "summary.json").unlink()
    assert prune_cache(tmp_path, 1) == (1, 1)
    assert [path.name for path in entry.parent.iterdir()] == ["mine.h5"]
