"""The check: what it measures, that it passes where it should, and that it fails where it must."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import bpe_json, dna, random_dnabert, random_esm2
from virnucpro.check import reference, run
from virnucpro.check.frames import read_published, sample_frames
from virnucpro.check.measure import compare_scores, compare_vectors, within
from virnucpro.check.output import refuse_failed
from virnucpro.check.reference import reference_vectors
from virnucpro.check.run import measure
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.encoders import embedder as embedding
from virnucpro.encoders import precision
from virnucpro.encoders.loading import write_encoder
from virnucpro.encoders.precision import PRECISIONS, Gate
from virnucpro.errors import InputError, ModelError
from virnucpro.provenance import read_provenance
from virnucpro.sequences.shards import KINDS, PARTIAL
from virnucpro.sequences.split import read_shard, split_samples
from virnucpro.settings.options import Settings

WIDTHS = (48, 32)


def row(precision="fp16", against="fair-esm", encoder="protein", **measures):
    return {"precision": precision, "reference": against, "encoder": encoder, "score_change": 0.0} | measures


def test_an_outlier_dimension_hides_errors_from_all_measures_but_one():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 64)).astype(np.float32)
    vectors[:, 7] += 3000
    wrong = vectors + 0.1 * rng.normal(size=vectors.shape).astype(np.float32)
    measures, errors = compare_vectors(wrong, vectors)
    assert measures["outlier_dimensions"] == [7]
    assert measures["cosine"] > 0.9999999 and measures["relative_l2"] < PRECISIONS["fp16"].gate.relative_l2
    assert measures["relative_l2_rest"] == errors.max() > 0.08
    assert not within(row(**measures))
    exact, _ = compare_vectors(vectors, vectors)
    assert exact["relative_l2_rest"] == exact["largest_difference"] == 0 and within(row(**exact))


def test_gates():
    assert within(row(relative_l2_rest=1e-3)) and not within(row("fp32", relative_l2_rest=1e-3))
    assert not within(row(relative_l2_rest=float("nan")))
    assert not within(row(relative_l2_rest=0.0, score_change=0.02))
    assert within(row("int8", relative_l2_rest=0.0, score_change=0.02))
    published = {"against": "published", "relative_l2_rest": 1e-3}
    assert within(row("fp32", **published, largest_difference=1e-4))
    assert not within(row("fp32", **published, largest_difference=1e-4, encoder="dna"))
    assert compare_scores(np.array([0.4, 0.6, 0.9]), np.array([0.6, 0.61, 0.9])) == {
        "score_change": pytest.approx(0.2),
        "label_flips": 1,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Shards, two random encoders and a classifier."""
    folder = tmp_path_factory.mktemp("check")
    # No T, so no stop on the forward strand; then records with stops in all frames of each chunk.
    records = dna([600] * 40, seed=3, letters=b"ACG")
    stops = b"TTAATTAATTAA"
    records += [record[:140] + stops + record[152:300] for record in records[:12]]
    (folder / "in.fa").write_bytes(b"".join(b">r%d\n%s\n" % pair for pair in enumerate(records)))
    split_samples(
        {"s": [folder / "in.fa"]}, folder / "shards", chunk_length=300, shard_frames=40, empty_records="error"
    )
    models = {"dna": folder / "dna.safetensors", "protein": folder / "protein.safetensors"}
    write_encoder(random_dnabert(tokenizer=bpe_json()), models["dna"], name="d")
    write_encoder(random_esm2(), models["protein"], name="p")
    torch.manual_seed(0)
    classifier = Classifier(sum(WIDTHS), 16).eval()
    write_classifier(folder / "c.safetensors", classifier, ClassifierSpec(name="c", width=sum(WIDTHS), hidden=16))
    return [folder / "shards"], models, folder / "c.safetensors"


def test_frames_come_from_all_over_the_samples(made):
    frames = sample_frames(made[0], 25)
    assert 25 <= len(frames.ids) <= 30 and len(set(frames.ids)) == len(frames.ids)
    assert len({name.split("_")[0] for name in frames.ids}) > 10
    for kind, suffix in (("dna", "fna"), ("protein", "faa")):
        files = [read_shard(path) for path in made[0][0].glob(f"*.{suffix}")]
        known = {name: sequence for ids, sequences in files for name, sequence in zip(ids, sequences, strict=True)}
        assert frames.sequences[kind] == [known[name] for name in frames.ids]
    assert len(sample_frames(made[0], 10**6).ids) > 60


