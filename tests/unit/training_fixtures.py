"""Labelled samples of random vectors, and options that train on them in a second."""

import csv

import numpy as np

from virnucpro.classifier.dataset import Sample
from virnucpro.classifier.training import TrainOptions
from virnucpro.embeddings.store import create_merged, place_of
from virnucpro.sequences.shards import FRAMES, PARTIAL

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


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def many(folder, **about):
    """Samples with enough genomes for a validation part that can be calibrated on, with two categories of non-viral ones."""
    about = {"genomes": 40, "partial": 2, "shift": 0.5} | about
    return [
        embed(folder / "v.h5", "v", True, **about),
        embed(folder / "n.h5", "n", False, seed=1, category="bacteria", **about),
        embed(folder / "m.h5", "m", False, seed=2, category="plants", **about),
    ]
