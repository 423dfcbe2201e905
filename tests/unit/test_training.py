"""Training: the split by genome, streaming, determinism, and the file that comes out."""

import csv
import json
import re
import tracemalloc
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.classifier import dataset
from virnucpro.classifier.calibrate import PRESET_COLUMNS
from virnucpro.classifier.calibrating import fit_calibration
from virnucpro.classifier.categories import Head, Kinds, kinds_of
from virnucpro.classifier.dataset import PARTS, Dataset, Sample, split_genomes
from virnucpro.classifier.held_back import score_part
from virnucpro.classifier.importer import prepare_classifier
from virnucpro.classifier.model import Classifier, load_classifier
from virnucpro.classifier.reference import measure_limit
from virnucpro.classifier.scoring import load_scorer
from virnucpro.classifier.spec import read_classifier, read_classifier_spec
from virnucpro.classifier.training import TrainOptions, _weights, train
from virnucpro.embeddings.store import MergedEmbeddings, create_merged, place_of
from virnucpro.errors import ConfigError, InputError, ModelError, StorageError
from virnucpro.sequences.shards import FRAMES, PARTIAL
from virnucpro.settings.tables import read_table

FAST = TrainOptions(hidden=16, optimiser="adam", learning_rate=1e-2, batch_size=64, epochs=8, standardise=True)


