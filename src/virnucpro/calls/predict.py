"""A sample's embeddings and a classifier → its tables and their summary: everything checked, scored and written."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from virnucpro.calls import ONE_BLAS_THREAD
from virnucpro.calls.blocks import blocks
from virnucpro.calls.rules import Rules
from virnucpro.calls.scores import ScoreBlock
from virnucpro.calls.tables import TablePaths, Tables
from virnucpro.classifier.spec import check_fit
from virnucpro.embeddings.store import MergedEmbeddings
from virnucpro.encoders.spec import read_spec
from virnucpro.errors import StorageError
from virnucpro.io import atomic_file
from virnucpro.processes import Processes
from virnucpro.provenance import RunRecord
from virnucpro.rendering import how_many
from virnucpro.sequences.shards import FRAMES, PARTIAL
from virnucpro.sequences.split import iter_records, read_sample

logger = logging.getLogger(__name__)

SMALL_SAMPLE = 50_000
"""Frames up to which a sample is scored sooner here than by processes that must be started."""
_REMEDY = "Delete it and run again."


@dataclass(frozen=True)
class Outputs(TablePaths):
    """The tables of one sample, and their summary."""

    summary: Path  # summary.json, written last


def predict(
    merged: str | Path,
    classifier: str | Path,
    shards: str | Path,
    sample: str,
    outputs: Outputs,
    rules: Rules,
    rna_as_dna: bool = True,
    encoders: tuple[Path, Path] | None = None,
    threads: int = 1,
    run: RunRecord | None = None,
    find_regions: Callable[[], dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Score every frame of a sample, write all tables, and return the summary.

    Args:
        merged: ``embeddings.h5``.
        classifier: classifier file.
        shards: the shard folder.
        sample: whose frames they are.
        outputs: the files to make; ``summary`` appears after all others.
        rules: of the calls, and bases per chunk of this run; the calibration comes from the classifier's file.
        rna_as_dna: whether this run reads U as T in RNA.
        encoders: the prepared DNA and protein encoders that must have made the embeddings.
        threads: processes that read, score and make rows side by side, for more than ``SMALL_SAMPLE`` frames; this one
            joins what they make. The tables are the same with any number if this process has one BLAS thread, as those
            have (``calls.one_blas_thread``).
        run: kept in the summary.
        find_regions: called when the tables are there; what it returns is ``regions`` in the summary.

    Raises:
        ModelError: the classifier isn't for these embeddings.
        StorageError: the inputs disagree with one another, or a value isn't finite.
    """
    merged, shards = Path(merged), Path(shards)
    embeddings, partial, manifest = (
        MergedEmbeddings(merged),
        MergedEmbeddings(merged, PARTIAL),
        read_sample(shards, sample),
    )
    score, chunk_length = ScoreBlock(merged, Path(classifier), rules), rules.chunk_length
    spec, rules = score.spec, score.rules
    for where, made in ((merged, embeddings.provenance.get("chunk_length")), (shards, manifest["chunk_length"])):
        if made != chunk_length:
            raise StorageError(f"{where}: made for {made}-base chunks, the run has {chunk_length}. {_REMEDY}")
    if manifest["rna_as_dna"] != rna_as_dna:
        made = "as T" if manifest["rna_as_dna"] else "as the original does"
        raise StorageError(f"{shards}: the U of RNA was read {made}, other than in this run. {_REMEDY}")
    check_fit(spec, _encoder(embeddings, "dna"), _encoder(embeddings, "protein"), chunk_length, classifier)
    for role, path in zip(("dna", "protein"), encoders or (), strict=False):
        if embeddings.provenance[f"{role}_encoder"]["weights_sha256"] != read_spec(path).weights_sha256:
            raise StorageError(f"{merged}: its {role} vectors aren't from {path}. {_REMEDY}")
    for kind, found in ((FRAMES, embeddings), (PARTIAL, partial)):
        if found.count != manifest[kind] and (kind == FRAMES or embeddings.scores_partial):
            raise StorageError(f"{merged}: holds {found.count} {kind}, the sample has {manifest[kind]}. {_REMEDY}")
    outputs.summary.unlink(missing_ok=True)  # it says that all tables are complete
    processes = min(threads, len(embeddings.windows())) if embeddings.count > SMALL_SAMPLE else 1
    parts = blocks(embeddings, partial, iter_records(shards, sample), chunk_length)
    with Tables(outputs, rules) as tables, Processes(score, processes, 0, ONE_BLAS_THREAD) as workers:
        for block in workers.map(parts):
            tables.add(block)
        counts = tables.finish()
        for what in ("records", "chunks", "frames"):
            if (written := getattr(counts, what)) != manifest[what]:
                said = f"its manifest says {manifest[what]} {what}, but there are {written}"
                raise StorageError(f"{shards}: {said}. {_REMEDY}")
    regions = find_regions() if find_regions else None
    summary = {
        **asdict(counts),
        **{key: manifest[key] for key in ("skipped_records", "rna_records", "u_ignored_records")},
        "threshold": rules.score_threshold,
        "calls": _how(rules),
        "prevalence": asdict(tables.prevalence) | {"reason": tables.prevalence.reason} if tables.prevalence else None,
        "calibration": _calibration(rules),
        "regions": regions,
        "chunk_length": chunk_length,
        "classifier": {"name": spec.name, "weights_sha256": spec.weights_sha256, "source_sha256": spec.source_sha256},
        "dna_encoder": embeddings.provenance["dna_encoder"],
        "protein_encoder": embeddings.provenance["protein_encoder"],
        "computed": embeddings.provenance.get("computed", {}),
        "embedding_seconds": _seconds(embeddings.provenance["shards"]),
        "run": (run or RunRecord()).as_dict(),
        "configuration": dict(run.configuration) if run else {},
    }
    with atomic_file(outputs.summary) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    scored = f"{how_many(counts.frames, 'frame')} of {how_many(counts.records, 'sequence')}"
    logger.info("scored %s, %d viral", scored, counts.viral_records)
    return summary


