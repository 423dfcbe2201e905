"""The workflow on one GPU and on several: wall time of each embedding rule and of the whole, on random weights.

usage: scaling.py FOLDER [--size 650M] [--frames 48000] [--shard-frames 9000] [--gpus 1,2]
                  [--rules all,dnabert_s,esm2,rest] [--tokenizer tokenizer.json]

Makes encoders of the exact shapes with random weights and a classifier in FOLDER/SIZE (unless they are there), and a FASTA
of random genes, then runs `snakemake --cores N --resources gpu=G` for each number of GPUs, rule after rule; first,
unmeasured, with a few frames, so that all find models prepared, kernels compiled and files in memory. Each embedding rule
is asked for once more when it has nothing to do: what that takes is Snakemake's own start, whatever the number of GPUs.
`all` is the whole workflow by one command, with nothing there before but the models.
Random weights prove speed, not accuracy. Prints a table; FOLDER/scalingG.json hold it with the jobs' own times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from virnucpro import installation
from virnucpro.benchmark import random_encoder
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.encoders.loading import write_encoder
from virnucpro.models.registry import DNABERT_S, ESM2
from virnucpro.provenance import read_provenance

WARM = 1000  # frames of the run before those that are measured


def make_models(folder: Path, size: str, tokenizer: Path | None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = {"esm2": ESM2.shapes[size], "dnabert_s": DNABERT_S.shapes["DNABERT-S"]}
    for architecture, shape in shapes.items():
        encoder = random_encoder(architecture, shape, tokenizer, device).half().cpu()
        write_encoder(encoder, folder / f"{architecture}.safetensors", name=f"random-{architecture}")
    joined = sum(shape.width for shape in shapes.values())
    spec = ClassifierSpec(name="random", width=joined, hidden=512)
    write_classifier(folder / "classifier.safetensors", Classifier(joined, 512).eval(), spec)


def make_sequences(folder: Path, frames: int) -> None:
    # Windows of 500 bases with one open frame each: stops everywhere else are likely, but never in the first frame.
    rng = np.random.default_rng(0)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    sense = np.array([list(codon.encode()) for codon in codons if codon not in ("TAA", "TAG", "TGA")], np.uint8)
    for name, count in (("warm", min(frames, WARM)), (f"frames{frames}", frames)):
        with open(folder / f"{name}.fa", "wb") as file:
            for first in range(0, count, 10_000):
                genes = sense[rng.integers(len(sense), size=(min(count - first, 10_000), 166))]
                file.writelines(b">r%d\n%sTT\n" % (first + i, gene.tobytes()) for i, gene in enumerate(genes))
        (folder / f"{name}.tsv").write_text(f"sample\tfasta\n{name}\t{name}.fa\n")


def run(folder: Path, sample: str, gpus: int, cores: int, shard: int, targets: list[str]) -> float:
    config = {
        "samples": folder / f"{sample}.tsv",
        "esm_model": folder / "esm2.safetensors",
        "dnabert_model": folder / "dnabert_s.safetensors",
        "classifier": folder / "classifier.safetensors",
        "chunk_length": 500,
        "shard_frames": shard,
    }
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(installation.snakefile()), *targets, "--quiet"]
    command += ["--directory", str(folder / "run"), "--cores", str(cores), "--resources", f"gpu={gpus}"]
    command += ["--config", *(f"{key}={value}" for key, value in config.items())]
    (folder / "run").mkdir(exist_ok=True)
    began = time.perf_counter()
    with open(folder / "run" / "snakemake.log", "a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return time.perf_counter() - began


def jobs(results: Path) -> dict[str, list[dict[str, Any]]]:
    """What each embedding job says of itself, and when it ended."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("embeddings/*/*/*.h5")):
        with h5py.File(path) as file:
            attributes = file.attrs
            row: dict[str, Any] = {
                name: float(attributes[name])
                for name in ("job_seconds", "seconds", "gpu_seconds", "count")
                if name in attributes
            }
            row["gpu"] = str(attributes["gpu"])
        row["ended"] = path.stat().st_mtime
        found.setdefault(path.parts[-3], []).append(row)
    return found


def remove_results(results: Path, sample: str) -> None:
    """What a run made, but for the models; vectors of the unmeasured run, too."""
    for folder in (results / sample, results / "embeddings"):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="650M")
    parser.add_argument("--frames", type=int, default=48_000)
    parser.add_argument("--shard-frames", type=int, default=9000)
    parser.add_argument("--gpus", default="1,2")
    parser.add_argument("--rules", default="all,dnabert_s,esm2,rest", help="which to time, of these")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    folder = given.folder.resolve() / given.size
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / f"{name}.safetensors").exists() for name in ("dnabert_s", "esm2", "classifier")):
        make_models(folder, given.size, given.tokenizer)
    make_sequences(folder, given.frames)
    sample, results = f"frames{given.frames}", folder / "run" / "results"
    run(folder, "warm", max(map(int, given.gpus.split(","))), given.cores, given.shard_frames, [])
    for gpus in map(int, given.gpus.split(",")):
        row: dict[str, Any] = {"gpus": gpus}

        def timed(what: str, *targets: str, gpus: int = gpus, row: dict[str, Any] = row) -> None:
            row[what] = run(folder, sample, gpus, given.cores, given.shard_frames, list(targets))
            print(f"{gpus} GPUs: {row[what]:.1f} s for {what}", flush=True)
            (given.folder / f"scaling{gpus}.json").write_text(json.dumps(row, indent=1))

        rules = given.rules.split(",")
        if "all" in rules:
            remove_results(results, sample)
            timed("all")
        if rules != ["all"]:
            remove_results(results, sample)
            timed("split", f"results/{sample}/shards")
        for encoder in [rule for rule in rules if rule in ("dnabert_s", "esm2")]:
            timed(encoder, f"all_{encoder}")
            timed(f"{encoder} again", f"all_{encoder}")
        if "rest" in rules:
            timed("rest")
            row["sum"] = sum(row[what] for what in ("split", "dnabert_s", "esm2", "rest") if what in row)
        if (merged := results / sample / "embeddings.h5").exists():
            row["single"] = {rule: used["job_seconds"] for rule, used in read_provenance(merged)["jobs"].items()}
        row["jobs"] = jobs(results)
        print({key: value for key, value in row.items() if key != "jobs"}, flush=True)
        for encoder, each in row["jobs"].items():
            keys = each[0].keys() - {"gpu", "ended"}
            mean = {key: round(float(np.mean([job[key] for job in each])), 2) for key in sorted(keys)}
            row[f"{encoder} jobs"] = max(job["ended"] for job in each) - min(
                job["ended"] - job["job_seconds"] for job in each
            )
            print(f"   {encoder}: {len(each)} jobs in {row[f'{encoder} jobs']:.1f} s; means: {mean}", flush=True)
            for gpu in sorted({job["gpu"] for job in each}) if encoder in row else ():
                own = [job for job in each if job["gpu"] == gpu]
                busy = sum(job.get("gpu_seconds", 0) for job in own) / row[encoder]
                print(f"    {gpu}: {len(own)} jobs, kernels in {busy:.1%} of the time", flush=True)
        (given.folder / f"scaling{gpus}.json").write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
