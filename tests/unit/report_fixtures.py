"""Results of a sample as the report reads them, made up: any number of contigs without computing any."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from tests.unit.tables import contig_table
from virnucpro.embeddings.store import create_merged
from virnucpro.result_tables import CHUNK_COLUMNS

FASTAS = ["/data/reads & contigs.fa"]
RUN = {
    "versions": {"virnucpro": "0.1.0", "python": "3.12.1", "torch": "2.12.7", "snakemake": "9.1.2"},
    "configuration_sha256": "f" * 64,
    "switches": {"VIRNUCPRO_DISABLE_FP16": True},
}
WAY = {"precision": "fp32", "backend": "sdpa", "batching": "packed", "compile": False, "device": "cpu", **RUN}
ENCODER = {"layers": 4, "width": 160, "pooling": "mean of all tokens"}
CHUNK = 500
ARCHITECTURES = {"dna": "dnabert_s", "protein": "esm2"}


def write_sample(results: Path, contigs: int, sample: str = "s", chunks: int = 4, name: str = "contig") -> Path:
    """Make ``results/sample``; every tenth contig has no open frame. Returns the sample's folder."""
    folder = results / sample
    folder.mkdir(parents=True)
    random.seed(contigs)
    shards = [
        {
            "shard": f"{number:032x}",
            "encoder": encoder,
            "key": "k",
            "frames": 100,
            "device": "cpu",
            "precision": "fp32",
            "backend": "sdpa",
            "tokens": 9000,
            "seconds": 2.0 + number,
            "tokens_per_second": 4500.0,
            "fill": 0.9,
        }
        for number in range(2)
        for encoder in ("dna", "protein")
    ]
    shards[3] |= {"device": "cuda", "gpu_name": "H9", "gpu_seconds": 2.625, "job_seconds": 83.0, "cpu_seconds": 71.0, "max_rss": 1234.0}  # fmt: skip
    encoders = {
        f"{role}_encoder": {"name": f"mini-{role}", "architecture": name, "weights_sha256": role[0] * 64, **ENCODER}
        for role, name in ARCHITECTURES.items()
    }
    provenance = {"chunk_length": CHUNK, **encoders, "shards": shards}
    with create_merged(folder / "embeddings.h5", 1, 2, 2, provenance) as file:
        file["ids"][:] = ["x"]
        file["dna"][:] = file["protein"][:] = np.zeros((1, 2), np.float32)
    counts = {"records": contigs, "viral_records": 0, "unscored_records": 0, "scored_chunks": 0, "viral_chunks": 0}
    rows = []
    with open(folder / "chunks.tsv", "w") as parts:
        parts.write("\t".join(CHUNK_COLUMNS) + "\n")
        for number in range(contigs):
            record, length = f"{name}_{number}", chunks * CHUNK
            scores = [] if number % 10 == 9 else [round(random.random(), 9) for _ in range(chunks - 1)]
            for at in range(chunks):
                place = f"{record}\t{record}_chunk_{at + 1}\t{at * CHUNK + 1}\t{(at + 1) * CHUNK}"
                if at < len(scores):
                    call = "viral" if scores[at] >= 0.5 else "non-viral"
                    parts.write(f"{place}\t{1 + at % 2}\t{scores[at]}\tF1\t{call}\n")
                else:
                    parts.write(f"{place}\t0\t\t\tno_open_frame\n")
            row = {"record": record, "length": length, "chunks": chunks, "scored_chunks": 0, "viral_chunks": 0}
            rows.append(row | {"call": "unscored"})
            if not scores:
                counts["unscored_records"] += 1
                continue
            viral, mean = sum(score >= 0.5 for score in scores), round(sum(scores) / len(scores), 9)
            counts["scored_chunks"] += len(scores)
            counts["viral_chunks"] += viral
            counts["viral_records"] += mean >= 0.5
            rows[-1] |= {
                "scored_chunks": len(scores), "viral_chunks": viral, "viral_share": round(viral / len(scores), 9),
                "mean_score": mean, "best_score": max(scores), "call": "viral" if mean >= 0.5 else "non-viral",
            }  # fmt: skip
    (folder / "contigs.tsv").write_text(contig_table(rows))
    summary = {
        **counts, **encoders, "chunks": contigs * chunks, "frames": counts["scored_chunks"] * 2,
        "virus_frames": counts["viral_chunks"], "skipped_records": 0, "threshold": 0.5, "chunk_length": CHUNK,
        "classifier": {"name": "mini-500", "weights_sha256": "c" * 64}, 
        "computed": {"dna": [WAY], "protein": [WAY]},
        "embedding_seconds": {"CPU": 7.0, "GPU": 3.0}, "run": RUN, "configuration": {"preset": "mini-500", "cache_dir": None},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
