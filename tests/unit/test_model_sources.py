"""Which architecture a model is: told by its name, or by what its files say, without PyTorch."""

import json
import subprocess
import sys

import pytest

from tests.unit.encoder_fixtures import bpe_json, random_dnabert, random_esm2
from virnucpro.encoders.loading import encoder_class, write_encoder
from virnucpro.models import registry, sources
from virnucpro.models.registry import ARCHITECTURES, ESM2, ROLES, Architecture, Shape
from virnucpro.models.sources import find

OTHER = Architecture("other", registry.PROTEIN, "Other", "nowhere", "None", ("other_type",), {"1M": Shape(1, 1, 1, 1)})


@pytest.fixture(autouse=True)
def another_protein_encoder(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "other", OTHER)


def test_entries_name_code_that_is_there():
    for name, entry in list(ARCHITECTURES.items()):
        assert entry.name == name and entry.role is ROLES[entry.role.name]
        if entry is not OTHER:
            assert encoder_class(name).architecture == name
            assert entry.shapes and all(
                entry.shape_of(f"x_{size}_y.pt") == shape for size, shape in entry.shapes.items()
            )


@pytest.mark.parametrize("name", ["3B", "facebook/esm2_t33_650M_UR50D", "mini-esm2", "someone/unknown"])
def test_a_name_tells(name, tmp_path):
    assert find("protein", name, tmp_path).architecture is ESM2


def test_what_is_fetched_keeps_its_architecture(tmp_path):
    """Rules are called after it, and jobs read the workflow again once the model is there."""
    (tmp_path / "someone--unknown").mkdir()
    (tmp_path / "someone--unknown" / "config.json").write_text('{"model_type": "other_type"}')
    assert find("protein", "someone/unknown", tmp_path).architecture is ESM2
    assert find("protein", str(tmp_path / "someone--unknown"), tmp_path).architecture is OTHER


def test_a_folder_tells_by_its_configuration(tmp_path):
    for model_type, wanted in (("esm", "esm2"), ("other_type", "other"), ("t5", "esm2"), (None, "esm2")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert find("protein", str(tmp_path), tmp_path).kind == wanted
    (tmp_path / "config.json").write_text("{")
    assert find("protein", str(tmp_path), tmp_path).kind == "esm2", "preparing it says what is wrong"


def test_a_prepared_file_tells_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(random_esm2.__globals__["ESM2"], "architecture", "other")
    write_encoder(random_esm2(), tmp_path / "m.safetensors", name="m")
    monkeypatch.undo()
    monkeypatch.setitem(ARCHITECTURES, "other", OTHER)
    assert find("protein", str(tmp_path / "m.safetensors"), tmp_path).architecture is OTHER
    write_encoder(random_dnabert(tokenizer=bpe_json()), tmp_path / "d.safetensors", name="d")
    assert find("protein", str(tmp_path / "d.safetensors"), tmp_path).kind == "esm2", "of another role"
    (tmp_path / "x.pt").write_bytes(b"a pickle")
    assert find("protein", str(tmp_path / "x.pt"), tmp_path).architecture is ESM2


def test_telling_needs_no_torch(tmp_path):
    write_encoder(random_esm2(), tmp_path / "m.safetensors", name="m")
    code = (
        "import sys; from virnucpro.models.sources import find;"
        "print(find('protein', sys.argv[1], '.').kind, 'torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.safetensors"], capture_output=True, text=True
    ).stdout
    assert out.split() == ["esm2", "False"]


def test_a_classifier_has_no_architecture(tmp_path):
    assert find("classifier", "mini-500", tmp_path).kind == sources.CLASSIFIER
