"""Results of a sample as the report reads them, made up: any number of contigs without computing any."""

from __future__ import annotations

import html
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np

from tests.unit.tables import contig_table
from virnucpro.calls import predict
from virnucpro.calls.rules import Rules
from virnucpro.classifier.evidence import Calibration, Preset, estimate_prevalence, q_values
from virnucpro.embeddings.store import create_merged
from virnucpro.provenance import read_provenance
from virnucpro.report.page import write_sample_page
from virnucpro.result_tables import CHUNK_COLUMNS, NO_FRAME, NO_STRETCH, REGION_COLUMNS

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


MEASURED = {
    "recall": 0.8,
    "false_positive_rate": 0.05,
    "ambiguous": {"viral": 0.15, "non-viral": 0.25},
    "precision": {"0.01": 0.139, "0.05": 0.457, "0.2": 0.8},
}
CALIBRATION = Calibration(
    frame=(0.7, -0.1),
    partial=(0.9, -0.2, 0.1),
    contig=(0.0, 1.5, 0.5),
    presets={"balanced": Preset(1.0, -1.0, MEASURED | {"held_out": MEASURED | {"recall": 0.71}})},
    curve=[
        {"mean_probability": 0.1, "viral_share": 0.12, "items": 900, "weight": 0.5},
        {"mean_probability": None, "viral_share": None, "items": 0, "weight": 0.0},
        {"mean_probability": 0.9, "viral_share": 0.85, "items": 100, "weight": 0.5},
    ],
    fitted_on={"contigs": {"viral": 1400, "non-viral": 1600}, "groups": {"viral": 90, "non-viral": 120}},
)


def change(folder: Path, **values) -> Path:
    """Set keys of a sample's summary, those of ``calls`` one by one; returns the sample's folder."""
    summary = json.loads((folder / "summary.json").read_text())
    values["calls"] = summary["calls"] | values.get("calls", {})
    (folder / "summary.json").write_text(json.dumps(summary | values))
    return folder


def add_regions(folder: Path, regions, model: str = "fitted") -> Path:
    """Give a sample regions.tsv, of (record, first chunk, last chunk, extent), and their counts; returns its folder."""
    lines, counts, extents = ["\t".join(REGION_COLUMNS)], Counter(), Counter()
    for record, first, last, extent in regions:
        counts[record] += 1
        extents[extent] += 1
        start, end, chunks = (first - 1) * CHUNK + 1, last * CHUNK, last - first + 1
        row = (
            record,
            f"{record}_region_{counts[record]}",
            start,
            end,
            end - start + 1,
            chunks,
            chunks,
            0.91,
            0.62,
            extent,
        )
        lines.append("\t".join(map(str, (*row, "viral", model))))
    (folder / "regions.tsv").write_text("".join(f"{line}\n" for line in lines))
    bases = sum((last - first + 1) * CHUNK for _, first, last, _ in regions)
    found = {"model": model, "regions": len(regions), "records": len(counts), "bases": bases, "extents": extents}
    return change(folder, regions=found)