def test_partial_frames_are_compared_where_they_are_scored(made, tmp_path):
    """Beside the others, counted apart; alone, where there are no others."""
    frames = sample_frames(made[0], 30, KINDS)
    assert 0 < frames.partial < len(frames.ids)
    assert [":" in name for name in frames.ids] == [False] * (len(frames.ids) - frames.partial) + [
        True
    ] * frames.partial
    assert sample_frames(made[0], 30).partial == 0
    result = measure(*made, tmp_path, Settings(), frames=12, kinds=KINDS)
    assert result["passed"] and result["frames"] > 0 < result["partial_frames"]
    said = f"{result['frames']} frames and {result['partial_frames']} partial frames on CPU: PASSED"
    assert said in (tmp_path / "check.txt").read_text()
    assert sample_frames(made[0], 5, (PARTIAL,)).partial == 5


def test_no_frames_is_an_error(tmp_path):
    (tmp_path / "in.fa").write_text(">r\n" + "TAA" * 120 + "\n")
    split_samples(
        {"s": [tmp_path / "in.fa"]}, tmp_path / "shards", chunk_length=300, shard_frames=40, empty_records="error"
    )
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    (tmp_path / "shards" / "manifest.json").write_text(json.dumps(manifest | {"shards": []}))
    with pytest.raises(InputError, match="no stop-free frame"):
        sample_frames([tmp_path / "shards"], 5)


def test_fp32_passes_against_both_references(made, tmp_path):
    result = measure(*made, tmp_path, Settings(), frames=20)
    assert result["passed"] and result == json.loads((tmp_path / "check.json").read_text())
    *own, stored = result["rows"]
    rows = {row["encoder"]: row for row in own}
    assert stored["vectors"] == "float16" and not stored["chosen"] and 0 < stored["score_change"] < 1e-3
    assert [row["chosen"] for row in rows.values()] == [True] * 3
    assert (rows["dna"]["reference"], rows["protein"]["reference"]) == ("plain fp32", "fair-esm")
    assert {row["backend"] for row in rows.values()} == {"sdpa"}
    way = {"precision": "fp32", "backend": "sdpa", "batching": "packed"}
    assert read_provenance(tmp_path / "check.png")["computed"] == {"dna": way, "protein": way}
    assert 0 < rows["protein"]["relative_l2_rest"] < 1e-5
    assert any("triton" in reason for reason in result["not_available"])
    text = (tmp_path / "check.txt").read_text()
    assert "CPU: PASSED" in text and "FAILED" not in text
    assert (tmp_path / "check.png").stat().st_size > 5000 and "<svg" in (tmp_path / "check.svg").read_text()


def test_vectors_stored_as_float16_have_a_gate(made, tmp_path, monkeypatch):
    result = measure(*made, tmp_path, Settings(vectors="float16"), frames=20)
    assert result["passed"] and [row["chosen"] for row in result["rows"]] == [True] * 4
    assert "float16" in (tmp_path / "check.txt").read_text()
    assert within(row(vectors="float16", score_change=9e-4)) and not within(row(vectors="float16", score_change=2e-3))
    computed = run.compute

    def too_large(model, *rest):
        found = computed(model, *rest)
        return found._replace(vectors=found.vectors + 1e5) if "protein" in str(model) else found

    monkeypatch.setattr(run, "compute", too_large)
    measure(*made, tmp_path, Settings(vectors="float16"), frames=20)
    with pytest.raises(ModelError, match="both against vectors: float32"):
        refuse_failed(tmp_path / "check.json")


def test_a_wrong_path_fails_and_leaves_its_files(made, tmp_path, monkeypatch):
    computed = run.compute

    def wrong(model, *rest):
        found = computed(model, *rest)
        return found._replace(vectors=found.vectors + 0.01 * found.vectors.std()) if "protein" in str(model) else found

    monkeypatch.setattr(run, "compute", wrong)
    measure(*made, tmp_path, Settings(), frames=20)
    with pytest.raises(ModelError, match=r"protein against fair-esm.*check\.txt"):
        refuse_failed(tmp_path / "check.json")
    result = json.loads((tmp_path / "check.json").read_text())
    dna, protein, both, _ = result["rows"]
    assert dna["passed"] and not protein["passed"]
    assert dna["score_change"] < 1e-6 < 1e-5 < protein["score_change"] == pytest.approx(both["score_change"], rel=0.01)
    assert "FAILED" in (tmp_path / "check.txt").read_text() and (tmp_path / "check.png").exists()


