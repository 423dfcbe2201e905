"""The classifier's file, its fit to encoders, and the import of the original's pickle."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from virnucpro.classifier.importer import prepare_classifier
from virnucpro.classifier.model import Classifier, load_classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec, read_classifier_spec
from virnucpro.errors import ModelError

PARITY = Path(__file__).parents[1] / "data" / "parity"
ORIGINAL = PARITY / "tiny_model.pth"
DNA = SimpleNamespace(name="dnabert-tiny", width=96, weights_sha256="d" * 64)
PROTEIN = SimpleNamespace(name="esm2-tiny", width=32, weights_sha256="e" * 64)


def make(width=12, hidden=7, seed=0, standardise=False):
    torch.manual_seed(seed)
    model = Classifier(width, hidden, standardise=standardise).eval()
    torch.nn.init.normal_(model.bn1.running_mean)
    if standardise:
        torch.nn.init.normal_(model.input_mean)
        torch.nn.init.uniform_(model.input_scale, 0.5, 2)
    return model


def trained_spec(**changes):
    spec = ClassifierSpec(
        name="own",
        width=12,
        hidden=7,
        dna_width=8,
        protein_width=4,
        chunk_length=500,
        dna_encoder={"name": "A", "weights_sha256": "a" * 64},
        protein_encoder={"name": "B", "weights_sha256": "b" * 64},
    )
    return replace(spec, **changes)


def encoder(name, width, letter):
    return SimpleNamespace(name=name, width=width, weights_sha256=letter * 64)


def prepare(source, output, dna=None, protein=None, chunk_length=500):
    warnings = []
    spec = prepare_classifier(
        source,
        output,
        dna_spec=dna or encoder("A", 8, "a"),
        protein_spec=protein or encoder("B", 4, "b"),
        chunk_length=chunk_length,
        warn=warnings.append,
    )
    return spec, warnings


# The file


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_file_round_trip(tmp_path, standardise, half):
    model = make(standardise=standardise)
    written = write_classifier(tmp_path / "c", model, trained_spec(), half=half)
    again, spec = load_classifier(tmp_path / "c")
    assert spec == written == read_classifier_spec(tmp_path / "c")
    assert all(value.dtype == torch.float32 for name, value in again.state_dict().items() if "batches" not in name)
    features = torch.randn(50, 12)
    assert torch.allclose(model.scores(features), again.scores(features), atol=2e-3 if half else 0)
    assert not again.training


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in "ab":
        write_classifier(tmp_path / name, make(), trained_spec())
    write_classifier(tmp_path / "c", make(seed=1), trained_spec())
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    assert read_classifier_spec(tmp_path / "a").weights_sha256 != read_classifier_spec(tmp_path / "c").weights_sha256


def test_standardisation_is_part_of_the_model():
    model, plain = make(standardise=True), make()
    plain.load_state_dict(model.state_dict(), strict=False)
    features = torch.randn(9, 12)
    assert torch.equal(model.scores(features), plain.scores((features - model.input_mean) / model.input_scale))


def test_scores_need_eval_mode():
    with pytest.raises(RuntimeError, match="eval"):
        make().train().scores(torch.zeros(2, 12))


def test_damage_is_found(tmp_path):
    path = tmp_path / "c"
    write_classifier(path, make(), trained_spec())
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(ModelError, match="digest"):
        load_classifier(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(ModelError, match="can't be read"):
        load_classifier(path)
    with pytest.raises(ModelError, match="does not exist"):
        load_classifier(tmp_path / "absent")


def test_values_that_no_classifier_has_are_refused(tmp_path):
    model = make()
    with torch.no_grad():
        model.output_layer.bias[0] = float("nan")
    write_classifier(tmp_path / "c", model, trained_spec())
    with pytest.raises(ModelError, match=r"output_layer\.bias"):
        load_classifier(tmp_path / "c")


def test_other_safetensors_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    tensors = {"x": torch.zeros(2)}
    save_file(tensors, tmp_path / "plain")
    with pytest.raises(ModelError, match="not a VirNucPro classifier"):
        read_classifier_spec(tmp_path / "plain")
    save_file(tensors, tmp_path / "encoder", metadata={"virnucpro": '{"format": 1, "family": "esm2"}'})
    with pytest.raises(ModelError, match="holds encoder weights, not classifier weights"):
        read_classifier_spec(tmp_path / "encoder")
    save_file(tensors, tmp_path / "newer", metadata={"virnucpro": '{"format": 99, "kind": "classifier"}'})
    with pytest.raises(ModelError, match="another version"):
        read_classifier_spec(tmp_path / "newer")
    save_file(
        tensors,
        tmp_path / "no weights",
        metadata={"virnucpro": json.dumps({"kind": "classifier", "format": 2, **asdict(trained_spec())})},
    )
    with pytest.raises(ModelError, match="digest"):
        load_classifier(tmp_path / "no weights")


# Does it fit?


def test_prepared_copy_is_the_same_file(tmp_path):
    written = write_classifier(tmp_path / "c", make(), trained_spec(), half=True)
    spec, warnings = prepare(tmp_path / "c", tmp_path / "out" / "c")
    assert (spec, warnings) == (written, [])
    assert (tmp_path / "out" / "c").read_bytes() == (tmp_path / "c").read_bytes()


def test_preparing_a_classifier_file_needs_no_torch(tmp_path):
    write_classifier(tmp_path / "c", make(), trained_spec())
    code = (
        "import sys; from types import SimpleNamespace; from virnucpro.classifier.importer import prepare_classifier;"
        "specs = [SimpleNamespace(name=n, width=w, weights_sha256=n.lower() * 64) for n, w in (('A', 8), ('B', 4))];"
        "prepare_classifier(*sys.argv[1:], dna_spec=specs[0], protein_spec=specs[1], chunk_length=500, warn=exit);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c"), str(tmp_path / "d")], check=True)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()


@pytest.mark.parametrize(
    ("run", "parts"),
    [
        ({"protein": encoder("650M", 1280, "b")}, ["12", "8 DNA", "4 protein", "650M gives 1,280", "1,288", "train"]),
        ({"dna": encoder("A", 4, "a"), "protein": encoder("B", 8, "b")}, ["A gives 4", "B gives 8", "8 DNA"]),
        ({"chunk_length": 300}, ["500", "300", "Set chunk_length to 500"]),
        ({"dna": encoder("other", 8, "c")}, ["DNA encoder A", "a" * 12, "c" * 12, "virnucpro train"]),
        ({"protein": encoder("other", 4, "c")}, ["protein encoder B", "b" * 12, "c" * 12, "virnucpro train"]),
    ],
)
def test_misfit_is_refused_and_says_what_to_do(tmp_path, run, parts):
    write_classifier(tmp_path / "c", make(), trained_spec())
    with pytest.raises(ModelError) as caught:
        prepare(tmp_path / "c", tmp_path / "out", **run)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_original_is_checked_by_width_and_warned_about(tmp_path):
    spec, warnings = prepare(ORIGINAL, tmp_path / "c", DNA, PROTEIN)
    assert (spec.width, spec.hidden, spec.chunk_length) == (128, 512, None)
    assert len(warnings) == 1
    for part in ("DNA encoder, protein encoder, chunk length", "128 = 96 + 32"):
        assert part in warnings[0]
    assert load_classifier(tmp_path / "c")[1] == spec
    with pytest.raises(ModelError, match=r"takes 128 inputs, but dnabert-tiny gives 96 and 650M gives 1,280"):
        prepare(ORIGINAL, tmp_path / "d", DNA, encoder("650M", 1280, "f"))