def write_sample(
    results: Path, contigs: int, sample: str = "s", chunks: int = 4, name: str = "contig", calibrated: bool = False
) -> Path:
    """Make ``results/sample``, by a classifier that is ``calibrated``, or that isn't and scores no partial frames.

    Every tenth contig has no scored chunk, and each one's last chunk no stop-free frame. Returns the sample's folder.
    """
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
    rules = Rules(CHUNK, calibration=CALIBRATION if calibrated else None)
    counts = dict.fromkeys(("viral_records", "ambiguous_records", "unscored_records", "scored_chunks", "viral_chunks", "partial_chunks"), 0)  # fmt: skip
    rows = []
    with open(folder / "chunks.tsv", "w") as parts:
        parts.write("\t".join(CHUNK_COLUMNS) + "\n")
        for number in range(contigs):
            record, length = f"{name}_{number}", chunks * CHUNK
            scored = 0 if number % 10 == 9 else chunks if calibrated else chunks - 1
            bias = random.random() - 0.5
            scores = [round(min(max(random.random() + bias, 0.001), 0.999), 9) for _ in range(scored)]
            viral, evidence = 0, 0.0
            for at in range(chunks):
                last = at == chunks - 1
                row = {
                    "record": record,
                    "chunk_id": f"{record}_chunk_{at + 1}",
                    "start": at * CHUNK + 1,
                    "end": (at + 1) * CHUNK,
                }
                row |= {"open_frames": 0 if last or not scored else 1 + at % 2, "call": "unscored"}
                if at < len(scores):
                    logit = round(rules.chunk_logit(1 - scores[at], scores[at], 0.4 if last else None), 4)
                    is_viral = rules.chunk_is_viral(scores[at], logit)
                    viral, evidence = viral + is_viral, evidence + logit
                    row |= {
                        "score": scores[at],
                        "best_frame": "F1",
                        "call": "viral" if is_viral else "non-viral",
                        "logit": logit,
                    }
                    row |= {"kind": "frame", "max_score_others": 1 - scores[at], "max_score_virus": scores[at]}
                    if last:
                        row |= {"kind": "partial", "part_start": at * CHUNK + 1, "part_end": at * CHUNK + 200}
                        counts["partial_chunks"] += 1
                    if calibrated:
                        row["probability"] = round(rules.probability(logit), 6)
                else:
                    row["reason"] = NO_STRETCH if calibrated else NO_FRAME
                parts.write("\t".join(str(row.get(column, "")) for column in CHUNK_COLUMNS) + "\n")
            repetitive = 0.72 if number % 10 == 4 else 0.01
            row = {"record": record, "length": length, "chunks": chunks, "scored_chunks": scored, "viral_chunks": viral}
            row |= {
                "scored_share": round(scored / chunks, 9),
                "low_complexity": repetitive,
                "gc": 0.412345678,
                "n_share": 0.0,
            }
            rows.append(row | {"call": "unscored", "reason": "no_scored_chunk"})
            if not scores:
                counts["unscored_records"] += 1
                continue
            mean, logit = round(sum(scores) / len(scores), 9), None
            if calibrated:
                logit = round(CALIBRATION.contig_logit(evidence, scored), 4)
                rows[-1] |= {"logit": logit, "probability": round(rules.probability(logit), 6)}
            call, reason = rules.contig_call(mean, logit, scored, repetitive, 0.0)
            counts["scored_chunks"] += len(scores)
            counts["viral_chunks"] += viral
            counts["viral_records"] += call == "viral"
            counts["ambiguous_records"] += call == "ambiguous"
            rows[-1] |= {
                "viral_share": round(viral / len(scores), 9), "mean_score": mean, "best_score": max(scores), "call": call,
                "reason": reason,
            }  # fmt: skip
    prevalence = None
    if calibrated and (logits := np.array([row["logit"] for row in rows if "logit" in row])).size:
        found = estimate_prevalence(logits, rules.prior)
        prevalence = vars(found) | {"reason": found.reason}
        if found.enough:
            given = (row for row in rows if "logit" in row)
            for row, q_value in zip(given, q_values(logits, found.value), strict=True):
                row["q_value"] = round(float(q_value), 6)
    (folder / "contigs.tsv").write_text(contig_table(rows))
    summary = {
        "records": contigs, **counts, **encoders, "chunks": contigs * chunks,
        "frames": (counts["scored_chunks"] - counts["partial_chunks"]) * 2,
        "virus_frames": counts["viral_chunks"], "skipped_records": 0, "threshold": 0.5, "chunk_length": CHUNK,
        "calls": predict._how(rules), "prevalence": prevalence, "calibration": predict._calibration(rules), "regions": None,
        "classifier": {"name": "mini-500", "weights_sha256": "c" * 64}, 
        "computed": {"dna": [WAY], "protein": [WAY]},
        "embedding_seconds": {"CPU": 7.0, "GPU": 3.0}, "run": RUN, "configuration": {"preset": "mini-500", "cache_dir": None},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def page_of(folder: Path, controls: bool = False) -> str:
    """Make a sample's page, with the check beside its folder if there is one, and if wanted ``controls.tsv``; returns its text."""
    provenance, check = read_provenance(folder / "embeddings.h5"), folder.parent / "check.json"
    said = check.read_text() if check.exists() else None
    write_sample_page(
        folder, "s", FASTAS, folder / "report.html", provenance, said, folder / "controls.tsv" if controls else None
    )
    return (folder / "report.html").read_text()


def words_of(folder: Path, controls: bool = False) -> str:
    """What a reader sees, line breaks as spaces."""
    page = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page_of(folder, controls), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", "", page)))


def paragraph_in(page: str) -> str:
    """The paragraph of methods."""
    return re.search(r'<p id="methods" class="paste">(.*?)</p>', page, re.DOTALL).group(1)
