"""What is unlike a classifier's training data is found; its reference and category head in the classifier's file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from virnucpro.classifier.model import Classifier, load_classifier, write_classifier
from virnucpro.classifier.reference import ContigDistances, Reference, fit_reference, measure_limit
from virnucpro.classifier.scoring import load_scorer
from virnucpro.classifier.spec import ClassifierSpec, read_all, read_classifier_spec
from virnucpro.errors import InputError, ModelError
from virnucpro.models.model_file import stored_tensors, write_model

WIDTH, UNITS = 12, 7
CATEGORIES = [
    {"name": "phage", "viral": True},
    {"name": "bacterium", "viral": False},
    {"name": "plant", "viral": False},
]


def gaussians(rows=4000, classes=3, width=WIDTH, seed=0):
    """Features of classes whose means differ, correlated and of very different scales, and the classes' numbers."""
    random = np.random.default_rng(seed)
    shape = np.random.default_rng(1)
    means, mix = shape.normal(0, 3, (classes, width)), shape.normal(0, 1, (width, width))
    scale = np.geomspace(1e-2, 1e3, width)
    numbers = random.integers(0, classes, rows)
    features = ((random.normal(0, 1, (rows, width)) + means[numbers]) @ mix + 50) * scale
    return features.astype(np.float32), numbers


def fitted(size=4000, **kwargs):
    features, numbers = gaussians(**kwargs)
    blocks = [(features[at : at + size], numbers[at : at + size]) for at in range(0, len(features), size)]
    return fit_reference(lambda: blocks, int(numbers.max()) + 1)


def model(categories=0, seed=0):
    torch.manual_seed(seed)
    made = Classifier(WIDTH, UNITS, standardise=True, categories=categories).eval()
    torch.nn.init.normal_(made.bn1.running_mean)
    torch.nn.init.normal_(made.input_mean)
    return made


def write(path, categories=CATEGORIES, reference=None, half=False):
    spec = ClassifierSpec("c", WIDTH, UNITS, categories=categories)
    if reference:
        spec = replace(spec, reference=reference.described(["a", "b", "c"], 4000))
    return write_classifier(path, model(len(categories or ())), spec, half, reference)


# Fitting


def test_distances_are_mahalanobis_distances_to_the_nearest_class():
    features, numbers = gaussians()
    reference = fitted()
    means = np.array([features[numbers == number].mean(axis=0) for number in range(3)], np.float64)
    inverse = np.linalg.inv(sum(np.cov(features[numbers == k].T, ddof=0) * np.mean(numbers == k) for k in range(3)))
    off = features[:, None] - means
    exact = np.sqrt(np.einsum("nki,ij,nkj->nk", off, inverse, off).min(axis=1) / WIDTH)
    found = reference.distance(features)
    assert found.dtype == np.float32 and np.abs(found - exact).max() < 1e-3
    assert abs(np.sqrt(np.mean(found**2)) - 1) < 0.05, "1 is what a frame of a class is expected to have"


def test_what_is_unlike_every_class_is_far():
    reference = fitted()
    new, _ = gaussians(rows=500, seed=5)
    limit = measure_limit(reference.distance(new), np.ones(500))
    assert np.mean(reference.distance(new) > limit) <= 0.01
    between = np.random.default_rng(2).normal(0, 1, (500, WIDTH)) * gaussians()[0].std(axis=0) * 3
    assert np.mean(reference.distance((gaussians()[0].mean(axis=0) + between).astype(np.float32)) > limit) > 0.9


def test_the_fit_does_not_depend_on_blocks():
    whole, parts = fitted(), fitted(size=37)
    features, _ = gaussians(rows=300, seed=3)
    assert np.abs(whole.distance(features) - parts.distance(features)).max() < 1e-4


def test_wide_features_have_at_most_64_directions_and_constant_columns_count_for_nothing():
    features, numbers = gaussians(width=100)
    features[:, 7] = 300
    reference = fit_reference(lambda: [(features, numbers)], 3)
    assert reference.projection.shape == (100, 64) and reference.means.shape == (3, 64)
    assert np.abs(reference.projection[7]).max() < 1e-9
    assert np.isfinite(reference.distance(features)).all()


