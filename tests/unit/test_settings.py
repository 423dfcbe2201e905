"""Options: one source for schema, files and manual; strictness, presets, configuration files."""

import dataclasses
import datetime
import re
import shutil

import click
import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from virnucpro import installation
from virnucpro.cli.options import from_schema, given_keys
from virnucpro.errors import ConfigError, ModelError
from virnucpro.models.sources import find
from virnucpro.settings.configfile import check_config_file
from virnucpro.settings.documents import repository_files
from virnucpro.settings.options import Settings, TrainOptions, defaults, option, options, schema
from virnucpro.settings.presets import PRESETS
from virnucpro.settings.validation import REMOVED, resolve

ROOT = installation.root()


def test_the_schema_is_made_of_the_options():
    found = schema()["properties"]
    assert list(found) == [field.name for field in dataclasses.fields(Settings)]
    assert found["chunk_length"] == {
        "description": "Chunk length in bases; the length that the classifier was trained on.",
        "type": ["integer", "null"], "minimum": 30, "maximum": 100_000, "default": None,
    }  # fmt: skip
    kinds = {
        key: found[key].get("type") for key in ("samples", "tokens_per_batch", "compile", "threshold", "precision")
    }
    assert list(kinds.values()) == [["string", "null"], ["integer", "string"], "boolean", ["number", "null"], None]
    assert found["contrasts"]["type"] == "object" and found["precision"]["enum"][:2] == ["auto", "fp32"]
    Draft202012Validator.check_schema(schema())


def test_training_keys_are_the_librarys_options():
    fields = {field.name for field in dataclasses.fields(TrainOptions)} - {"device"}
    assert (
        set(schema()["properties"]["training"]["properties"]) == fields == {each.name for each in options(TrainOptions)}
    )


def test_files_that_state_options_are_current():
    for path, text in repository_files(ROOT).items():
        assert path.read_text() == text, f"{path}: give `python -m virnucpro.settings`"
    assert yaml.safe_load((ROOT / "config" / "config.yaml").read_text()) == defaults()
    assert yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text()) == schema()


def test_a_changed_option_reaches_every_file(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Changed(Settings):
        threshold: float = option("What to predict", 0.75, "From `here` on.", "Or not.", maximum=2)

    for name in ("config", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name)
    every = options(Changed)
    monkeypatch.setattr(
        "virnucpro.settings.documents.options", lambda of=Changed: every if of is Changed else options(of)
    )
    monkeypatch.setattr("virnucpro.settings.options.Settings", Changed)
    monkeypatch.setattr("virnucpro.settings.options.options", lambda of=Changed: options(of))
    schema.cache_clear()
    texts = {path.name: text for path, text in repository_files(tmp_path).items()}
    schema.cache_clear()
    assert "# From here on.\nthreshold: 0.75\n" in texts["config.yaml"]
    assert "| `threshold` | `0.75` | From `here` on. Or not. |\n" in texts["README.md"]
    assert yaml.safe_load(texts["config.schema.yaml"])["properties"]["threshold"]["maximum"] == 2


def test_every_key_and_default_is_in_the_manual():
    manual = (ROOT / "config" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `([^`]*)` \|", manual, flags=re.M))
    stated = defaults() | {each.name: each.default for each in options(TrainOptions)}
    assert rows == {key: str(yaml.safe_dump(value)).split("\n")[0] for key, value in stated.items()}


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
        ({"precision": "fp8"}, "'precision' can't be 'fp8' any more: 'int8' takes its place.*or 'auto'"),
        ({"attention": "varlen"}, "'attention' can't be 'varlen' any more: 'triton' computes the same.*or 'auto'"),
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


def test_what_takes_the_place_of_a_removed_value_can_be_given():
    for (key, value), successor in REMOVED.items():
        assert value not in schema()["properties"][key]["enum"]
        for name in re.findall("'(.*?)'", successor):
            assert getattr(resolve({key: name}), key) == name


def test_the_originals_way_fixes_what_it_implies():
    settings = resolve({"batching": "original", "precision": "bf16", "compile": True})
    assert (settings.precision, settings.compile, settings.rna_as_dna) == ("fp32", False, False)
    assert resolve(settings.as_dict()) == settings
    settings = resolve({"batching": "single", "precision": "bf16", "compile": True})
    assert (settings.precision, settings.compile, settings.rna_as_dna) == ("bf16", True, True)


def test_models_are_found_by_name_and_path(tmp_path):
    assert find("protein", "mini-esm2", tmp_path).path.name == "mini-esm2.safetensors"
    assert not find("protein", "3B", tmp_path).path.exists()
    (tmp_path / "esm2_t36_3B_UR50D.pt").write_bytes(b"")
    assert find("protein", "3B", tmp_path).path == tmp_path / "esm2_t36_3B_UR50D.pt"
    with pytest.raises(ModelError, match="did you mean 'mini-esm2'"):
        find("protein", "mini-esm", tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        find("classifier", "somewhere/model.pth", tmp_path)


@pytest.mark.parametrize(
    ("words", "given"), [([], {}), (["--no-regions"], {"regions": False}), (["--regions"], {"regions": True})]
)
def test_what_is_true_by_default_can_be_switched_off(words, given):
    """On the command line, also against a file that says otherwise."""
    found = []
    command = click.command()(from_schema("regions")(lambda **values: found.append(given_keys(values))))
    assert CliRunner().invoke(command, words).exit_code == 0 and found == [given]