def test_other_precisions_only_inform(made, tmp_path, monkeypatch):
    """A CPU that is said to have half precision; bf16 with a gate that nothing keeps to."""

    def choose(name, device, architecture=None, compile=False):
        fp16 = name == "auto" or (name == "int8" and architecture and not architecture.int8)
        return PRECISIONS["fp16" if fp16 else name]

    for module in (embedding, run, precision):
        monkeypatch.setattr(module, "choose_precision", choose)
    monkeypatch.delitem(PRECISIONS, "tf32")
    monkeypatch.setitem(PRECISIONS, "bf16", dataclasses.replace(PRECISIONS["bf16"], gate=Gate(1e-9, 1e-9)))
    result = measure(*made, tmp_path, Settings(), frames=10)
    ways = [(row["precision"], row["chosen"], row["passed"]) for row in result["rows"] if row["encoder"] == "protein"]
    assert sorted(ways) == [("bf16", False, False), ("fp16", True, True), ("fp32", False, True)]
    ways = [row["precision"] for row in result["rows"] if row["encoder"] == "dna"]
    assert sorted(ways) == ["bf16", "fp16", "fp32"], "each once: int8 would be fp16 again"
    assert result["passed"]


def test_without_fair_esm_the_plain_forward_pass_stands_in(made, monkeypatch):
    frames = sample_frames(made[0], 10)
    given = (made[1]["protein"], frames.ids, frames.sequences["protein"])
    original, name = reference_vectors(*given, "cpu")
    assert name == "fair-esm"
    imported = importlib.import_module

    def absent(name):
        if name.startswith("esm"):
            raise ImportError
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    plain, name = reference_vectors(*given, "cpu")
    assert name == "plain fp32"
    assert not np.array_equal(plain, original) and np.abs(plain - original).max() < 1e-5 * np.abs(original).max()


def test_a_reference_too_large_for_the_gpu_runs_on_the_cpu(made, monkeypatch, caplog):
    load = reference.load_encoder

    def small(model, device, dtype):
        if device == "cuda":
            raise torch.OutOfMemoryError
        return load(model, device, dtype)

    monkeypatch.setattr(reference, "load_encoder", small)
    frames = sample_frames(made[0], 3)
    vectors, _ = reference_vectors(made[1]["dna"], frames.ids, frames.sequences["dna"], "cuda")
    assert vectors.shape == (len(frames.ids), 48) and "the reference runs on the CPU" in caplog.text


@pytest.fixture
def published(made, tmp_path):
    """What these encoders give, in the original's files."""
    frames = sample_frames(made[0], 6)
    vectors = [reference_vectors(made[1][role], frames.ids, frames.sequences[role], "cpu")[0] for role in made[1]]
    for kind, name in (("dna", "nucleotide.fa"), ("protein", "protein.faa")):
        pairs = zip(frames.ids, frames.sequences[kind], strict=True)
        (tmp_path / f"x_identified_{name}").write_text("".join(f">{i}\n{s.decode()}\n" for i, s in pairs))
    np.savez(tmp_path / "merged.npz", ids=np.array(frames.ids), embeddings=np.hstack(vectors))
    return tmp_path / "merged.npz"


def test_published_vectors(made, published):
    result = measure(*made, published.parent / "out", Settings(), frames=5, published=published)
    assert [row["encoder"] for row in result["rows"] if row["reference"] == "published"] == ["dna", "protein", "both"]
    with np.load(published) as file:
        ids, vectors = file["ids"], file["embeddings"]
    vectors[2, 50] += 2e-4
    np.savez(published, ids=ids, embeddings=vectors)
    measure(*made, published.parent / "out", Settings(), frames=5, published=published)
    with pytest.raises(ModelError, match="protein against published"):
        refuse_failed(published.parent / "out" / "check.json")


def test_published_vectors_that_cannot_be_used(published):
    with pytest.raises(InputError, match=r"these encoders give 768 \+ 2560 columns"):
        read_published(published, [768, 2560])
    fasta = published.parent / "x_identified_protein.faa"
    fasta.write_text(fasta.read_text().replace(">r0_", ">q0_"))
    with pytest.raises(InputError, match="has no sequence for r0_"):
        read_published(published, WIDTHS)
    fasta.unlink()
    with pytest.raises(InputError, match=r"must hold one \*identified_protein.fa, not 0"):
        read_published(published, WIDTHS)
    np.savez(published, ids=np.array([{}], dtype=object), embeddings=np.zeros((1, 80)))
    with pytest.raises(InputError, match="can't be read as published vectors"):
        read_published(published, WIDTHS)