def test_few_frames_have_fewer_directions():
    features, numbers = gaussians(rows=20, width=100)
    reference = fit_reference(lambda: [(features, numbers)], 3)
    assert 1 <= reference.projection.shape[1] < 20
    assert np.isfinite(reference.distance(gaussians(rows=20, width=100, seed=4)[0])).all()


@pytest.mark.parametrize(
    ("numbers", "says"), [([0, 0, 2, 2], "every class"), ([0, 1, 2, 2], "all alike"), ([], "every class")]
)
def test_data_without_a_reference_are_refused(numbers, says):
    features = np.ones((len(numbers), 5), np.float32)
    with pytest.raises(InputError, match=says):
        fit_reference(lambda: [(features, np.array(numbers, int))], 3)


def test_the_limit_is_a_weighted_quantile():
    distances = np.arange(100, dtype=np.float64)[::-1]
    assert measure_limit(distances, np.ones(100)) == 98
    assert measure_limit(distances, np.where(distances < 50, 1.0, 1e-9)) == 49
    assert measure_limit(np.array([2.0]), np.ones(1)) == 2
    with pytest.raises(InputError, match="held-out contigs"):
        measure_limit(np.array([]), np.array([]))


def test_contigs_are_the_mean_of_chunks_least_frames_in_any_blocks():
    ids = ["a_chunk_1F1", "a_chunk_1R2", "a_chunk_2F3", "b:1_chunk_1F2", "b:1_chunk_2F1:1-60", "a_chunk_3R1:20-300"]
    distances = np.array([3, 2, 4, 7, 1, 6], np.float32)
    for size in (1, 2, 4, 6):
        found = ContigDistances()
        for at in range(0, 6, size):
            found.add(ids[at : at + size], distances[at : at + size])
        assert found.means() == {"a": (2 + 4 + 6) / 3, "b:1": 4}
        assert found.means() == {"a": 4, "b:1": 4}


# The file


@pytest.mark.parametrize("half", [False, True])
def test_scores_are_the_networks_with_both_in_one_pass(tmp_path, half):
    reference = replace(fitted(), limit=1.5)
    written = write(tmp_path / "c", reference=reference, half=half)
    assert read_classifier_spec(tmp_path / "c") == written and written.reference["rows"] == 4000
    scorer, _ = load_scorer(tmp_path / "c")
    torch_model, _ = load_classifier(tmp_path / "c")
    features, _ = gaussians(rows=200, seed=8)
    scores, categories, distances = scorer(features)
    exact = torch.log_softmax(torch_model.categories(torch_model.hidden(torch.from_numpy(features))), 1)
    assert categories.dtype == np.float32 and np.abs(categories - exact.numpy()).max() < 2e-3
    assert np.allclose(scores, torch_model.scores(torch.from_numpy(features)), atol=1e-6)
    assert np.array_equal(distances, reference.distance(features))
    assert scorer.reference.limit == 1.5


def test_a_reference_changes_neither_digest_nor_score(tmp_path):
    plain, full = write(tmp_path / "a"), write(tmp_path / "b", reference=fitted())
    assert plain.weights_sha256 == full.weights_sha256
    features, _ = gaussians(rows=200)
    assert np.array_equal(*(load_scorer(tmp_path / name)[0](features).scores for name in "ab"))
    assert load_scorer(tmp_path / "a")[0](features).distances is None


def test_a_category_head_changes_no_score_and_is_in_the_digest(tmp_path):
    without, with_head = write(tmp_path / "a", categories=None), write(tmp_path / "b")
    assert without.weights_sha256 != with_head.weights_sha256
    arrays, _, spec = read_all(tmp_path / "b")
    plain = {name: value for name, value in arrays.items() if "category" not in name}
    write_model(tmp_path / "c", replace(spec, categories=None, weights_sha256=_digest(plain)), plain)
    features, _ = gaussians(rows=200)
    assert np.array_equal(*(load_scorer(tmp_path / name)[0](features).scores for name in "bc"))
    assert load_scorer(tmp_path / "c")[0](features).categories is None
    with pytest.raises(ValueError, match="no category head"):
        load_classifier(tmp_path / "c")[0].categories(torch.zeros(1, UNITS))


