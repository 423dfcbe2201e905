"""What a user's mistake looks like through the real command: one message with file and record, status ≠ 0."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from tests.workflow.conftest import coding, fasta
from tests.workflow.runner import snakemake

GOOD = fasta({"r1": coding(1, 700)})
PROTEIN = ">p1\nMKVLATEFILPQEFILPQ\n"


def nothing_done(folder: Path) -> bool:
    results = folder / "results"
    return not any(list(results.glob(f"*/{name}")) for name in ("*.tsv", "*.txt", "*.h5", "shards", ".*.tmp"))


def test_bad_fasta(tmp_path, tiny):
    cases = {
        "empty": (b"", "empty"),
        "protein": (PROTEIN.encode(), "record 'p1'", "protein"),
        "truncated": (gzip.compress(GOOD.encode(), mtime=0)[:-20], "gzip"),
        "duplicate": ((GOOD + GOOD).encode(), "r1"),
    }
    for name, (content, *_) in cases.items():
        (tmp_path / f"{name}.fa").write_bytes(content)
    (tmp_path / "samples.tsv").write_text("sample\tfasta\n" + "".join(f"{name}\t{name}.fa\n" for name in cases))
    run = snakemake(tmp_path, "--until", "split", "--keep-going", config=tiny.config() | {"samples": "samples.tsv"})
    assert run.status != 0
    for name, (_, *says) in cases.items():
        (message,) = {line for line in run.text.splitlines() if " ERROR " in line and f"{name}.fa" in line}
        assert all(word in message for word in says), message
        assert message in (tmp_path / "results" / "logs" / "split" / "pooled" / "duplicate.log").read_text()
    assert "Traceback" not in run.text
    assert nothing_done(tmp_path)


def test_a_misspelt_switch_ends_the_run_before_any_job(tmp_path):
    run = snakemake(tmp_path, VIRNUCPRO_DISABLE_FP61="1")
    assert run.status != 0 and "VIRNUCPRO_DISABLE_FP61; did you mean VIRNUCPRO_DISABLE_FP16?" in run.text
    assert "Traceback" not in run.text and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"chunk_lenght": 300}, ["chunk_lenght", "chunk_length"]),
        pytest.param({"precision": "fp61"}, ["precision", "fp61", "fp16"], marks=pytest.mark.soak),
        ({"samples": "absent.tsv"}, ["absent.tsv", "no such sample sheet"]),
        ({"samples": "typo.tsv"}, ["inptu.fa", "did you mean 'input.fa'", "typo.tsv"]),
        pytest.param({"samples": "slash.tsv"}, ["a/b"], marks=pytest.mark.soak),
        ({"esm_model": "4B"}, ["esm_model", "4B", "did you mean '3B'"]),
        pytest.param({"classifier": "absent.pth"}, ["classifier", "absent.pth"], marks=pytest.mark.soak),
    ],
    ids=["unknown-key", "wrong-value", "no-sheet", "no-fasta", "bad-sample", "no-such-model", "no-classifier"],
)
def test_errors_before_any_job(tmp_path, tiny, config, says):
    (tmp_path / "input.fa").write_text(GOOD)
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\n")
    (tmp_path / "typo.tsv").write_text("sample\tfasta\ns\tinptu.fa\n")
    (tmp_path / "slash.tsv").write_text("sample\tfasta\na/b\tinput.fa\n")
    run = snakemake(tmp_path, config=tiny.config() | {"samples": "samples.tsv"} | config)
    assert run.status != 0
    assert all(word in run.text for word in says), run.text
    assert "jobid:" not in run.text
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"output_dir": "2024_01_15"}, "'output_dir' was read as a number (20240115)"),
        pytest.param({"output_dir": "a{b}"}, "'output_dir': a{b}: has { or }", marks=pytest.mark.soak),
        ({"output_dir": "taken"}, "taken/s: is a file, where the folder of sample 's' has to be"),
        pytest.param({"samples": "twice.tsv"}, "twice.tsv, line 3: ", marks=pytest.mark.soak),
        ({"samples": "pipe.tsv"}, "pipe: is a pipe"),
        pytest.param({"samples": "link.tsv"}, "link: is a link to gone, which doesn't exist", marks=pytest.mark.soak),
        ({"samples": "~nosuchuser/s.tsv"}, "~nosuchuser/s.tsv: no such sample sheet"),
    ],
    ids=["number", "braces", "taken", "twice", "pipe", "link", "nobody"],
)
def test_paths_and_tables_that_snakemake_alone_would_trip_over(tmp_path, config, says):
    (tmp_path / "input.fa").write_text(GOOD)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "s").touch()
    (tmp_path / "link").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    for name, rows in {
        "samples": "s\tinput.fa",
        "twice": "s\tinput.fa\n" * 2,
        "pipe": "s\tpipe",
        "link": "s\tlink",
    }.items():
        (tmp_path / f"{name}.tsv").write_text(f"sample\tfasta\n{rows}\n")
    run = snakemake(tmp_path, "--dry-run", config={"samples": "samples.tsv"} | config)
    assert run.status == 1 and says in run.text and "Traceback (most recent call last)" not in run.text, run.text


def test_another_workflows_configuration_is_named(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("genome: hg38\n")
    run = snakemake(tmp_path, "--dry-run")
    assert run.status == 1 and "config/config.yaml in" in run.text and "unknown configuration key 'genome'" in run.text
    (tmp_path / "config" / "config.yaml").write_text("output_dir: a\noutput_dir: b\n")
    run = snakemake(tmp_path, "--dry-run")
    assert run.status == 1 and "config.yaml, line 2: isn't YAML: 'output_dir' is there twice" in run.text


def test_odd_names_are_what_they_are_called(tmp_path):
    """In the home, a pattern in a folder that looks like one, a number as a folder."""
    here = tmp_path / "run[1]"
    here.mkdir()
    (here / "a b.fa").write_text(GOOD)
    (tmp_path / "s.csv").write_text("\ufeffsample;fasta\r\n" + f"x;{'run[[]1]'}/*.fa\r\ny;run[1]/a b.fa\r\n")
    run = snakemake(here, "--dry-run", config={"samples": "~/s.csv", "output_dir": "./007"}, HOME=str(tmp_path)).ok()
    assert f"input: {here}/a b.fa, {here}/a b.fa\n" in run.text and "output: 007/pooled/x/shards\n" in run.text, (
        run.text
    )


def test_a_working_directory_that_cannot_be_written(tmp_path):
    """A file in the place of a folder stands for it, since root may write everywhere."""
    (tmp_path / ".snakemake").touch()
    run = snakemake(tmp_path, "--dry-run")
    assert run.status != 0 and "Traceback" not in run.text
    assert f"{tmp_path / '.snakemake'} can't be written to" in run.text and "with --directory" in run.text


def test_a_classifier_that_does_not_fit_stops_before_embedding(tmp_path, tiny):
    (tmp_path / "input.fa").write_text(GOOD)
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\n")
    run = snakemake(tmp_path, config=tiny.config("esm_a", "classifier_wide") | {"samples": "samples.tsv"})
    assert run.status != 0
    assert "takes 3,328 inputs" in run.text and "together 64" in run.text
    assert run.computed == {"embed_dnabert_s": 0, "embed_esm2": 0}


def test_a_shard_that_was_cut_short(tmp_path, tiny):
    (tmp_path / "input.fa").write_text(GOOD)
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\n")
    config = tiny.config() | {"samples": "samples.tsv"}
    snakemake(tmp_path, "--until", "split", config=config).ok()
    shard = next((tmp_path / "results" / "s" / "shards").glob("*.faa"))
    shard.write_bytes(shard.read_bytes()[:-10])
    run = snakemake(tmp_path, config=config)
    assert run.status != 0
    assert shard.name in run.text
    assert run.computed["embed_esm2"] == 0
    assert not (tmp_path / "results" / "s" / "embeddings.h5").exists()


def test_what_only_looks_wrong_is_right(tmp_path, tiny):
    """CRLF, lower case, gzip, no final newline, and a protein of one T."""
    odd = ("\r\n".join([">r1 note", coding(1, 700).lower(), ">r2", "ACT"])).encode()
    (tmp_path / "input.fa").write_bytes(gzip.compress(odd))
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ns\tinput.fa\n")
    snakemake(tmp_path, config=tiny.config() | {"samples": "samples.tsv"}).ok()
    frames = (tmp_path / "results" / "s" / "predictions.tsv").read_text().splitlines()[1:]
    assert any(line.startswith("r2_chunk_1F1\t") for line in frames)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("results/here", "output_dir: results is a file. Name a folder."),
        ("/proc/here", "output_dir: /proc/here can't be written to (No such file or directory). Name another folder."),
        ("/proc", "output_dir: /proc can't be written to (No such file or directory). Name another folder."),
    ],
)
def test_an_output_folder_that_can_not_be(tmp_path, tiny, folder, says):
    (tmp_path / "in.fa").write_text(GOOD)
    (tmp_path / "samples.tsv").write_text("sample\tfasta\ns\tin.fa\n")
    (tmp_path / "results").write_text("")
    run = snakemake(tmp_path, config=tiny.config() | {"samples": "samples.tsv", "output_dir": folder})
    assert run.status == 1 and says in run.text and "Traceback" not in run.text
