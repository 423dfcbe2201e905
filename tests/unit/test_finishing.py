"""What a trained file has beside its weights: calibration, reference, categories."""

import json
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest

from tests.unit.training_fixtures import FAST, embed, many, table
from virnucpro.classifier.calibrate import PRESET_COLUMNS
from virnucpro.classifier.calibrating import fit_calibration
from virnucpro.classifier.categories import Head, Kinds, kinds_of
from virnucpro.classifier.dataset import PARTS, Dataset
from virnucpro.classifier.held_back import score_part
from virnucpro.classifier.model import Classifier, load_classifier
from virnucpro.classifier.reference import measure_limit
from virnucpro.classifier.scoring import load_scorer
from virnucpro.classifier.spec import read_classifier, read_classifier_spec
from virnucpro.classifier.training import train
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.errors import InputError, StorageError
from virnucpro.sequences.shards import FRAMES, PARTIAL

pytestmark = pytest.mark.usefixtures("one_thread")


PATIENT = replace(FAST, validation=0.25, half=True)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder in which a classifier was trained, and its samples."""
    folder = tmp_path_factory.mktemp("calibrated")
    samples = many(folder)
    train(samples, folder / "c.safetensors", PATIENT)
    return folder, samples


def test_the_validation_part_calibrates(calibrated):
    """By the scores that the file's own weights give, chunk by chunk."""
    folder, samples = calibrated
    scorer, spec = load_scorer(folder / "c.safetensors")
    calibration = spec.read_calibration("c")
    data = Dataset(samples, validation=PATIENT.validation, test=PATIENT.test)
    contigs = [row for row in data.records if data.parts[row.genome] == "validation"]
    assert calibration.fitted_on["contigs"] == {"viral": 10, "non-viral": 20}
    assert calibration.fitted_on["chunks"] == {"frame": 60, "partial": 60}
    assert calibration.fitted_on["bases"] == [2000, 2000, 2000] and calibration.fitted_on["part"] == "validation"
    assert calibration.frame[0] > 0 and calibration.partial[0] > 0
    part = score_part(data, "validation", scorer)
    assert list(part.contigs) == contigs
    for place, row in enumerate(contigs):
        sample = next(sample for sample in samples if sample.name == row.sample)
        ids, features = MergedEmbeddings(sample.embeddings).read(slice(None))
        for number in (1, 2):
            rows = [at for at, frame in enumerate(ids) if frame.startswith(f"{row.record}_chunk_{number}")]
            found = scorer(features[rows])
            at = np.flatnonzero((part.contig == place) & ~part.partial)[number - 1]
            np.testing.assert_allclose((part.others[at], part.virus[at]), found.scores.max(axis=0), rtol=1e-5)
            np.testing.assert_allclose(part.distance[at], found.distances.min(), rtol=1e-5)
    np.testing.assert_allclose(part.share[part.partial], 180 / 500)
    again = fit_calibration(part.development(), {key: calibration.fitted_on[key] for key in ("part", "data_sha256")})
    assert again.contig == calibration.contig and again.presets == calibration.presets


def test_a_trained_file_tells_of_its_calibration(calibrated):
    folder, _ = calibrated
    whole = json.loads((folder / "calibration.json").read_text())
    spec = read_classifier_spec(folder / "c.safetensors")
    assert whole["calibration"] == spec.calibration and whole["partial_frames"]
    assert whole["classifier"]["weights_sha256"] == spec.weights_sha256 and "versions" in whole["run"]
    assert 0.5 < whole["held_out"]["contigs"]["auroc"] <= 1
    rows = table(folder / "calibration.tsv")
    assert {row["preset"] for row in rows} == {"strict", "balanced", "sensitive"} and rows[0].keys() == set(
        PRESET_COLUMNS
    )


@pytest.mark.parametrize(
    ("genomes", "validation", "groups"), [(20, 0.1, 2), (20, 0.0, 0), (39, 0.1, 4)], ids=["few", "none", "one-short"]
)
def test_too_small_a_validation_part_is_a_warning(tmp_path, caplog, genomes, validation, groups):
    spec = train(many(tmp_path, genomes=genomes), tmp_path / "c", replace(FAST, validation=validation, epochs=2))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    whole = json.loads((tmp_path / "calibration.json").read_text())
    assert spec.calibration is None and spec.partial_frames and load_classifier(tmp_path / "c")[1] == spec
    assert re.search(f"at least 5 viral groups .*; there are {groups}", warning) and "classifier calibrate" in warning
    assert whole["calibration"] is None and whole["reason"] in warning
    assert len((tmp_path / "calibration.tsv").read_text().splitlines()) == 1