def embed(
    path,
    name,
    viral,
    genomes=20,
    frames=6,
    partial=0,
    shift=1.0,
    width=8,
    seed=0,
    category="",
    group=None,
    **provenance,
):
    """A file of random vectors; the first column tells the classes apart by ``shift``.

    A genome is one record: chunks of ``frames`` frames, three each, then chunks of a ``partial`` frame each.
    """
    rng = np.random.default_rng([seed, viral])
    chunks = -(-frames // 3)
    ids = {
        FRAMES: [
            f"{name}{g}_chunk_{f // 3 + 1}{'F' if f % 2 else 'R'}{f % 3 + 1}"
            for g in range(genomes)
            for f in range(frames)
        ],
        PARTIAL: [
            f"{name}{g}_chunk_{chunks + f + 1}F2:{f + 2}-{f + 181}" for g in range(genomes) for f in range(partial)
        ],
    }
    about = {
        "chunk_length": 500,
        "dna_encoder": {"name": "A", "weights_sha256": "a" * 64, "pooling": "mean"},
        "protein_encoder": {"name": "B", "weights_sha256": "b" * 64, "pooling": "mean"},
        "shards": [{"shard": f"{name}-{seed}"}],
    }
    with create_merged(path, len(ids[FRAMES]), width - 3, 3, about | provenance, partial=len(ids[PARTIAL])) as file:
        for kind, names in ids.items():
            vectors = rng.normal(size=(len(names), width)).astype(np.float32) * 3 + 5
            vectors[:, 0] += shift * (3 if viral else -3)
            place = place_of(file, kind)
            place["ids"][:] = names
            place["dna"][:], place["protein"][:] = vectors[:, :-3], vectors[:, -3:]
    lengths = {f"{name}{g}": 500 * (chunks + partial) for g in range(genomes)}
    return Sample(name, path, viral, lengths, group, category)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they save on vectors this short."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pair(tmp_path):
    return [embed(tmp_path / "v.h5", "v", True, shift=2), embed(tmp_path / "n.h5", "n", False, shift=2, genomes=30)]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


# The split

names = st.text("abcdef0123456789", min_size=1, max_size=6)
strata = st.tuples(st.booleans(), st.sampled_from(["", "phage", "plant"]))
shares = st.sampled_from([0.0, 0.1, 0.25, 0.4])


@given(st.dictionaries(names, strata, max_size=60), shares, shares, st.integers(0, 99))
def test_split_is_stratified_and_stable(genomes, validation, test, seed):
    parts = split_genomes(genomes, validation, test, seed)
    assert set(parts) == set(genomes) and set(parts.values()) <= set(PARTS)
    backwards = dict(reversed(genomes.items()))
    assert split_genomes(backwards, validation, test, seed) == parts
    for stratum in set(genomes.values()):
        members = [genome for genome in genomes if genomes[genome] == stratum]
        for part, share in (("validation", validation), ("test", test)):
            count = sum(parts[genome] == part for genome in members)
            assert abs(count - share * len(members)) <= 1 or len(members) < 4
            assert count or not share or len(members) < 3
        assert any(parts[genome] == "train" for genome in members)


genomes_of_records = st.dictionaries(names, st.sampled_from("ABCDEFGH"), min_size=3, max_size=40)


def unlabelled_twice(folder, groups):
    """A viral and a non-viral sample with the same records, of two frames each; features tell which frame it is."""
    samples = []
    for viral in (True, False):
        ids = [f"{record}_chunk_{n}F{n}" for record in groups for n in (1, 2)]
        about = {"chunk_length": 500, "dna_encoder": {}, "protein_encoder": {}}
        with create_merged(folder / f"{viral}.h5", len(ids), 2, 1, about) as file:
            file["ids"][:] = ids
            codes = np.arange(len(ids), dtype=np.float32)
            file["dna"][:], file["protein"][:] = codes[:, None], 0
        samples.append(Sample(str(viral), folder / f"{viral}.h5", viral, dict.fromkeys(groups, 1000)))
    return samples


@given(genomes_of_records.filter(lambda groups: len(set(groups.values())) >= len(PARTS)), st.integers(0, 9))
def test_no_genome_on_both_sides(tmp_path_factory, groups, seed):
    """Whatever the grouping, the frames of a genome are all in one part, and every frame is dealt once."""
    data = Dataset(unlabelled_twice(tmp_path_factory.mktemp("split"), groups), groups, 0.2, 0.2, seed)
    seen: dict[str, set[str]] = {}
    dealt = []
    order = np.random.default_rng(0)
    for part in PARTS:
        for batch in data.blocks(part, order):
            for code, viral in zip(batch.features[:, 0], batch.viral, strict=True):
                record = list(groups)[int(code) // 2]
                seen.setdefault(groups[record], set()).add(part)
                dealt.append((viral, code))
    assert all(len(parts) == 1 for parts in seen.values())
    assert set.union(*seen.values()) == set(PARTS)
    assert len(dealt) == len(set(dealt)) == 4 * len(groups)


@pytest.mark.parametrize("groups", [{"a": "A"}, {"a": "A", "b": "B"}, {"a": "A", "b": "B", "c": "A"}])
def test_too_few_genomes_for_a_part(tmp_path, groups):
    with pytest.raises(InputError, match="No viral genome with a frame to score falls in the validation part"):
        Dataset(unlabelled_twice(tmp_path, groups), groups, 0.2, 0.2, 0)


def test_a_sample_group_is_one_genome(tmp_path):
    samples = [embed(tmp_path / f"{i}", f"s{i}_", i % 2 == 0, genomes=4, group=f"g{i // 2 % 5}") for i in range(12)]
    data = Dataset(samples, validation=0.2, test=0.2)
    assert len(data.parts) == 5
    for row in data.records:
        assert data.parts[row.genome] == data.parts[f"g{int(row.sample[1:-1]) // 2 % 5}"]


# Streaming


@pytest.mark.parametrize("pool", [4 * 8 * 50, dataset.POOL_BYTES], ids=["streamed", "in-memory"])
def test_shuffled_batches_deal_every_row_once(tmp_path, pair, monkeypatch, pool):
    monkeypatch.setattr(dataset, "POOL_BYTES", pool)
    monkeypatch.setattr(dataset, "ROWS_PER_CHUNK", 16)
    data = Dataset(pair, validation=0.1, test=0.1)
    orders = []
    for seed in (0, 0, 1):
        batches = list(data.shuffled("train", 32, np.random.default_rng(seed)))
        assert {len(batch.viral) for batch in batches[:-1]} == {32}
        orders.append(np.concatenate([batch.features for batch in batches])[:, 0])
    whole = np.concatenate([batch.features for batch in data.blocks("train")])[:, 0]
    assert all(np.array_equal(np.sort(order), np.sort(whole)) for order in orders)
    assert np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])


