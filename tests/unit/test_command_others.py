"""The ``virnucpro`` command's validate, config and benchmark, its help and completion."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from tests.unit.test_command import invoke
from virnucpro import installation
from virnucpro.cli import FIRST, cli
from virnucpro.errors import ConfigError, InputError
from virnucpro.sequences.split import read_sample, split_samples
from virnucpro.sequences.statistics import statistics_of
from virnucpro.settings.configfile import read_config
from virnucpro.settings.documents import commented_defaults
from virnucpro.settings.options import defaults, schema


def test_validate_counts_what_a_run_would_make(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(">a,1\n" + "ATGGCC" * 200 + "\n>b\n>c\nTA\n>" + "n" * 101 + "\nACGT\n")
    counts = statistics_of([path], 300, empty_records="skip")
    manifest = split_samples({"s": [path]}, tmp_path / "shards", 300, 1000, "skip")
    own = read_sample(tmp_path / "shards", "s")
    made = [own[key] for key in ("records", "skipped_records", "bases", "chunks", "frames")]
    assert made == [counts.records, counts.empty_records, counts.bases, counts.windows, counts.open_frames]
    assert counts.residues == sum(shard["residues"] for shard in manifest["shards"])
    ids = [line.split("_chunk_")[0] for shard in manifest["shards"] for line in shard_ids(tmp_path, shard)]
    assert counts.records_without_open_frame == counts.records - len(set(ids)) == 1
    assert (counts.shortest, counts.longest) == (2, 1200)
    assert sorted(counts.remarks.values()) == ["a,1", "n" * 101]
    assert counts.notes == ["left out 1 record without a sequence: b"]
    skip = ("--empty-records", "skip")
    answer = json.loads(invoke("validate", str(path), "--json", "--chunk-length", "300", *skip).output)
    assert answer["x"]["open_frames"] == counts.open_frames
    assert f"{2 * counts.open_frames}" in invoke("validate", str(path), "--preset", "mini-300", *skip).output
    assert "record 'b' has no sequence" in str(invoke("validate", str(path)).exception)


def shard_ids(folder, shard):
    return [line[1:] for line in (folder / "shards" / f"{shard['sha']}.fna").read_text().splitlines()[::2]]


def test_validate_names_what_is_wrong(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nACGT\n>a\nACGT\n")
    with pytest.raises(InputError, match="record 'a' occurs twice"):
        statistics_of([tmp_path / "x.fa"], 300)


def test_config_init_is_the_schema_with_its_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    assert invoke("config", "init", str(path)).output.strip() == str(path)
    assert read_config(path) == defaults()
    assert path.read_text() == commented_defaults()
    words = " ".join(path.read_text().replace("#", " ").split())
    assert all(" ".join(entry["description"].split()) in words for entry in schema()["properties"].values())
    path.write_text("threshold: 0.7\n")
    assert "there already" in str(invoke("config", "init", str(path)).exception)
    assert path.read_text() == "threshold: 0.7\n"
    shown = yaml.safe_load(invoke("config", "show", str(path), "--set", "preset=virnucpro-300").output)
    assert (shown["threshold"], shown["esm_model"], shown["chunk_length"]) == (0.7, "3B", 300)
    assert json.loads(invoke("config", "schema").output) == schema()


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "c.yaml, line 1: isn't YAML: "), ("just words", "no 'key: value' lines"), (None, "can't read")],
)
def test_configuration_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_reads_are_remarked(tmp_path):
    (tmp_path / "r.fq").write_text("@r1\nACGT\n+\nIIII\n")
    (remark,) = statistics_of([tmp_path / "r.fq"], 300).remarks
    assert "reads" in remark


def test_every_command_has_a_help_that_says_what_it_is_for():
    said = invoke("--help").output
    assert "..." not in said.partition("Start with:")[2] and len(said.splitlines()) < 30, "one screen"
    assert [line.split()[1] for line in said.splitlines() if line.startswith("  virnucpro ")] == [*FIRST]
    context = cli.make_context("virnucpro", ["predict", "x"], obj=[])
    for name in cli.list_commands(context):
        answer = invoke(name, "--help")
        assert answer.exit_code == 0 and len(answer.output.splitlines()) > 4, name


def test_completion_knows_commands_and_values(monkeypatch):
    from click.shell_completion import BashComplete

    def complete(*words):
        completer = BashComplete(cli, {}, "virnucpro", "_VIRNUCPRO_COMPLETE")
        return {item.value for item in completer.get_completions(list(words[:-1]), words[-1])}

    assert {"predict", "validate"} <= complete("")
    assert complete("predict", "--preset", "mini") == {"mini-500", "mini-300"}
    assert complete("predict", "--esm-model", "15") == {"15B", "150M"}
    assert complete("predict", "--esm-model", "mine.p") == {"mine.p"}, "a file"
    assert {"virnucpro-500", "650M", "DNABERT-S"} <= complete("models", "fetch", "")


def test_benchmark_refuses_sequences_of_another_kind(tmp_path):
    (tmp_path / "x.fna").write_text(">a\n" + "ACGT" * 300 + "\n")
    (tmp_path / "x.faa").write_text(">a\nMKVLAAG\n")
    for encoder, name, says in (
        ("esm2", "x.fna", "DNA where proteins"),
        ("dnabert_s", "x.faa", "looks like a protein"),
    ):
        done = CliRunner().invoke(cli, ["benchmark", f"--encoder={encoder}", f"--fasta={tmp_path / name}"])
        assert done.exit_code == 1 and says in str(done.exception or done.output)


BENCHMARK = ["--size=8M", "--device=cpu", "--length=5-8", "--seconds=0.1"]


@pytest.mark.ci
def test_benchmark_compares_what_it_times(tmp_path):
    output = tmp_path / "8M.json"
    done = CliRunner().invoke(cli, ["benchmark", *BENCHMARK, f"--json={output}"])
    assert done.exit_code == 0, done.output
    result = json.loads(output.read_text())
    ways = {row["way"].partition(" (")[0]: row for row in result["rows"]}
    assert list(ways) == ["matrix products alone", "matrix products, the fastest call of each", "this"]
    assert ways["this"]["backend"] == "sdpa" and ways["this"]["share_of_bound"] > 0
    assert ways["this"]["relative_l2_rest"] < 1e-5
    assert result["setting"]["weights"] == "random, of 8M" and "random, of 8M" in done.output
    table = [line for line in done.output.splitlines() if line.startswith(("way", "this (", "matrix"))]
    assert len({len(line) for line in table[-3:]}) == 1 and "times_the_original" not in table[-3], "columns are aligned"
    model = installation.root() / "resources" / "models" / "mini-esm2.safetensors"
    done = CliRunner().invoke(cli, ["benchmark", f"--model={model}", *BENCHMARK[1:]])
    assert done.exit_code == 0 and "weights: mini-esm2, SHA-256 " in done.output
    (tmp_path / "p.faa").write_text(">a\nMKV\nLAg\n>b\nMKVL*\n")
    done = CliRunner().invoke(cli, ["benchmark", *BENCHMARK[:2], BENCHMARK[3], f"--fasta={tmp_path / 'p.faa'}"])
    assert done.exit_code == 0 and "sequences: given\ntokens_per_sequence: 7.0" in done.output


@pytest.mark.soak
def test_other_programs_are_compared_by_a_script(tmp_path):
    output = tmp_path / "8M.json"
    command = [sys.executable, installation.root() / "benchmarks" / "encoders.py", *BENCHMARK, f"--json={output}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "times_the_original" in done.stdout, done.stderr
    rows = {row["way"].partition(" (")[0]: row for row in json.loads(output.read_text())["rows"]}
    assert list(rows) == [
        "the original's",
        "matrix products alone",
        "matrix products, the fastest call of each",
        "this",
    ]
    assert rows["the original's"]["relative_l2_rest"] < 1e-5 and rows["this"]["times_the_original"] > 0
    done = subprocess.run([*command, "--memory-limit=16"], capture_output=True, text=True)
    assert done.returncode == 2 and "a memory limit is for GPUs" in done.stderr