def _how(rules: Rules) -> dict[str, Any]:
    """By which rules contigs were called."""
    how: dict[str, Any] = {
        "by": "threshold" if rules.by_threshold else rules.preset,
        "calibrated": rules.calibration is not None,
    }
    if not rules.by_threshold:
        how |= {"viral": rules.thresholds.viral, "non_viral": rules.thresholds.non_viral, "fdr": rules.fdr}
        how |= {"shortest": rules.calibration.shortest if rules.calibration else 0}
    return {**how, "prior": rules.prior, "min_length": rules.min_length, "min_chunks": rules.min_chunks}


def _calibration(rules: Rules) -> dict[str, Any] | None:
    """What the calibration was fitted on, and how well the preset did there (None if it isn't used); None without calibration."""
    if rules.calibration is None:
        return None
    measured = None if rules.by_threshold else rules.thresholds.measured
    return {"curve": rules.calibration.curve, "fitted_on": rules.calibration.fitted_on, "measured": measured}


def _seconds(shards: list[dict[str, Any]]) -> dict[str, float]:
    """What embedding cost, in seconds within the encoders, by kind of device."""
    seconds: Counter[str] = Counter()
    for shard in shards:
        if shard["seconds"]:
            seconds["GPU" if shard["device"] == "cuda" else "CPU"] += shard["seconds"]
    return dict(seconds)


def _encoder(embeddings: MergedEmbeddings, role: str) -> SimpleNamespace:
    """An encoder as recorded with the embeddings; its width is that of the stored vectors."""
    recorded = embeddings.provenance[f"{role}_encoder"]
    width = embeddings.dna_width if role == "dna" else embeddings.protein_width
    return SimpleNamespace(name=recorded["name"], width=width, weights_sha256=recorded["weights_sha256"])