def test_a_frame_beyond_its_record_is_named(tmp_path):
    samples = many(tmp_path)
    samples[0] = replace(samples[0], lengths=dict.fromkeys(samples[0].lengths, 1500))
    with pytest.raises(StorageError, match=r"v\.h5: the sequences have no chunk for v\d+_chunk_4F2:3-182"):
        train(samples, tmp_path / "c", replace(PATIENT, epochs=1))


# Reference and category head


def test_the_reference_is_of_the_training_part(calibrated):
    folder, samples = calibrated
    spec = read_classifier_spec(folder / "c.safetensors")
    data = Dataset(samples, validation=PATIENT.validation, test=PATIENT.test)
    assert spec.reference["classes"] == ["viral", "bacteria", "plants"]
    assert spec.reference["rows"] == data.frames("train") and spec.reference == json.loads(
        (folder / "calibration.json").read_text()
    ).get("reference")
    scorer, _ = load_scorer(folder / "c.safetensors")
    part = score_part(data, "validation", scorer)
    assert part.distances.shape == (30,)
    assert spec.reference["limit"] == pytest.approx(measure_limit(part.distances, part.weights))
    features = next(data.blocks("train")).features
    assert scorer(features + 100).distances.min() > 5 * spec.reference["limit"]


def coloured(folder, **about):
    """Samples whose categories differ in the second column."""
    samples = many(folder, **about)
    for sample, column in ((samples[1], 2.0), (samples[2], -2.0)):
        with h5py.File(sample.embeddings, "r+") as file:
            for place in (file, file["partial"]):
                vectors = place["dna"][:]
                vectors[:, 1] += 3 * column
                place["dna"][:] = vectors
    return samples


def test_a_category_head_changes_no_score(tmp_path, monkeypatch):
    samples = coloured(tmp_path)
    with_head = train(samples, tmp_path / "a" / "c", PATIENT)
    assert with_head.categories == [
        {"name": "viral", "viral": True},
        {"name": "bacteria", "viral": False},
        {"name": "plants", "viral": False},
    ]
    assert with_head.metrics["category_recall"].keys() == {"viral", "bacteria", "plants"}
    assert min(with_head.metrics["category_recall"][name] for name in ("bacteria", "plants")) > 0.6
    monkeypatch.setattr(Kinds, "several", False)
    without = train(samples, tmp_path / "b" / "c", PATIENT)
    assert without.categories is None and without.weights_sha256 != with_head.weights_sha256
    arrays, others = read_classifier(tmp_path / "a" / "c")[0], read_classifier(tmp_path / "b" / "c")[0]
    assert arrays.keys() - others.keys() == {"category_layer.weight", "category_layer.bias"}
    assert all(np.array_equal(value, arrays[name]) for name, value in others.items())
    assert with_head.calibration == without.calibration and with_head.reference == without.reference


def test_categories_weigh_the_same(tmp_path):
    """In the head's loss, however many frames each has."""
    samples = [*many(tmp_path), embed(tmp_path / "l.h5", "l", False, genomes=5, seed=3, category="lichens")]
    data = Dataset(samples)
    head = Head(Classifier(data.width, 4), data, kinds_of(data), 0)
    weights = head._weights.numpy() * data.by_unit("train")
    found = {category: 0.0 for category in ("", "bacteria", "plants", "lichens")}
    for unit, weight in zip(data.units, weights.tolist(), strict=True):
        found[unit.category] += weight
    assert np.allclose(list(found.values()), data.frames("train") / 4)


def test_kinds_are_those_of_the_training_part(tmp_path):
    samples = many(tmp_path)
    samples[0] = replace(samples[0], category="plants")
    kinds = kinds_of(Dataset(samples))
    assert kinds.names == ["plants (viral)", "bacteria", "plants (non-viral)"] and kinds.several
    assert not kinds_of(Dataset(samples[:2])).several
    shared = replace(samples[1], name="x", group="g", category="rare")  # the genome of a viral sample
    data = Dataset([replace(samples[0], group="g"), *samples[1:], embed(tmp_path / "w.h5", "w", True), shared], seed=1)
    data.unit_parts[[unit.category == "rare" for unit in data.units]] = PARTS.index("test")
    data.counts = {part: {kind: data._counted(part, kind) for kind in (FRAMES, PARTIAL)} for part in PARTS}
    kinds = kinds_of(data)
    assert "rare" not in kinds.names and kinds.of_unit[[u.category == "rare" for u in data.units]].tolist() == [-1]
    with pytest.raises(InputError, match=r"printable"):
        kinds_of(Dataset([replace(samples[0], category="a\x07"), samples[1]]))


# Weights