def _digest(arrays):
    from virnucpro.classifier.spec import weights_digest

    return weights_digest(arrays)


def _with(name, value):
    return lambda spec, tensors: (spec, tensors | {name: value})


def _without(name):
    return lambda spec, tensors: (spec, {key: each for key, each in tensors.items() if key != name})


def _said(**changes):
    return lambda spec, tensors: (replace(spec, reference=spec.reference | changes), tensors)


def _named(names):
    return lambda spec, tensors: (replace(spec, categories=names), tensors)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without("reference_means"), "reference_means"),
        (_with("reference_more", np.ones(3, np.float32)), "reference_more"),
        (_with("reference_center", np.ones(3, np.float32)), r"reference_center is float32 \(3,\)"),
        (_with("reference_center", np.ones(WIDTH, np.float16)), "float16"),
        (_with("reference_means", np.ones((2, WIDTH), np.float32)), "reference_means"),
        (_with("reference_projection", np.ones(WIDTH, np.float32)), "reference_projection"),
        (_with("reference_center", np.full(WIDTH, np.nan, np.float32)), "aren't finite"),
        (_with("reference_center", np.ones(WIDTH, np.float32)), "digest"),
        (_said(sha256="0" * 64), "digest"),
        (_said(limit=float("nan")), "limit"),
        (_said(limit=0), "limit"),
        (_said(limit="1"), "limit"),
        (_said(classes=["a"]), "reference_means"),
        (_said(classes=None), "classes"),
        (lambda spec, tensors: (replace(spec, reference=None), tensors), "in its metadata"),
        (_named(None), "3 categories, and names 0"),
        (_named(CATEGORIES[:2]), "3 categories, and names 2"),
        (_named([*CATEGORIES[:2], {"name": "plant"}]), "isn't a category's name"),
        (_named([*CATEGORIES[:2], {"name": "a\tb", "viral": True}]), "isn't a category's name"),
        (_named([*CATEGORIES[:2], CATEGORIES[0]]), "same name"),
        (_named("abc"), "3 categories, and names 'abc'"),
        (_without("category_layer.bias"), "category_layer.bias"),
        (_without("category_layer.weight"), "category_layer.weight"),
        (_with("category_layer.weight", np.ones((3, 2), np.float32)), "category_layer.weight"),
        (_with("category_layer.bias", np.full(3, np.inf, np.float32)), "category_layer.bias"),
        (_with("category_layer.bias", np.array(1, np.float32)), "category_layer"),
    ],
)
def test_files_that_disagree_with_themselves_are_refused(tmp_path, change, says):
    spec = write(tmp_path / "c", reference=fitted())
    spec, tensors = change(spec, dict(stored_tensors(tmp_path / "c")))
    network = {name: value for name, value in tensors.items() if not name.startswith("reference")}
    write_model(tmp_path / "d", replace(spec, weights_sha256=_digest(network)), tensors)
    with pytest.raises(ModelError, match=says) as error:
        load_scorer(tmp_path / "d")
    assert str(tmp_path / "d") in str(error.value)


def test_writing_refuses_what_reading_would(tmp_path):
    spec = ClassifierSpec("c", WIDTH, UNITS)
    with pytest.raises(ModelError, match="3 categories, and names 0"):
        write_classifier(tmp_path / "c", model(3), spec)
    with pytest.raises(ModelError, match="reference"):
        write_classifier(tmp_path / "c", model(), spec, reference=fitted())
    with pytest.raises(ValueError, match="2 names of 3 classes"):
        fitted().described(["a", "b"], 1)
    assert not (tmp_path / "c").exists()


def test_equal_rows_give_equal_distances():
    reference = Reference(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), np.zeros((1, 2), np.float32))
    assert reference.distance(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [pytest.approx(5 / np.sqrt(2)), 0]