def test_memory_is_bounded_by_the_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "POOL_BYTES", 2 << 20)
    samples = [embed(tmp_path / f"{v}", f"s{v}", bool(v), genomes=400, frames=60, width=128) for v in (0, 1)]
    data = Dataset(samples)  # 24.6 MB of features
    tracemalloc.start()
    for batch in data.shuffled("train", 256, np.random.default_rng(0)):
        assert 0 < batch.viral.mean() < 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * dataset.POOL_BYTES


def test_a_part_that_fits_is_read_once(pair, monkeypatch):
    """And no row is lost where it doesn't, or where some aren't drawn."""
    data = Dataset(pair)
    orders = [list(data.shuffled("train", 32, np.random.default_rng(0))) for _ in range(2)]
    for one, other in zip(*orders, strict=True):
        assert all(np.array_equal(*columns) for columns in zip(one, other, strict=True))
    monkeypatch.setattr(MergedEmbeddings, "features", lambda *_: pytest.fail("was read again"))
    assert sum(len(batch.viral) for batch in data.shuffled("train", 32, np.random.default_rng(1))) == data.frames(
        "train"
    )
    none = np.where(data.viral, 0.0, 1.0)
    drawn = list(data.shuffled("train", 32, np.random.default_rng(1), none))
    assert sum(len(batch.viral) for batch in drawn) == data.frames("train", False) and not drawn[0].viral.any()


# Partial frames


def test_partial_frames_are_trained_on_and_counted_apart(tmp_path):
    """Records without a stop-free frame, too; a genome's frames of both kinds are in one part."""
    samples = [
        embed(tmp_path / "v.h5", "v", True, partial=2, shift=2),
        embed(tmp_path / "n.h5", "n", False, partial=1, shift=2),
        embed(tmp_path / "p.h5", "p", False, genomes=10, frames=0, partial=4, shift=2),
    ]
    data = Dataset(samples)
    assert sum(data.frames(part) for part in PARTS) == 20 * 8 + 20 * 7 + 10 * 4
    assert sum(data.frames(part, False, PARTIAL) for part in PARTS) == 20 + 40
    read = sum(len(batch.viral) for part in PARTS for batch in data.blocks(part))
    assert read == 20 * 8 + 20 * 7 + 10 * 4
    spec = train(samples, tmp_path / "c", FAST)
    assert spec.partial_frames
    rows = {row["record"]: row for row in table(tmp_path / "split.tsv")}
    assert list(rows) == [f"{name}{g}" for name, genomes in (("v", 20), ("n", 20), ("p", 10)) for g in range(genomes)]
    assert [(rows[name]["frames"], rows[name]["partial_frames"]) for name in ("v0", "n7", "p9")] == [
        ("6", "2"),
        ("6", "1"),
        ("0", "4"),
    ]
    report = json.loads((tmp_path / "training.json").read_text())
    for key, column in (("frames", "frames"), ("partial_frames", "partial_frames")):
        for part in PARTS:
            here = [row for row in rows.values() if row["part"] == part]
            for name, viral in (("viral", "1"), ("non-viral", "0")):
                count = sum(int(row[column]) for row in here if row["viral"] == viral)
                assert report[key][part][name] == count


def test_without_partial_frames_the_file_is_not_for_them(tmp_path, pair):
    assert not train(pair, tmp_path / "c", FAST).partial_frames
    assert json.loads((tmp_path / "training.json").read_text())["partial_frames"]["train"] == {
        "viral": 0,
        "non-viral": 0,
    }


def test_frames_that_a_sample_does_not_have_are_named(tmp_path, pair):
    lengths = {record: bases for record, bases in pair[0].lengths.items() if record != "v3"}
    with pytest.raises(StorageError, match=r"v\.h5: frame v3_chunk_1\w\d isn't where sample v has it"):
        Dataset([replace(pair[0], lengths=lengths), pair[1]])


