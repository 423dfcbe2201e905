"""The check: frames through the chosen path and all others that the device has, against fp32 references."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro.check.frames import Frames, read_published, sample_frames
from virnucpro.check.measure import compare_scores, compare_vectors, within
from virnucpro.check.output import plot, table
from virnucpro.check.reference import reference_vectors
from virnucpro.classifier.model import Classifier, load_classifier
from virnucpro.embeddings.merge import describe
from virnucpro.embeddings.shard import compute, resolve_device
from virnucpro.encoders.attention import BACKENDS, choose_backend
from virnucpro.encoders.precision import PRECISIONS, choose_precision
from virnucpro.encoders.spec import EncoderSpec, read_spec
from virnucpro.errors import ConfigError
from virnucpro.io import atomic_file
from virnucpro.provenance import RunRecord
from virnucpro.sequences.shards import FRAMES
from virnucpro.settings.options import Settings

logger = logging.getLogger(__name__)

PUBLISHED = "published"
WAY_KEYS = ("precision", "backend", "batching")
"""What says how an encoder was computed."""


@dataclass(frozen=True)
class Setup:
    """What is checked."""

    models: Mapping[str, Path]  # "dna", "protein"
    specs: Mapping[str, EncoderSpec]
    classifier: Classifier
    settings: Settings
    device: str

    def scores(self, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, d) per encoder -> (n,) virus scores."""
        features = np.hstack([vectors[role] for role in self.models])
        return self.classifier.scores(torch.from_numpy(features))[:, 1].numpy()


Comparison = tuple[dict[str, Any], np.ndarray | None]
"""A row of the result, and the (n,) relative L2 per frame without outlier dimensions; None for scores of both encoders."""


def measure(
    shards: Sequence[Path],
    models: Mapping[str, Path],
    classifier: Path,
    output: Path,
    settings: Settings,
    *,
    frames: int = 200,
    kinds: Sequence[str] = (FRAMES,),
    published: Path | None = None,
    threads: int = 1,
    run: RunRecord | None = None,
) -> dict[str, Any]:
    """Compare, and write ``check.json``, ``check.txt``, ``check.png`` and ``check.svg`` to the folder ``output``.

    Args:
        shards: shard folders of the samples.
        models: prepared encoders, ``dna`` and ``protein``.
        classifier: classifier for both.
        output: the files appear here, also if a gate is exceeded; see ``output.refuse_failed``.
        settings: the chosen way of computing.
        frames: how many of the samples' frames to compare.
        kinds: the kinds of frames that are scored, ``frames`` and ``partial``.
        published: vectors to compare with as well; see ``read_published``.
        threads: CPU threads.
        run: kept with the result.

    Raises:
        InputError: the shards hold no frame, or the published vectors can't be used.
    """
    torch.set_num_threads(threads)
    device = resolve_device(settings.device)
    specs = {role: read_spec(model) for role, model in models.items()}
    scorer, about = load_classifier(classifier)
    setup = Setup(models, specs, scorer, settings, device)
    rest: list[str] = []
    own, vectors, against = sample_frames(shards, frames, kinds), {}, {}
    for role, model in models.items():
        vectors[role], against[role] = reference_vectors(model, own.ids, own.sequences[role], device)
    compared = _compare(setup, own, vectors, against, rest)
    if published:
        given, vectors = read_published(published, [spec.width for spec in specs.values()])
        against = dict.fromkeys(models, PUBLISHED)
        compared += _compare(setup, given, vectors, against, None)
    rows = [row for row, _ in compared]
    result = {
        "passed": all(row["passed"] for row in rows if row["chosen"]),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "frames": len(own.ids) - own.partial,
        "partial_frames": own.partial,
        "rows": rows,
        "not_available": rest,
        "gates": {name: asdict(precision.gate) for name, precision in PRECISIONS.items()},
        "dna_encoder": describe(specs["dna"]),
        "protein_encoder": describe(specs["protein"]),
        "classifier": {"name": about.name, "weights_sha256": about.weights_sha256},
        "computed": {
            row["encoder"]: {key: row[key] for key in WAY_KEYS}
            for row in rows
            if row["chosen"] and row["encoder"] in models
        },
        "run": (run or RunRecord()).as_dict(),
    }
    text = table(result)
    logger.info("\n%s", text)
    plot(output, compared)
    for name, content in (("check.txt", text), ("check.json", json.dumps(result, indent=2))):
        with atomic_file(output / name) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    return result


