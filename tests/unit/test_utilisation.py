"""The GPU's utilisation is averaged, and nothing that goes wrong with it matters."""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager

import h5py
import pytest
import torch

from tests.unit.encoder_fixtures import random_esm2
from virnucpro.embeddings import shard, utilisation
from virnucpro.encoders.loading import write_encoder
from virnucpro.sequences.split import split_fasta


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    monkeypatch.setattr(utilisation, "INTERVAL", 0.01)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H9")


def measured(seconds: float = 0.2) -> dict:
    with utilisation.gpu_utilisation("cuda") as record:
        time.sleep(seconds)
        assert record == {}
    return record


def test_mean_of_what_the_driver_says(monkeypatch):
    values = itertools.chain([100, 50, 60], itertools.repeat(70))
    monkeypatch.setattr(torch.cuda, "utilization", lambda: next(values))
    record = measured()
    assert record["gpu_name"] == "H9" and record["gpu_utilisation"] == pytest.approx(0.7)


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("not supported")])
def test_a_driver_that_does_not_say(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", fail)
    assert measured() == {"gpu_name": "H9"}


def test_not_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "utilization", lambda: pytest.fail("asked"))
    with utilisation.gpu_utilisation("cpu") as record:
        time.sleep(0.05)
    assert record == {}


def test_an_error_in_the_job_goes_through(monkeypatch):
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 1)
    with pytest.raises(KeyError), utilisation.gpu_utilisation("cuda"):
        raise KeyError


def test_a_shard_keeps_what_was_measured(monkeypatch, tmp_path):
    """On a CPU that stands for a GPU."""

    @contextmanager
    def measured(device):
        record = {}
        yield record
        record |= {"gpu_name": "H9", "gpu_utilisation": 0.5}

    monkeypatch.setattr(shard, "gpu_utilisation", measured)
    write_encoder(random_esm2(), tmp_path / "model", name="tiny")
    (tmp_path / "a.fa").write_text(">a\n" + "ATGAAAGTTCTG" * 20 + "\n")
    split_fasta([tmp_path / "a.fa"], tmp_path / "shards", 300, 100)
    (proteins,) = (tmp_path / "shards").glob("*.faa")
    options = shard.EmbedOptions(device="cpu")
    shard.embed_shard(proteins, tmp_path / "model", tmp_path / "s.h5", options, threads=1)
    with h5py.File(tmp_path / "s.h5") as file:
        assert (file.attrs["gpu_name"], file.attrs["gpu_utilisation"]) == ("H9", 0.5)
