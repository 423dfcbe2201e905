"""Training and evaluation as targets of the workflow, and what a trained classifier refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.workflow.conftest import Models, fasta
from tests.workflow.runner import environment, snakemake
from virnucpro.classifier.spec import read_classifier_spec
from virnucpro.outputs import TARGETS
from virnucpro.provenance import read_provenance


def sequences(seed: int, count: int, codons: list[str]) -> dict[str, str]:
    """Records of few codons, so that two sets are easy to tell apart."""
    rng = np.random.default_rng(seed)
    return {f"s{seed}_{number}": "".join(rng.choice(codons, 200)) for number in range(count)}


STOPS = "TTAATTAATTAA"
"""A stop in each of the six frames."""


def with_stops(sequence: str) -> str:
    """The same with stops in the middle of its first 300 bases."""
    return sequence[:140] + STOPS + sequence[140 + len(STOPS) :]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny) -> Path:
    """A folder in which `snakemake train` ran."""
    folder = tmp_path_factory.mktemp("train")
    kinds = (
        ("viral", 1, ["GCT", "GAA", "CTG"]),
        ("plain", 2, ["AAA", "TTC", "ACA"]),
        ("green", 5, ["ATG", "TGG", "CAT"]),
    )
    for name, seed, codons in kinds:
        records = {record: with_stops(found) for record, found in sequences(seed, 25, codons).items()}
        (folder / f"{name}.fa").write_text(fasta(records))
    (folder / "labels.tsv").write_text(
        "fasta\tlabel\tcategory\nviral.fa\tviral\tphage\nplain.fa\t0\tbacteria\ngreen.fa\t0\tplants\n"
    )
    config = tiny.config() | {
        "classifier": "null",
        "shard_frames": 1000,
        "training_data": "labels.tsv",
        "training": "{epochs: 30, optimiser: adam, learning_rate: 0.01, hidden: 8, test: 0.3, validation: 0.2}",
    }
    run = snakemake(folder, "train", config=config).ok()
    assert sum(run.computed.values()) > 0
    return folder


def test_train_makes_a_classifier_that_knows_its_encoders(trained, tiny):
    spec = read_classifier_spec(trained / "results/training/classifier.safetensors")
    assert (spec.width, spec.hidden, spec.chunk_length) == (64, 8, 300)
    assert spec.dna_encoder["name"] == "tiny-dnabert"
    assert spec.protein_encoder["name"] == "esm_a"
    report = json.loads((trained / "results/training/training.json").read_text())
    made = read_provenance(trained / "results/training/split.tsv")
    assert made["dna_encoder"]["weights_sha256"] == spec.dna_encoder["weights_sha256"]
    assert made["computed"]["protein"][0]["precision"] == "fp32" and made["run"]["configuration_sha256"]
    assert report["metrics"]["part"] == "test"
    assert report["metrics"]["auroc"] > 0.9
    assert report["frames"]["train"]["viral"] and report["partial_frames"]["train"] == {"viral": 12, "non-viral": 24}
    assert spec.partial_frames and spec.calibration["fitted_on"]["chunks"]["partial"] == 15
    calibration = json.loads((trained / "results/training/calibration.json").read_text())
    assert calibration["calibration"] == spec.calibration and calibration["held_out"]["contigs"]["auroc"] > 0.9
    assert [each["name"] for each in spec.categories] == spec.reference["classes"] == ["phage", "bacteria", "plants"]
    parts = {
        row["genome"]: set() for row in csv.DictReader(open(trained / "results/training/split.tsv"), delimiter="\t")
    }
    for row in csv.DictReader(open(trained / "results/training/split.tsv"), delimiter="\t"):
        parts[row["genome"]].add(row["part"])
    assert all(len(found) == 1 for found in parts.values()), "a genome is on both sides"


def test_training_again_gives_the_same_file(trained, tiny, tmp_path):
    first = [(trained / "results/training" / name).read_bytes() for name in TARGETS["training"]]
    done = subprocess.run(
        [sys.executable, "-m", "virnucpro", "train", "labels.tsv", "--output", "results", "--cores", "2",
         *(f"--{key.replace('_', '-')}={value}" for key, value in tiny.config().items() if key not in ("classifier", "shard_frames")),
         "--shard-frames=1000",
         *("--set=epochs=30", "--set=optimiser=adam", "--set=learning_rate=0.01", "--set=hidden=8"),
         *("--set=test=0.3", "--set=validation=0.2"), "--verbose", "--", "--forcerun", "train"],
        cwd=trained, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "epoch 30: " in done.stderr and "computed" not in done.stderr, "the embeddings were there"
    made = [trained / "results/training" / name for name in TARGETS["training"]]
    assert sorted(done.stdout.split()) == sorted(map(str, made))
    different = [path.name for path, former in zip(made, first, strict=True) if path.read_bytes() != former]
    assert different in ([], ["training.json", "calibration.json"]), "those name the run"


@pytest.fixture(scope="module")
def evaluated(trained, tiny):
    """The same folder, after its test part was predicted and measured."""
    config = tiny.config() | {
        "shard_frames": 1000,
        "classifier": "results/training/classifier.safetensors",
        "labels": "labels.tsv",
        "evaluate_split": "results/training/split.tsv",
    }
    run = snakemake(trained, "evaluate", config=config).ok()
    assert sum(run.computed.values()) == 0
    return trained


def test_evaluate_measures_the_test_part(evaluated):
    rows = list(csv.DictReader(open(evaluated / "results/evaluation/metrics.tsv"), delimiter="\t"))
    chunks = next(row for row in rows if (row["level"], row["group"]) == ("chunk", "all"))
    assert float(chunks["auroc"]) > 0.9
    split = list(csv.DictReader(open(evaluated / "results/training/split.tsv"), delimiter="\t"))
    records = sum(row["part"] == "test" for row in split)
    (made,) = read_provenance(evaluated / "results/evaluation/metrics.tsv")["predicted"]
    assert made["classifier"]["name"] == "classifier" and sorted(made["samples"]) == ["green", "plain", "viral"]
    assert made["computed"]["dna"][0]["precision"] == "fp32" and made["protein_encoder"]["name"] == "esm_a"
    contigs = next(row for row in rows if (row["level"], row["group"]) == ("contig", "all"))
    assert int(contigs["items"] if "items" in contigs else contigs["n"]) == records
    page = (evaluated / "results/evaluation/evaluation.md").read_text()
    assert "## Regions of implants\n\nNot measured: implants need 5 groups of non-viral contigs" in page


def test_predictions_have_all_that_training_made(evaluated):
    right = 0
    for sample, category in (("viral", "phage"), ("plain", "bacteria"), ("green", "plants")):
        with open(evaluated / "results" / sample / "contigs.tsv") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                assert (
                    0 < float(row["probability"]) < 1 and 0 < float(row["distance"]) < 5 and row["category_probability"]
                )
                right += row["category"] == category
    assert right > 50, "of 75"


def test_the_command_evaluates_the_same(evaluated, tiny):
    measured = (evaluated / "results/evaluation/metrics.tsv").read_bytes()
    options = tiny.config() | {"shard_frames": 1000, "classifier": "results/training/classifier.safetensors"}
    done = subprocess.run(
        [sys.executable, "-m", "virnucpro", "evaluate", "labels.tsv", "--split", "results/training/split.tsv",
         "--output", "results", "--cores", "2", *(f"--{key.replace('_', '-')}={value}" for key, value in options.items()),
         "--", "--forcerun", "evaluate"],
        cwd=evaluated, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(evaluated / "results/evaluation/metrics.tsv")
    assert "how good it is" in done.stderr and "jobid" not in done.stderr, "the answer, without Snakemake's notes"
    assert (evaluated / "results/evaluation/metrics.tsv").read_bytes() == measured


def test_a_classifier_is_calibrated_and_used(trained, tiny, tmp_path):
    """By the command, on files of other sequences, of which a third have a stop in all frames of each chunk."""
    for name, seed, codons in (("phage", 3, ["GCT", "GAA", "CTG"]), ("host", 4, ["AAA", "TTC", "ACA"])):
        records = sequences(seed, 24, codons)
        for record in list(records)[::3]:
            records[record] = with_stops(records[record][:300]) + with_stops(records[record][300:])
        (tmp_path / f"{name}.fa").write_text(fasta(records))
    (tmp_path / "labels.tsv").write_text("fasta\tlabel\tcategory\nphage.fa\tviral\tphage\nhost.fa\t0\thost\n")
    classifier = trained / "results/training/classifier.safetensors"
    options = tiny.config() | {"shard_frames": 1000}
    done = subprocess.run(
        [sys.executable, "-m", "virnucpro", "classifier", "calibrate", str(classifier), "labels.tsv", "-o", "results", "-c", "2",
         *(f"--{key.replace('_', '-')}={value}" for key, value in options.items() if key != "classifier")],
        cwd=tmp_path, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = tmp_path / "results" / "calibration"
    assert done.stdout.split() == [str(made / name) for name in TARGETS["calibration"]]
    spec, former = read_classifier_spec(made / "classifier.safetensors"), read_classifier_spec(classifier)
    assert (spec.name, spec.weights_sha256) == (former.name, former.weights_sha256) and spec.partial_frames
    whole = json.loads((made / "calibration.json").read_text())
    assert whole["fitted_on"]["contigs"] == {"viral": 24, "non-viral": 24}
    assert whole["fitted_on"]["chunks"]["partial"] == 32 and whole["fitted_on"]["protein_encoder"]["name"] == "esm_a"
    assert whole["held_out"]["contigs"]["auroc"] > 0.9
    assert whole["reference"] == spec.reference and spec.reference["classes"] == ["phage", "host"]

    config = options | {"classifier": "results/calibration/classifier.safetensors", "labels": "labels.tsv"}
    refused = snakemake(tmp_path, "calibrate", config=config)
    assert refused.status != 0 and "classifier.safetensors is what this target makes" in refused.text
    run = snakemake(tmp_path, "results/phage/contigs.tsv", config=config).ok()
    assert sum(run.computed.values()) == 0, "the vectors were there, those of partial frames, too"
    with open(tmp_path / "results/phage/contigs.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert all(float(row["probability"]) > 0.3 for row in rows)
    assert np.mean([float(row["distance"]) <= 1 for row in rows]) > 0.9 and {row["category"] for row in rows} == {
        "phage"
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"esm_model": "esm_b"}, ["trained on the protein encoder esm_a", "but esm_b has"]),
        ({"chunk_length": 500}, ["trained on chunks of 300 bases", "Set chunk_length to 300"]),
    ],
    ids=["other-weights", "chunk-length"],
)
def test_a_classifier_for_something_else_is_refused(trained, tiny: Models, tmp_path, change, says):
    config = tiny.config(change.get("esm_model", "esm_a")) | {
        key: value for key, value in change.items() if key != "esm_model"
    }
    config |= {"classifier": trained / "results/training/classifier.safetensors", "samples": "samples.tsv"}
    (tmp_path / "samples.tsv").write_text(f"sample\tfasta\ns\t{trained / 'viral.fa'}\n")
    run = snakemake(tmp_path, config=config)
    assert run.status != 0
    assert all(text in run.text for text in says), run.text
    assert sum(run.computed.values()) == 0


@pytest.mark.parametrize(
    ("target", "config", "says"),
    [
        ("train", {}, "'training_data'"),
        ("evaluate", {}, "'labels'"),
        ("calibrate", {}, "'labels'"),
        ("train", {"training_data": "bad.tsv"}, "line 2: label 'maybe'"),
        ("train", {"training_data": "absent.tsv"}, "absent.tsv"),
    ],
)
def test_mistakes_are_named(tmp_path, tiny, target, config, says):
    (tmp_path / "bad.tsv").write_text("fasta\tlabel\nx.fa\tmaybe\n")
    run = snakemake(tmp_path, target, config=tiny.config() | config)
    assert run.status != 0
    assert says in run.text
    assert "jobid:" not in run.text