def _compare(
    setup: Setup,
    frames: Frames,
    references: Mapping[str, np.ndarray],
    against: Mapping[str, str],
    rest: list[str] | None,
) -> list[Comparison]:
    """Rows for these frames: each encoder by the chosen path, and both; the other ways and both stored as float16, too,
    unless ``rest`` is None.

    In an encoder's row the scores differ by its vectors alone. ``rest`` collects what the device doesn't have.
    """
    settings = setup.settings
    before = setup.scores(references)
    chosen: dict[str, np.ndarray] = {}
    rows: list[Comparison] = []
    for role, spec in setup.specs.items():
        done: set[tuple[str, str]] = set()
        for way in (settings, *(_other_ways(spec, settings, setup.device, rest) if rest is not None else ())):
            if (way.precision, way.attention) in done:
                continue
            try:
                found, statistics = compute(setup.models[role], frames.ids, frames.sequences[role], way, setup.device)
            except ConfigError as error:  # too little memory
                if way is settings or rest is None:
                    raise
                rest.append(f"{spec.name}, {way.precision}, {way.attention}: {error}")
                continue
            if way.batching == "packed" and not way.compile:
                done.add((statistics["precision"], statistics["backend"]))
            if way is settings:
                chosen[role] = found
            row = {"encoder": role, "reference": against[role], "chosen": way is settings}
            row |= {key: statistics[key] for key in WAY_KEYS}
            vectors, errors = compare_vectors(found, references[role])
            row |= vectors | compare_scores(setup.scores({**references, role: found}), before)
            rows.append((row, errors))
    ways = [row for row, _ in rows if row["chosen"]]
    both = {"encoder": "both", "chosen": True, "precision": ways[0]["precision"]}
    both |= {key: ", ".join(dict.fromkeys(way[key] for way in ways)) for key in ("reference", "backend", "batching")}
    rows.append((both | compare_scores(setup.scores(chosen), before), None))
    if rest is not None:
        rows.append((both | _stored(setup, chosen), None))
    for row, _ in rows:
        row["passed"] = within(row)
    return rows


def _stored(setup: Setup, vectors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What storing the chosen way's vectors as float16 changes, whether that is chosen or not."""
    with np.errstate(over="ignore"):
        rounded = {role: each.astype(np.float16).astype(np.float32) for role, each in vectors.items()}
    measures = {"vectors": "float16", "reference": "vectors: float32", "chosen": setup.settings.vectors == "float16"}
    return measures | compare_scores(setup.scores(rounded), setup.scores(vectors))


def _other_ways(spec: EncoderSpec, settings: Settings, device: str, rest: list[str]) -> Iterator[Settings]:
    """Every precision with every backend that this encoder can run in here."""
    for name in PRECISIONS:
        try:
            precision = choose_precision(name, device, spec.registered)
        except ConfigError as error:
            rest.append(f"{spec.name}, {name}: {error}")
            continue
        if precision.name != name:  # this architecture has no products in int8
            continue
        for attention in BACKENDS[1:]:
            try:
                choose_backend(attention, torch.device(device), precision.dtype, spec.head_dim, spec.registered.alibi)
            except ConfigError as error:
                rest.append(f"{spec.name}, {name}, {attention}: {error}")
                continue
            yield replace(settings, precision=name, attention=attention, batching="packed", compile=False)
