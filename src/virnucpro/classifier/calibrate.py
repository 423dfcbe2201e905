"""Tables and embeddings of labelled samples and a classifier's file → the same classifier with calibration, regions and reference.

No weight changes. ``calibrating``, ``referencing`` and ``region_fitting`` fit; this reads what the former is fitted on, and writes what comes out.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro import __version__
from virnucpro.classifier.calibrating import PREVALENCES, Development, fit_calibration, hold_out
from virnucpro.classifier.evidence import Calibration, chunk_odds
from virnucpro.classifier.labels import Labelled, labelled_samples, read_test_part
from virnucpro.classifier.reference import is_reference
from virnucpro.classifier.referencing import FittedReference, reference_of_samples
from virnucpro.classifier.region_fitting import fit_regions_of
from virnucpro.classifier.region_model import RegionModel
from virnucpro.classifier.spec import ClassifierSpec, read_classifier
from virnucpro.classifier.weighted import auroc, calibration_error, group_weights
from virnucpro.errors import InputError
from virnucpro.io import atomic_file, sha256_file
from virnucpro.models.model_file import stored_tensors, write_model
from virnucpro.provenance import RunRecord, origins
from virnucpro.result_tables import CHUNK_COLUMNS, CONTIG_COLUMNS, PARTIAL, read_rows, write_table

logger = logging.getLogger(__name__)

PRESET_COLUMNS = (
    *("preset", "data", "viral_from", "non_viral_below", "recall", "false_positive_rate"),
    *(
        "ambiguous_viral",
        "ambiguous_non_viral",
        *(f"precision_{prevalence:.0%}".rstrip("%") for prevalence in PREVALENCES),
    ),
    *("viral_contigs", "non_viral_contigs", "viral_groups", "non_viral_groups"),
)
"""Of ``calibration.tsv``; ``precision_5`` is where 5 % of the contigs are viral."""


def calibrate_from_table(
    table: str | Path,
    folders: Mapping[str, Path],
    classifier: str | Path,
    output: str | Path,
    split: str | Path | None = None,
    embeddings: Mapping[str, Path] | None = None,
    run: RunRecord | None = None,
) -> ClassifierSpec:
    """Calibrate a classifier on its own tables of labelled samples, and write all files; see ``write_calibrated``.

    Args:
        table: labels, of files (one per sample, in order) or of records; see ``labels``.
        folders: sample name → folder of its tables, which this classifier made.
        classifier: a classifier's file.
        output: the file to make.
        split: ``split.tsv`` of a training: only its test part is looked at.
        embeddings: sample name → its ``embeddings.h5``, for the reference; None: the classifier keeps the one it has, if any.
        run: kept in the JSON.

    Raises:
        InputError: a record has no label, or the data can't be calibrated with; names the table.
        ModelError, StorageError: the classifier or a table can't be read.
    """
    _, spec = read_classifier(classifier)
    samples = labelled_samples(table, folders, headers=True)
    only = read_test_part(split) if split else None
    found = origins(folders.values())
    about = {"virnucpro_version": __version__, "labels_sha256": sha256_file(table), **_encoders(found)}
    try:
        data = read_development(samples, only)
        calibration = fit_calibration(data, about)
        regions = fit_regions_of(data, about)
        reference = None
        if embeddings is not None:
            reference = reference_of_samples(embeddings, contig_numbers(samples, only), data, spec.width)
    except InputError as error:
        raise InputError(f"{table}: {error}") from None
    record = {"run": (run or RunRecord()).as_dict(), "predicted": found}
    return write_calibrated(output, classifier, spec, calibration, data, record, regions, reference)


def contig_numbers(
    samples: Sequence[Labelled], only: Collection[tuple[str, str]] | None = None
) -> dict[tuple[str, str], int]:
    """(sample, record) → the number of the contig in what ``read_development`` gives for the same arguments."""
    numbers: dict[tuple[str, str], int] = {}
    for sample in samples:
        for record, _ in read_rows(sample.folder / "contigs.tsv", CONTIG_COLUMNS, ("record", "length")):
            if only is None or (sample.name, record) in only:
                numbers[sample.name, record] = len(numbers)
    return numbers


def read_development(samples: Sequence[Labelled], only: Collection[tuple[str, str]] | None = None) -> Development:
    """The scored chunks and all contigs of samples' tables, whatever their calls; only some (sample, record), if given.

    A contig whose label has no group is a group of its own, by its record's id.

    Raises:
        InputError: a record has no label, or the data can't be calibrated with.
        StorageError: a table is missing, or of another version.
    """
    others, virus = array("f"), array("f")  # as they were scored, so that logits are those of a prediction
    share, contig, first, partial = array("d"), array("q"), array("q"), bytearray()
    viral: list[bool] = []
    group: list[str] = []
    category: list[str] = []
    length = array("q")
    seen: set[str] = set()
    for sample in samples:
        place: dict[str, int] = {}
        for record, bases in read_rows(sample.folder / "contigs.tsv", CONTIG_COLUMNS, ("record", "length")):
            if only is not None and (sample.name, record) not in only:
                continue
            label = sample.label_of(record)
            place[record] = len(viral)
            viral.append(label.viral)
            group.append(label.group or record)
            category.append(label.category)
            length.append(int(bases))
        seen.update(place)
        wanted = ("record", "kind", "start", "end", "part_start", "part_end", "max_score_others", "max_score_virus")
        for record, kind, *span, other_score, virus_score in read_rows(
            sample.folder / "chunks.tsv", CHUNK_COLUMNS, wanted
        ):
            if not kind or record not in place:
                continue
            contig.append(place[record])
            first.append(int(span[0]) - 1)
            partial.append(kind == PARTIAL)
            share.append(_share(*map(int, span)) if kind == PARTIAL else 1.0)
            others.append(float(other_score))
            virus.append(float(virus_score))
    labelled = {record for sample in samples for record in sample.records}
    if only is None and (absent := labelled.difference(seen)):
        logger.warning("%d labelled records are in no sample, such as %s", len(absent), min(absent))
    data = Development(
        z=chunk_odds(np.array(others, np.float32), np.array(virus, np.float32)),
        partial=np.frombuffer(bytes(partial), np.bool_),
        share=np.array(share, np.float64),
        contig=np.array(contig, np.int64),
        start=np.array(first, np.int64),
        viral=np.array(viral, bool),
        group=np.array(group, str),
        category=np.array(category, str),
        length=np.array(length, np.int64),
    )
    unscored = int((data.chunks == 0).sum())
    logger.info("read %d contigs, %d of them without a scored chunk", len(viral), unscored)
    return data


def write_calibrated(
    output: str | Path,
    classifier: str | Path,
    spec: ClassifierSpec,
    calibration: Calibration,
    data: Development,
    record: Mapping[str, Any],
    regions: RegionModel | None = None,
    reference: FittedReference | None = None,
) -> ClassifierSpec:
    """Write a calibrated copy of a classifier's file, and ``calibration.json`` and ``calibration.tsv`` beside it.

    Weights, their digest and the name stay. The copy is for partial frames if the data had any, since only then they are
    calibrated. ``record`` is kept in the JSON, with figures of held-out groups. A ``reference`` takes the place of the file's;
    without ``regions`` the copy has none, since the file's were fitted to other logits.

    Returns the copy's specification.
    """
    output = Path(output)
    spec = replace(spec, calibration=calibration.to_dict(), partial_frames=bool(data.partial.any()))
    spec = replace(spec, regions=regions.to_dict() if regions else None)
    tensors = dict(stored_tensors(classifier))
    if reference:
        tensors = {name: value for name, value in tensors.items() if not is_reference(name)}
        tensors |= reference.reference.tensors()
        spec = replace(spec, reference=reference.described())
    output.parent.mkdir(parents=True, exist_ok=True)
    write_figures(output.parent, spec, calibration, data, record)
    write_model(output, spec, tensors)
    return spec


def write_figures(
    folder: Path, spec: ClassifierSpec, calibration: Calibration, data: Development, record: Mapping[str, Any]
) -> None:
    """Write ``calibration.json`` and ``calibration.tsv`` of a calibrated classifier, with figures of held-out groups."""
    whole = {
        **record,
        **_identity(spec),
        "fitted_on": calibration.fitted_on,
        "held_out": _figures(data),
        "calibration": spec.calibration,
        "regions": spec.regions,
        "reference": spec.reference,
    }
    _write(folder, whole, _preset_rows(calibration))
    logger.info("calibrated %s; contigs held out: %s", spec.name, whole["held_out"]["contigs"])


def write_reason(folder: Path, spec: ClassifierSpec, reason: str, record: Mapping[str, Any]) -> None:
    """Write the same two files of a classifier that couldn't be calibrated: why, and a table without rows."""
    about = {"calibration": None, "reason": reason, "regions": None, "reference": spec.reference}
    _write(folder, {**record, **_identity(spec), **about}, ())


