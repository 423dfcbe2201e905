"""Scores with NumPy are those of the network that was trained."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from virnucpro.classifier.importer import import_original
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.scoring import Scorer, load_scorer
from virnucpro.classifier.spec import ClassifierSpec

PARITY = Path(__file__).parents[1] / "data" / "parity"


def arrays(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items() if "tracked" not in name}


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("width", "hidden", "rows"), [(3, 4, 1), (320, 512, 173), (3328, 512, 700)])
def test_scores_are_pytorchs(tmp_path, width, hidden, rows, standardise):
    generator = torch.manual_seed(width)
    model = Classifier(width, hidden, eps=1e-3, standardise=standardise).eval()
    model.bn1.running_mean.normal_(0, 0.3, generator=generator)
    model.bn1.running_var.uniform_(0.2, 2, generator=generator)
    if standardise:
        model.input_mean.normal_(0, 1, generator=generator)
        model.input_scale.uniform_(0.5, 2, generator=generator)
    features = torch.randn(rows, width, generator=generator)
    write_classifier(tmp_path / "c", model, ClassifierSpec("c", width, hidden))
    scorer, spec = load_scorer(tmp_path / "c")
    given = features.numpy().copy()
    scores = scorer(given).scores
    assert scores.dtype == np.float32 and scores.shape == (rows, 2) and spec.width == width
    assert np.array_equal(given, features.numpy()), "what is given stays as it is"
    assert np.abs(scores - model.scores(features).numpy()).max() <= 1e-6


@pytest.fixture(scope="module")
def original():
    """The original's classifier, and vectors that it scored."""
    model, spec = import_original(PARITY / "tiny_model.pth")
    features = np.load(PARITY / "expected" / "merged.npz")["embeddings"]
    return model, Scorer(arrays(model), spec.batchnorm_eps), features


def test_scores_of_an_original_classifier(original):
    """In float32, PyTorch's own differ from exact ones by 1e-6, and by batch and number of threads as much."""
    model, scorer, features = original
    exact = deepcopy(model).double().scores(torch.from_numpy(features).double()).numpy()
    assert np.abs(scorer(features).scores - exact).max() <= 3e-6


def test_scores_do_not_depend_on_the_batch(original):
    _, scorer, features = original
    parts = np.concatenate([scorer(features[at : at + 7]).scores for at in range(0, len(features), 7)])
    assert np.allclose(scorer(features).scores, parts, atol=3e-6)


def test_extreme_logits_are_no_overflow(original):
    _, scorer, features = original
    scores = scorer(features * np.float32(1e6)).scores
    assert np.isfinite(scores).all() and np.allclose(scores.sum(axis=1), 1)
