"""Training: the split by genome, streaming, determinism, and the file that comes out."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.classifier import dataset
from virnucpro.classifier.dataset import PARTS, Dataset, Sample, split_genomes
from virnucpro.classifier.importer import prepare_classifier
from virnucpro.classifier.model import load_classifier
from virnucpro.classifier.training import TrainOptions, train
from virnucpro.embeddings.store import create_merged
from virnucpro.errors import ConfigError, InputError, ModelError
from virnucpro.settings.tables import read_table

FAST = TrainOptions(hidden=16, optimiser="adam", learning_rate=1e-2, batch_size=64, epochs=8, standardise=True)


def embed(path, name, viral, genomes=20, frames=6, shift=1.0, width=8, seed=0, category="", group=None, **provenance):
    """A file of random vectors; the first column tells the classes apart by ``shift``."""
    rng = np.random.default_rng([seed, viral])
    ids = [
        f"{name}{g}_chunk_{f // 3 + 1}{'F' if f % 2 else 'R'}{f % 3 + 1}" for g in range(genomes) for f in range(frames)
    ]
    vectors = rng.normal(size=(len(ids), width)).astype(np.float32) * 3 + 5
    vectors[:, 0] += shift * (3 if viral else -3)
    about = {
        "chunk_length": 500,
        "dna_encoder": {"name": "A", "weights_sha256": "a" * 64, "pooling": "mean"},
        "protein_encoder": {"name": "B", "weights_sha256": "b" * 64, "pooling": "mean"},
        "shards": [{"shard": f"{name}-{seed}"}],
    }
    with create_merged(path, len(ids), width - 3, 3, about | provenance) as file:
        file["ids"][:] = ids
        file["dna"][:], file["protein"][:] = vectors[:, :-3], vectors[:, -3:]
    return Sample(name, path, viral, group, category)


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
        samples.append(Sample(str(viral), folder / f"{viral}.h5", viral))
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
    with pytest.raises(InputError, match="No viral genome with an open frame falls in the validation part"):
        Dataset(unlabelled_twice(tmp_path, groups), groups, 0.2, 0.2, 0)


def test_a_sample_group_is_one_genome(tmp_path):
    samples = [embed(tmp_path / f"{i}", f"s{i}_", i % 2 == 0, genomes=4, group=f"g{i // 2 % 5}") for i in range(12)]
    data = Dataset(samples, validation=0.2, test=0.2)
    assert len(data.parts) == 5
    for row in data.rows:
        assert data.parts[row["genome"]] == data.parts[f"g{int(row['sample'][1:-1]) // 2 % 5}"]


# Streaming


def test_shuffled_batches_deal_every_row_once(tmp_path, pair, monkeypatch):
    monkeypatch.setattr(dataset, "POOL_BYTES", 4 * 8 * 50)
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


# Training


@pytest.mark.parametrize("balance", ["sampling", "weights", "categories", "none"])
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
    for file in ("c", "training.json", "split.tsv"):
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
    assert Dataset([Sample("v", pair[0].embeddings, False), Sample("n", pair[1].embeddings, True)]).digest != digest


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
