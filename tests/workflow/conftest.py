"""Small random models and sequences, made once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from tests.workflow.runner import snakemake
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.loading import write_encoder

CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]


def coding(seed: int, bases: int) -> str:
    """Random bases without a stop in the first frame."""
    return "".join(np.random.default_rng(seed).choice(CODONS, bases // 3 + 1))[:bases]


def fasta(records: dict[str, str]) -> str:
    return "".join(f">{name}\n{sequence}\n" for name, sequence in records.items())


@dataclass(frozen=True)
class Models:
    """Paths of tiny random models: two protein encoders, and a classifier for either."""

    folder: Path

    def prepare(self, output: Path) -> None:
        """Put the models that a run with ``config()`` prepares into its output folder, which spares it three jobs."""
        shutil.copytree(self.folder / "prepared", output / "models")

    def config(self, esm: str = "esm_a", classifier: str = "classifier_a") -> dict[str, object]:
        return {
            "chunk_length": 300,
            "dnabert_model": self.folder / "dnabert.safetensors",
            "esm_model": self.folder / f"{esm}.safetensors",
            "classifier": self.folder / f"{classifier}.safetensors",
            "shard_frames": 24,
        }


def bpe(texts: list[str]) -> str:
    """A byte-pair tokenizer in DNABERT-S's format, with its padding and truncation switched on."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=128, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=2000, pad_id=3, pad_token="[PAD]")
    tokenizer.enable_truncation(2000)
    return tokenizer.to_str()


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of pytest's workers to ask for it fills, for all of them."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder = session / name
    with FileLock(session / f"{name}.lock"):
        if not folder.exists():
            folder.mkdir()
            try:
                make(folder)
            except BaseException:
                folder.rename(session / f"{name}-failed-{os.getpid()}")
                raise
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Models:
    return Models(made_once(tmp_path_factory, "tiny", write_and_prepare))


def write_and_prepare(folder: Path) -> None:
    write_models(folder)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "x.fa").write_text(fasta({"r": coding(0, 300)}))
        (Path(place) / "x.tsv").write_text("sample\tfasta\nx\tx.fa\n")
        config = Models(folder).config() | {"samples": "x.tsv"}
        snakemake(Path(place), "--until", "prepare_encoder", "prepare_classifier", config=config).ok()
        shutil.copytree(Path(place) / "results" / "models", folder / "prepared")


def write_models(folder: Path) -> None:
    tokenizer = bpe([coding(seed, 300) for seed in range(50)])
    vocabulary = Tokenizer.from_str(tokenizer).get_vocab_size()
    torch.manual_seed(0)
    dnabert = DNABERT(
        DNABERTConfig(layers=1, width=32, heads=2, ffn=64, vocabulary=vocabulary), tokenizer_json=tokenizer
    )
    write_encoder(dnabert, folder / "dnabert.safetensors", name="tiny-dnabert")
    for name in ("esm_a", "esm_b"):
        write_encoder(ESM2(ESM2Config(layers=1, width=32, heads=2, ffn=64)), folder / f"{name}.safetensors", name=name)
    for name, width in (("classifier_a", 64), ("classifier_b", 64), ("classifier_wide", 3328)):
        model = Classifier(width, 16)
        write_classifier(
            folder / f"{name}.safetensors", model.eval(), ClassifierSpec(name=name, width=width, hidden=16)
        )


@pytest.fixture(scope="session")
def reference(tmp_path_factory, tiny):
    """An undisturbed run."""
    from tests.workflow.project import Project

    def run(folder: Path) -> None:
        project = Project(folder, tiny)
        first = project.run()
        shards = project.shards()
        assert shards >= 3
        assert first.computed == {"embed_dnabert_s": shards, "embed_esm2": shards}

    return Project(made_once(tmp_path_factory, "reference", run), tiny)