# Calibration


def many(folder, **about):
    """Samples with enough genomes for a validation part that can be calibrated on, with two categories of non-viral ones."""
    about = {"genomes": 40, "partial": 2, "shift": 0.5} | about
    return [
        embed(folder / "v.h5", "v", True, **about),
        embed(folder / "n.h5", "n", False, seed=1, category="bacteria", **about),
        embed(folder / "m.h5", "m", False, seed=2, category="plants", **about),
    ]


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


def test_genomes_weigh_the_same(tmp_path):
    """With ``balance: groups``, in their category, as categories do in a class, and both classes; in each part."""
    samples = many(tmp_path, partial=0)
    samples.append(embed(tmp_path / "l.h5", "l", False, genomes=12, frames=60, seed=3, category="plants"))
    data = Dataset(samples, validation=0.2)
    for part in ("train", "validation"):
        counts = data.by_unit(part)
        of_units = _weights(data, "groups", part).numpy() * counts
        assert of_units[data.viral].sum() == pytest.approx(of_units[~data.viral].sum())
        assert of_units.sum() == pytest.approx(data.frames(part), rel=1e-5)
        for category, share in (("bacteria", 4), ("plants", 4)):
            here = [i for i, unit in enumerate(data.units) if unit.category == category and counts[i]]
            assert of_units[here].sum() == pytest.approx(of_units.sum() / share, rel=1e-5)
            assert np.ptp(of_units[here]) < 1e-4 * of_units[here].max()


def test_smoothed_labels_make_scores_less_sure(tmp_path, pair):
    scores = []
    for smoothing in (0.0, 0.4):
        train(pair, tmp_path / "c", replace(FAST, label_smoothing=smoothing))
        scores.append(load_scorer(tmp_path / "c")[0](MergedEmbeddings(pair[0].embeddings).features(slice(None))).scores)
    assert np.median(scores[1][:, 1]) < np.median(scores[0][:, 1]) - 0.05


# Training


@pytest.mark.parametrize("balance", ["sampling", "weights", "categories", "groups", "none"])
def test_learns_what_can_be_learnt(tmp_path, pair, balance):
    spec = train(pair, tmp_path / "c.safetensors", TrainOptions(**{**FAST.__dict__, "balance": balance}))
    assert spec.metrics["part"] == "test" and spec.metrics["auroc"] > 0.9
    model, again = load_classifier(tmp_path / "c.safetensors")
    assert again == spec and model.input_mean[0] != 0
    assert (spec.dna_width, spec.protein_width, spec.chunk_length) == (5, 3, 500)
    assert spec.dna_encoder == {"name": "A", "weights_sha256": "a" * 64} and spec.pooling["protein"] == "mean"


