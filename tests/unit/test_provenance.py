"""What outputs say of their making, and the command that prints it."""

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tests.unit.encoder_fixtures import random_esm2
from virnucpro.cli import cli
from virnucpro.embeddings.store import create_merged, write_shard
from virnucpro.encoders.loading import write_encoder
from virnucpro.errors import ModelError, StorageError
from virnucpro.provenance import RunRecord, read_provenance
from virnucpro.sequences.split import split_samples

RUN = RunRecord({"precision": "fp32", "threshold": 0.5}, {"VIRNUCPRO_DISABLE_FP16": True}, "9.0")


def test_the_record_tells_configurations_apart():
    record = RUN.as_dict()
    assert set(record) == {"versions", "configuration_sha256", "switches"}
    assert record["versions"]["snakemake"] == "9.0" and all(record["versions"].values())
    same, other = ({"threshold": t, "precision": "fp32", "output_dir": "elsewhere"} for t in (0.5, 0.6))
    assert RunRecord(same).as_dict()["configuration_sha256"] == record["configuration_sha256"]
    assert RunRecord(other).as_dict()["configuration_sha256"] != record["configuration_sha256"]


@pytest.fixture
def outputs(tmp_path):
    """One of each kind."""
    write_shard(tmp_path / "shard.h5", ["a"], np.zeros((1, 2), np.float32), {"model": "m", **RUN.as_dict()})
    about = {"run": RUN.as_dict(), "shards": [{"shard": "x"}] * 3}
    with create_merged(tmp_path / "embeddings.h5", 0, 2, 2, about):
        pass
    write_encoder(random_esm2(), tmp_path / "m.safetensors", name="m")
    (tmp_path / "summary.json").write_text(json.dumps({"run": RUN.as_dict()}))
    for name in ("contigs.tsv", "viral.fasta.gz", "report.html"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("name", ["embeddings.h5", "summary.json", "contigs.tsv", "viral.fasta.gz", "report.html", "."])
def test_outputs_tell(outputs, name):
    assert read_provenance(outputs / name)["run"] == RUN.as_dict()


def test_shards_and_models_tell(outputs):
    shard = read_provenance(outputs / "shard.h5")
    assert {key: shard[key] for key in RUN.as_dict()} == RUN.as_dict()
    assert (shard["model"], shard["complete"], shard["count"]) == ("m", True, 1)
    model = read_provenance(outputs / "m.safetensors")
    assert len(model["weights_sha256"]) == 64 and "alphabet" not in model


def test_prepared_models_and_shards_tell_by_their_folder(tmp_path):
    spec = write_encoder(random_esm2(), tmp_path / "esm2-ab12" / "model.safetensors", name="m")
    assert read_provenance(tmp_path / "esm2-ab12")["weights_sha256"] == spec.weights_sha256
    (tmp_path / "in.fa").write_text(">r\n" + "GCA" * 40 + "\n")
    split_samples({"s": [tmp_path / "in.fa"]}, tmp_path / "shards", 90, 100, run=RUN)
    for path in (tmp_path / "shards", *(tmp_path / "shards").glob("*.*")):
        assert read_provenance(path)["run"] == RUN.as_dict()


def test_the_report_over_all_samples_tells_each_way_once(tmp_path):
    made = {"classifier": {"name": "c"}, "run": RUN.as_dict()}
    for name, frames in (("a", 3), ("b", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({"frames": frames, **made}))
    for name in ("logs", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "report.html").touch()
    for path in (tmp_path, tmp_path / "report.html"):
        assert read_provenance(path) == {"samples": ["a", "b"], **made}
    other = made | {"classifier": {"name": "d"}}
    (tmp_path / "b" / "summary.json").write_text(json.dumps(other))
    assert read_provenance(tmp_path)["ways"] == [{"samples": ["a"], **made}, {"samples": ["b"], **other}]
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StorageError, match="holds no record"):
        read_provenance(tmp_path / "notes.txt")


def test_what_tells_nothing_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StorageError, match=r"notes\.txt: holds no record"):
        read_provenance(tmp_path / "notes.txt")
    with pytest.raises(StorageError, match="no such file"):
        read_provenance(tmp_path / "absent.h5")
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    with pytest.raises(StorageError, match="not a readable HDF5 file"):
        read_provenance(tmp_path / "x.h5")
    (tmp_path / "x.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors can't be read as a safetensors file"):
        read_provenance(tmp_path / "x.safetensors")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(StorageError, match=r"summary\.json: can't be read"):
        read_provenance(tmp_path / "notes.txt")


def test_the_command_prints_it(outputs):
    text = CliRunner().invoke(cli, ["provenance", str(outputs / "embeddings.h5")]).output
    assert yaml.safe_load(text) == {"run": RUN.as_dict(), "shards": 3}
    text = CliRunner().invoke(cli, ["provenance", str(outputs / "embeddings.h5"), "--json"]).output
    assert json.loads(text) == {"run": RUN.as_dict(), "shards": [{"shard": "x"}] * 3}
