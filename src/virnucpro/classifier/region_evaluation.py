"""How good a classifier's regions are, by implants that are made of an evaluation's labelled tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from virnucpro.classifier.implants import HOST, IMPLANT, LabelledChunks, MadeUp, TooFewError, make_up
from virnucpro.classifier.items import Tables
from virnucpro.classifier.region_fitting import regions_of, truth_of
from virnucpro.classifier.region_measures import LEVELS, Region, measure_regions
from virnucpro.classifier.region_model import RegionModel
from virnucpro.result_tables import DEFAULT, FITTED, PARTIAL

REGION_COLUMNS = (
    *("posterior", "contigs", "implants", "viral_bases", "other_bases", "regions", "bases_found", "precision"),
    *("false_regions", "false_per_mb", "implants_found", "boundaries", "boundary_kb"),
)
IMPLANT_COLUMNS = (
    *("name", "kind", "host", "phage", "seed", "length", "start", "end"),
    *("regions", "mean_posteriors"),
)


def evaluate_regions(tables: Tables, model: RegionModel, seed: int = 0) -> dict[str, Any]:
    """What the JSON holds of regions: ``model``, ``metrics`` (a row per posterior), ``implants`` (a row per contig made up).

    Coordinates in rows are 1-based, both ends included. Where the tables don't do for implants, there are no rows, and
    ``reason`` says why.
    """
    about: dict[str, Any] = {"model": FITTED if model.fitted else DEFAULT, "reason": "", "seed": seed}
    try:
        made = [each for each in make_up(labelled_chunks(tables), seed) if each.kind in (IMPLANT, HOST)]
    except TooFewError as error:
        return about | {"reason": str(error), "metrics": [], "implants": []}
    found = [regions_of(model, each) for each in made]
    truths = [truth_of(each) for each in made]
    metrics = [{"posterior": level, **measure_regions(truths, found, level)} for level in LEVELS]
    return about | {"metrics": metrics, "implants": list(_rows(tables, made, found, seed))}


def labelled_chunks(tables: Tables) -> LabelledChunks:
    """The scored chunks of tables, by their logits; names are of records."""
    logit = tables.chunks.numbers[:, 2]
    rows = ~np.isnan(logit)
    return LabelledChunks(
        logit=logit[rows],
        partial=tables.chunks.of_kind(PARTIAL)[rows],
        start=tables.chunk_start[rows],
        contig=tables.chunks.contig[rows],
        viral=tables.viral,
        group=np.array(tables.groups, str)[tables.group],
        category=np.array(tables.categories, str)[tables.category],
        length=tables.length,
        name=tables.record,
    )


def _rows(
    tables: Tables, made: Sequence[MadeUp], found: Sequence[Sequence[Region]], seed: int
) -> Iterator[dict[str, Any]]:
    for number, (each, regions) in enumerate(zip(made, found, strict=True), start=1):
        yield {
            "name": f"{each.kind}_{number}",
            "kind": each.kind,
            "host": each.host.replace("\t", " "),  # of a contig without a group: its sample and record
            "phage": each.phage,
            "seed": seed,
            "length": each.length,
            **({"start": each.viral_from + 1, "end": each.viral_to} if each.kind == IMPLANT else {}),
            "regions": ",".join(f"{region.start + 1}-{region.end}" for region in regions),
            "mean_posteriors": ",".join(f"{region.mean:.3f}" for region in regions),
        }