def test_same_seed_same_bytes(tmp_path, pair):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(pair, tmp_path / name / "c", TrainOptions(**{**FAST.__dict__, "seed": seed}), name="same")
    for file in ("c", "training.json", "split.tsv", "calibration.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_defaults_are_the_originals_and_run(tmp_path, pair):
    options = TrainOptions(epochs=2)
    assert (options.hidden, options.dropout, options.optimiser, options.batch_size) == (512, 0.5, "sgd", 32)
    spec = train(pair, tmp_path / "c", options)
    assert spec.hidden == 512 and load_classifier(tmp_path / "c")[0].input_mean is None


def test_stops_early_and_keeps_the_best_epoch(tmp_path, monkeypatch):
    noise = [embed(tmp_path / f"{v}", f"s{v}", bool(v), shift=0) for v in (0, 1)]
    options = TrainOptions(hidden=64, optimiser="adam", learning_rate=0.05, batch_size=32, epochs=100, patience=3)
    train(noise, tmp_path / "c", options)
    report = json.loads((tmp_path / "training.json").read_text())
    losses = [row["validation_loss"] for row in report["history"]]
    assert len(losses) < 100 and report["best_epoch"] == len(losses) - 3 == 1 + int(np.argmin(losses))


def test_split_table_names_every_record(tmp_path, pair):
    train(pair, tmp_path / "c", FAST)
    rows = table(tmp_path / "split.tsv")
    assert len(rows) == 50 and {row["part"] for row in rows} == set(PARTS)
    assert {(row["record"][0], row["viral"]) for row in rows} == {("v", "1"), ("n", "0")}
    report = json.loads((tmp_path / "training.json").read_text())
    assert sum(sum(classes.values()) for classes in report["frames"].values()) == 300
    assert sum(int(row["frames"]) for row in rows if row["part"] == "test") == sum(report["frames"]["test"].values())


def test_split_table_is_read_as_it_was_written(tmp_path):
    """A quotation mark in a record's id is a letter, and an id can be longer than the csv module reads."""
    pair = [embed(tmp_path / "v.h5", '"v', True), embed(tmp_path / "n.h5", "n" * 200_000, False, frames=3, genomes=5)]
    train(pair, tmp_path / "c", FAST)
    rows = [line.split("\t") for line in (tmp_path / "split.tsv").read_text().splitlines()]
    record, part = rows[0].index("record"), rows[0].index("part")
    assert {row[record] for row in rows[1:]} == {f'"v{n}' for n in range(20)} | {
        f"{'n' * 200_000}{n}" for n in range(5)
    }
    table = read_table(tmp_path / "split.tsv", ("record", "part"), others=True, quotes=False, what="split")
    assert [(row["record"], row["part"]) for row in table.rows] == [(row[record], row[part]) for row in rows[1:]]


def test_data_digest_follows_the_data(tmp_path, pair):
    digest = Dataset(pair).digest
    assert Dataset(pair).digest == digest
    assert Dataset([embed(tmp_path / "w.h5", "v", True, seed=1), pair[1]]).digest != digest
    assert Dataset([replace(pair[0], viral=False), replace(pair[1], viral=True)]).digest != digest


def test_trained_classifier_is_refused_for_other_encoders(tmp_path, pair):
    from types import SimpleNamespace

    train(pair, tmp_path / "c", FAST)
    dna = SimpleNamespace(name="A", width=5, weights_sha256="a" * 64)
    protein = SimpleNamespace(name="B", width=3, weights_sha256="b" * 64)
    given_ = {"dna_spec": dna, "protein_spec": protein, "chunk_length": 500, "warn": pytest.fail}
    prepare_classifier(tmp_path / "c", tmp_path / "d", **given_)
    with pytest.raises(ModelError, match="chunks of 500 bases, the run has 300"):
        prepare_classifier(tmp_path / "c", tmp_path / "d", **given_ | {"chunk_length": 300})
    other = SimpleNamespace(name="B2", width=3, weights_sha256="c" * 64)
    with pytest.raises(ModelError, match="with weights bbbb"):
        prepare_classifier(tmp_path / "c", tmp_path / "d", **given_ | {"protein_spec": other})


def test_refusals(tmp_path, pair):
    with pytest.raises(InputError, match="no samples"):
        Dataset([])
    with pytest.raises(InputError, match="same name"):
        Dataset([pair[0], pair[0]])
    with pytest.raises(InputError, match="No non-viral genome"):
        train(pair[:1], tmp_path / "c", FAST)
    with pytest.raises(InputError, match="leave something"):
        Dataset(pair, validation=0.5, test=0.5)
    for key, value in (("dna_encoder", {"name": "Z", "weights_sha256": "z"}), ("chunk_length", 300)):
        other = embed(tmp_path / f"{key}.h5", "o", False, **{key: value})
        with pytest.raises(ModelError, match=f"another {key}"):
            Dataset([pair[0], other])
    with pytest.raises(ConfigError, match="balance"):
        TrainOptions(balance="weight")
    with pytest.raises(ConfigError, match="batch_size"):
        TrainOptions(batch_size=1)
    with pytest.raises(ModelError, match="diverged"):
        train(pair, tmp_path / "c", TrainOptions(learning_rate=1e30, epochs=3))
    assert not (tmp_path / "c").exists()
