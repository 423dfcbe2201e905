"""Vectors and scores of the bundled models, fp32 on a CPU, as they were when the models were bundled."""

import json

import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import ROOT
from virnucpro.classifier.model import load_classifier
from virnucpro.classifier.spec import read_classifier
from virnucpro.encoders.embed import embed
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.original import embed_original
from virnucpro.encoders.spec import verify_encoder
from virnucpro.models.model_file import FORMAT, read_entry

GOLDEN = ROOT / "tests" / "data" / "golden"
VECTORS = dict(np.load(GOLDEN / "vectors.npz"))
STORED = json.loads((GOLDEN / "models.json").read_text())
MODELS = ROOT / "resources" / "models"


def close(found: np.ndarray, stored: np.ndarray) -> bool:
    return bool((np.linalg.norm(found - stored, axis=1) <= 1e-6 * np.linalg.norm(stored, axis=1)).all())


@pytest.mark.parametrize(("role", "name"), [("dna", "mini-dnabert-s"), ("protein", "mini-esm2")])
def test_vectors_are_those_that_were_stored(role, name):
    sequences = [sequence.encode() for sequence in STORED[role]]
    ids = [str(number) for number in range(len(sequences))]
    for compute, key in ((embed, role), (embed_original, f"{role}_original")):
        encoder = load_encoder(MODELS / f"{name}.safetensors", dtype=torch.float32)
        assert close(compute(encoder, ids, sequences).vectors, VECTORS[key])


@pytest.mark.parametrize("length", [300, 500])
def test_scores_are_those_that_were_stored(length):
    classifier, _ = load_classifier(MODELS / f"mini-{length}.safetensors")
    features = torch.from_numpy(np.hstack([VECTORS["dna"], VECTORS["protein"]]))
    assert close(classifier.scores(features).numpy(), VECTORS[f"scores_{length}"])


@pytest.mark.parametrize("name", STORED["weights_sha256"])
def test_files_keep_their_digest(name):
    """Vectors are stored, and classifiers say what they were trained on, by digest."""
    path = MODELS / f"{name}.safetensors"
    spec = read_classifier(path)[1] if name[-1].isdigit() and "esm" not in name else verify_encoder(path)
    assert spec.weights_sha256 == STORED["weights_sha256"][name]
    assert read_entry(path)["format"] == FORMAT
