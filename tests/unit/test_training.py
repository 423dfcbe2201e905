"""Training: the split by genome, streaming, determinism, and the file that comes out."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training_fixtures import FAST, embed, many, table
from virnucpro.classifier import dataset
from virnucpro.classifier.dataset import PARTS, Dataset, Sample, split_genomes
from virnucpro.classifier.importer import prepare_classifier
from virnucpro.classifier.model import load_classifier
from virnucpro.classifier.scoring import load_scorer
from virnucpro.classifier.training import TrainOptions, _weights, train
from virnucpro.embeddings.store import MergedEmbeddings, create_merged
from virnucpro.errors import ConfigError, InputError, ModelError, StorageError
from virnucpro.sequences.shards import PARTIAL
from virnucpro.settings.tables import read_table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pair(tmp_path):
    return [embed(tmp_path / "v.h5", "v", True, shift=2), embed(tmp_path / "n.h5", "n", False, shift=2, genomes=30)]


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
