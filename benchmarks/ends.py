"""What one large sample waits for outside its embedding jobs: split, merge, and predict with its sequences and report.

usage: ends.py FOLDER [--frames 1000000] [--threads 16] [--widths 768,2560] [--vectors float32]

Makes a FASTA of random genes in contigs of ten chunks, one stop-free frame in each, and splits it; writes random vectors in
place of the embedding jobs (not timed); merges, scores with a random classifier, and writes tables, viral sequences and report.
Random weights and vectors prove speed, not accuracy. Prints seconds of each step, as its job would take without Python's start,
and checks that counts in equal counts out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from virnucpro.calls import one_blas_thread

one_blas_thread()

import numpy as np  # noqa: E402

from virnucpro.benchmark import random_encoder  # noqa: E402
from virnucpro.calls.rules import Rules  # noqa: E402
from virnucpro.classifier.model import Classifier, write_classifier  # noqa: E402
from virnucpro.classifier.spec import ClassifierSpec  # noqa: E402
from virnucpro.embeddings.merge import merge  # noqa: E402
from virnucpro.embeddings.store import create_shard  # noqa: E402
from virnucpro.encoders.loading import write_encoder  # noqa: E402
from virnucpro.encoders.spec import read_spec  # noqa: E402
from virnucpro.models.registry import ARCHITECTURES, ROLES, Shape  # noqa: E402
from virnucpro.outputs import REGIONS, REPORT, TABLES, VIRAL  # noqa: E402
from virnucpro.provenance import RunRecord  # noqa: E402
from virnucpro.results import Results, make_results  # noqa: E402
from virnucpro.sequences.split import read_manifest, read_shard, split_samples  # noqa: E402

CHUNK, CHUNKS = 500, 10


def make_fasta(path: Path, frames: int) -> None:
    rng = np.random.default_rng(0)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    sense = np.array([list(codon.encode()) for codon in codons if codon not in ("TAA", "TAG", "TGA")], np.uint8)
    # Stops in all frames but the first one of each chunk: its codons are any, and one in twenty of the others stops.
    with open(path, "wb") as file:
        for contig in range(-(-frames // CHUNKS)):
            genes = sense[rng.integers(len(sense), size=(CHUNKS, CHUNK // 3))].reshape(CHUNKS, -1)
            chunks = np.concatenate([genes, np.full((CHUNKS, CHUNK - genes.shape[1]), ord("A"), np.uint8)], axis=1)
            file.write(b">contig_%d\n%b\n" % (contig, chunks.tobytes()))


def write_vectors(folder: Path, shards: Path, role: str, model: Path, dtype: str) -> list[Path]:
    spec, rng = read_spec(model), np.random.default_rng(1)
    block = rng.standard_normal((8192, spec.width), dtype=np.float32)

    def write(sha: str) -> Path:
        ids, _ = read_shard(shards / f"{sha}.fna")
        path = folder / role / f"{sha}.h5"
        digests = np.random.default_rng(2).integers(256, size=(len(ids), 16), dtype=np.uint8)
        attributes = {"weights_sha256": spec.weights_sha256, "device": "cpu", "precision": "fp32", "backend": "none"}
        attributes |= {"batching": "packed", "seconds": 1.0, "tokens": 1, "tokens_per_second": 1.0, "fill": 1.0}
        with create_shard(path, ids, spec.width, digests, dtype) as file:
            for first in range(0, len(ids), len(block)):
                file.write(first, block[: len(ids) - first])
            file.finish({**attributes, "computed": len(ids), "compile": False, **RunRecord().as_dict()})
        return path

    (folder / role).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(write, [shard["sha"] for shard in read_manifest(shards)["shards"]]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--shard-frames", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--widths", default="768,2560")
    parser.add_argument("--vectors", default="float32")
    given = parser.parse_args()
    folder, widths = given.folder, dict(zip(ROLES, map(int, given.widths.split(",")), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    models = {}
    for role, width in widths.items():
        name = next(name for name, each in ARCHITECTURES.items() if each.role is ROLES[role] and each.bundled)
        models[role] = folder / f"{role}.safetensors"
        write_encoder(
            random_encoder(name, Shape(1, width, width // 64, 4 * width)), models[role], name=f"random-{name}"
        )
    joined = sum(widths.values())
    classifier = Classifier(joined, 512).eval()
    write_classifier(folder / "classifier.safetensors", classifier, ClassifierSpec("random", joined, 512))
    fasta, shards, merged = folder / "in.fa", folder / "s" / "shards", folder / "s" / "embeddings.h5"
    make_fasta(fasta, given.frames)
    seconds = {}

    def timed(step: str, began: float) -> None:
        seconds[step] = round(time.perf_counter() - began, 2)
        print(step, seconds[step], flush=True)

    began = time.perf_counter()
    split_samples({"s": [fasta]}, shards, CHUNK, given.shard_frames, threads=given.threads)
    timed("split", began)
    files = [write_vectors(folder / "embeddings", shards, role, models[role], given.vectors) for role in ROLES]
    began = time.perf_counter()
    frames = merge(shards, "s", *files, *models.values(), merged)
    timed("merge", began)
    names = TABLES | REGIONS | {"viral": VIRAL, "page": REPORT}
    results = Results(**{name: folder / "s" / file for name, file in names.items()})
    began = time.perf_counter()
    make_results(
        "s", merged, folder / "classifier.safetensors", shards, [fasta], results, Rules(CHUNK), threads=given.threads
    )
    timed("predict, sequences and report", began)
    summary = json.loads(results.summary.read_text())
    assert summary["frames"] == frames and summary["records"] == -(-given.frames // CHUNKS)
    print(
        f"{frames} frames in {summary['chunks']} chunks; all {sum(seconds.values()):.1f} s with {given.threads} threads"
    )


if __name__ == "__main__":
    main()
