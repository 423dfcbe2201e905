"""The configuration: defaults, strictness, presets, the sample sheet."""

import dataclasses
import datetime
import re
from pathlib import Path

import pytest
import yaml

from virnucpro import installation
from virnucpro.classifier.labels import read_labelled_fasta
from virnucpro.classifier.training import TrainOptions
from virnucpro.configuration import PRESETS, Settings, check_config_file, defaults, resolve, schema
from virnucpro.errors import ConfigError, InputError, ModelError
from virnucpro.models.sources import find
from virnucpro.samples import read_samples, sample_name

ROOT = installation.root()


def test_settings_have_the_schemas_keys():
    assert {field.name for field in dataclasses.fields(Settings)} == set(schema()["properties"])


def test_training_keys_are_the_librarys_options():
    options = {field.name for field in dataclasses.fields(TrainOptions)} - {"device"}
    assert set(schema()["properties"]["training"]["properties"]) == options


def test_shipped_file_states_the_defaults():
    assert yaml.safe_load((ROOT / "config" / "config.yaml").read_text()) == defaults()


def test_every_key_and_default_is_in_the_manual():
    manual = (ROOT / "config" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", manual, flags=re.M))
    assert rows == {key: str(yaml.safe_dump(value)).split("\n")[0] for key, value in defaults().items()}


def test_preset_fills_only_what_is_null():
    assert resolve({}).classifier == "mini-500"
    settings = resolve({"preset": "virnucpro-300", "esm_model": "650M"})
    assert (settings.chunk_length, settings.dnabert_model, settings.esm_model) == (300, "DNABERT-S", "650M")
    assert set(PRESETS) == set(schema()["properties"]["preset"]["enum"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chunk_lenght": 500}, "'chunk_lenght'; did you mean 'chunk_length'"),
        ({"precision": "fp61"}, "'precision' can't be 'fp61'; did you mean 'fp16'"),
        ({"chunk_length": "long"}, "'chunk_length' can't be 'long': it must be a whole number"),
        ({"chunk_length": 5}, "at least 30"),
        ({"threshold": 1.5}, "at most 1"),
        ({"compile": "perhaps"}, "'compile' can't be 'perhaps': it must be true or false"),
        ({"tokens_per_batch": "lots"}, "'tokens_per_batch' can't be 'lots'.*auto"),
        ({"preset": "mini500"}, "did you mean 'mini-500'"),
        ({"output_dir": "a{b}"}, r"'output_dir': a\{b\}: has \{ or \}"),
        ({"output_dir": ""}, "'output_dir': an empty path"),
        ({"output_dir": 20240115}, r"'output_dir' was read as a number \(20240115\).*Begin it with ./"),
        ({"samples": 7}, "'samples' was read as a number"),
        ({"cache_dir": 1000.0}, "'cache_dir' was read as a number"),
        ({"labels": True}, "'labels' was read as true or false"),
        ({"models_dir": datetime.date(2024, 1, 15)}, "'models_dir' was read as a date"),
        ({"esm_model": 650}, "'esm_model' was read as a number"),
        ({"training_data": ["a.tsv"]}, "'training_data' can't be .*must be text"),
        ({"threshold": "nan"}, "'threshold' can't be NaN"),
        ({"shard_frames": 10.5}, "'shard_frames' can't be 10.5: it must be a whole number"),
        ({"training": {"hidden": None}}, "'training: hidden' can't be None"),
        ({"training": {"epoch": 5}}, "'training: epoch'; did you mean 'epochs'"),
        ({"training": {"epochs": "many"}}, "'training: epochs' can't be 'many': it must be a whole number"),
        ({"training": {"balance": "wieghts"}}, "did you mean 'weights'"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        resolve(given)


def test_command_line_text_is_understood():
    settings = resolve({"compile": "true", "chunk_length": "null", "cache_dir": "", "samples": "none"})
    assert settings.compile is True
    assert settings.chunk_length == 500
    assert settings.cache_dir is None
    options = {
        "epochs": "5",
        "dropout": "0.1",
        "standardise": "true",
    }  # as --config training='{epochs: 5, ...}' gives them
    assert resolve({"training": options}).training == {"epochs": 5, "dropout": 0.1, "standardise": True}


def test_one_folder_has_one_spelling_and_whole_floats_are_whole():
    settings = resolve({"output_dir": "results/./", "shard_frames": 1e3, "tokens_per_batch": "64"})
    assert (settings.output_dir, settings.shard_frames, settings.tokens_per_batch) == ("results", 1000, 64)
    assert isinstance(settings.shard_frames, int)


PATHS = sorted(key for key, entry in schema()["properties"].items() if "format" in entry)


@pytest.mark.parametrize("key", PATHS)
def test_home_folders_are_put_in_for_every_key_that_takes_a_path(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert getattr(resolve({key: "~/x"}), key) == "/home/me/x"
    assert getattr(resolve({key: "~nosuchuser/x"}), key) == "~nosuchuser/x"


def test_only_a_published_model_needs_a_home(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    settings = resolve({})
    assert find("protein", settings.esm_model, settings.models_dir).path.is_file()
    with pytest.raises(ModelError, match=r"you have no home folder\. Give models_dir"):
        find("protein", "650M", settings.models_dir)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("samples: s.tsv\ngenome: hg38\n", "unknown configuration key 'genome'. If it is another workflow's, start in"),
        ("sampels: s.tsv\n", "unknown configuration key 'sampels'; did you mean 'samples'"),
        ("device: cpu\ndevice: cuda\n", r"config.yaml, line 2: isn't YAML: 'device' is there twice"),
        ("device: cpu\nsamples:\n\t- a\n", r"config.yaml, line 3: isn't YAML"),
        ("- a\n", "holds no 'key: value' lines"),
        ("samples: 2024-99-99\n", "isn't YAML: month must be"),
        ("samples: \xe9\n".encode("latin-1"), "isn't YAML: 'utf-8' codec"),
    ],
)
def test_a_configuration_file_that_is_not_this_workflows(tmp_path, text, says):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=says):
        check_config_file(path)
    path.write_text("# nothing yet\n")
    assert not check_config_file(path) and not check_config_file(tmp_path / "absent.yaml")
    path.write_text("device: cpu\n")
    assert check_config_file(path)


def sheet(folder: Path, text: str) -> Path:
    path = folder / "samples.tsv"
    path.write_text(text)
    return path


def test_samples_keep_order_and_start_at_the_sheets_folder(tmp_path):
    samples = read_samples(sheet(tmp_path, "fasta\tsample\nb.fa\tz\n/a.fa\ta\n\n# note\nc.fa\tz\n"))
    assert samples == {"z": [tmp_path / "b.fa", tmp_path / "c.fa"], "a": [Path("/a.fa")]}


def test_patterns_stand_for_their_files(tmp_path):
    for name in ("b.fa", "a.fa", "sub/c.fq", "odd[1].fa"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    samples = read_samples(sheet(tmp_path, "sample\tfasta\nx\t[ab].fa\nx\t**/*.fq\ny\todd[1].fa\n"))
    assert samples == {
        "x": [tmp_path / "a.fa", tmp_path / "b.fa", tmp_path / "sub/c.fq"],
        "y": [tmp_path / "odd[1].fa"],
    }
    table = tmp_path / "labels.tsv"
    table.write_text("fasta\tlabel\n[ab].fa\tviral\nsub/c.fq\t0\n")
    assert [(row.fasta.name, row.label.viral) for row in read_labelled_fasta(table)] == [
        ("a.fa", True),
        ("b.fa", True),
        ("c.fq", False),
    ]


@pytest.mark.parametrize("name", ["s.1.fa", "s.1.fq.gz", "s.1.FASTA.bgz", "s.1.fastq.zst", "s.1.fna", "s.1"])
def test_samples_are_called_after_their_files(name):
    assert sample_name(Path(name)) == "s.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample fasta\na b\n", "no column 'sample'.*not spaces"),
        ("sample\tfile\na\tb\n", "no column 'fasta'"),
        ("sample\tfasta\n", "lists no samples"),
        ("sample\tfasta\na b\tx.fa\n", "line 2: sample name 'a b'"),
        ("sample\tfasta\nok\tx.fa\na/b\tx.fa\n", "line 3: sample name 'a/b'"),
        ("sample\tfasta\nlogs\tx.fa\n", "reserved"),
        ("sample\tfasta\na\t\n", "no FASTA path"),
        ("sample\tfasta\na\tx.fa\na\tx.fa\n", "listed twice"),
        ("sample\tfasta\na\t*.tsv\na\tsamples.tsv\n", "listed twice"),
        ("sample\tfasta\na\t*.fq\n", "no file matches"),
    ],
)
def test_bad_sheets_are_explained(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_samples(sheet(tmp_path, text))


def test_a_sheet_without_permission_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")  # root reads what is forbidden, too

    given = sheet(tmp_path, "")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"samples\.tsv: can't read the sample sheet \(Permission denied\)"):
        read_samples(given)


def test_models_are_found_by_name_and_path(tmp_path):
    assert find("protein", "mini-esm2", tmp_path).path.name == "mini-esm2.safetensors"
    assert not find("protein", "3B", tmp_path).path.exists()
    (tmp_path / "esm2_t36_3B_UR50D.pt").write_bytes(b"")
    assert find("protein", "3B", tmp_path).path == tmp_path / "esm2_t36_3B_UR50D.pt"
    with pytest.raises(ModelError, match="did you mean 'mini-esm2'"):
        find("protein", "mini-esm", tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        find("classifier", "somewhere/model.pth", tmp_path)