def _write(folder: Path, whole: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_file(folder / "calibration.json") as temporary:
        temporary.write_text(json.dumps(whole, indent=2) + "\n")
    write_table(folder / "calibration.tsv", PRESET_COLUMNS, rows)


def _identity(spec: ClassifierSpec) -> dict[str, Any]:
    known = {"name": spec.name, "weights_sha256": spec.weights_sha256, "source_sha256": spec.source_sha256}
    return {"classifier": known, "partial_frames": spec.partial_frames}


def _share(start: int, end: int, part_start: int, part_end: int) -> float:
    """Of a chunk's bases, how much the stretch is; all ends are included."""
    return (part_end - part_start + 1) / (end - start + 1)


def _encoders(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a calibration holds for beside the classifier: encoders and chunk length, if the tables' records say."""
    about: dict[str, Any] = {}
    for made in found[:1]:  # one run made all
        about["chunk_length"] = made["chunk_length"]
        for key in ("dna_encoder", "protein_encoder"):
            about[key] = {part: made[key][part] for part in ("name", "weights_sha256")}
    return about


def _figures(data: Development) -> dict[str, dict[str, Any]]:
    """How good held-out logits are: AUROC and expected calibration error at equal prior, groups weighing the same."""
    held_out = hold_out(data)
    viral, group = data.viral[data.contig], data.group[data.contig]
    scored = data.chunks > 0
    levels = {"chunks": (viral, group, held_out.chunk)}
    if data.partial.any():
        for name, rows in (("frame_chunks", ~data.partial), ("partial_chunks", data.partial)):
            levels[name] = (viral[rows], group[rows], held_out.chunk[rows])
    levels["contigs"] = (data.viral[scored], data.group[scored], held_out.contig[scored])
    figures = {}
    for name, (truth, groups, logits) in levels.items():
        weights = group_weights(truth, groups)
        error = calibration_error(truth, logits, weights)
        figures[name] = {"items": len(truth), "auroc": auroc(truth, logits, weights), "calibration_error": error}
    return figures


def _preset_rows(calibration: Calibration) -> Iterator[dict[str, Any]]:
    """Rows of ``calibration.tsv``: each preset on the data it was fitted on, and on held-out groups."""
    for name, preset in calibration.presets.items():
        ends = {"viral_from": preset.viral, "non_viral_below": preset.non_viral}
        # What is held out was called by thresholds of its own.
        for data, measured, given in (("fitted", preset.measured, ends), ("held_out", preset.measured["held_out"], {})):
            precision = [measured["precision"][str(prevalence)] for prevalence in PREVALENCES]
            columns = [column for column in PRESET_COLUMNS if column.startswith("precision_")]
            yield {
                "preset": name,
                "data": data,
                **given,
                "recall": measured["recall"],
                "false_positive_rate": measured["false_positive_rate"],
                "ambiguous_viral": measured["ambiguous"]["viral"],
                "ambiguous_non_viral": measured["ambiguous"]["non-viral"],
                **dict(zip(columns, precision, strict=True)),
                **{f"viral_{what}": measured[what]["viral"] for what in ("contigs", "groups")},
                **{f"non_viral_{what}": measured[what]["non-viral"] for what in ("contigs", "groups")},
            }
