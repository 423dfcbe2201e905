"""Implants made of labelled chunks, what is measured on them, and parameters of regions fitted to them."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from virnucpro.classifier.implants import (
    FOLDS,
    HOST,
    HOST_BASES,
    IMPLANT,
    PHAGE_BASES,
    VIRUS,
    LabelledChunks,
    TooFewError,
    make_up,
)
from virnucpro.classifier.region_fitting import _pack as pack
from virnucpro.classifier.region_fitting import batch_log_odds, fit_regions, regions_of
from virnucpro.classifier.region_measures import Region, Truth, find_regions, measure_regions
from virnucpro.classifier.region_model import DEFAULT, RegionModel

STEP = 500


def labelled(hosts=10, phages=10, per_group=4, chunks=20, within=2.0, other=0):
    """Contigs of ``chunks`` chunks: groups of bacteria, of phages, and ``other`` of plants; every third chunk is partial."""
    random = np.random.default_rng(7)
    kinds = [("bacteria", False)] * hosts + [("viral_phage", True)] * phages + [("plant", False)] * other
    category = np.repeat([kind for kind, _ in kinds], per_group)
    viral = np.repeat([truth for _, truth in kinds], per_group)
    n = len(viral)
    contig = np.repeat(np.arange(n), chunks)
    partial = np.arange(n * chunks) % 3 == 0
    middle = np.where(viral[contig], 1.5, -1.5) * np.where(partial, 0.3, 1.0)
    made = LabelledChunks(
        logit=middle + random.normal(0, within, n * chunks),
        partial=partial,
        start=np.tile(STEP * np.arange(chunks), n),
        contig=contig,
        viral=viral,
        group=np.repeat([f"g{number}" for number in range(len(kinds))], per_group),
        category=category,
        length=np.full(n, STEP * chunks),
        name=[f"c{number}" for number in range(n)],
    )
    order = random.permutation(n * chunks)  # of any order
    return replace(made, **{name: getattr(made, name)[order] for name in ("logit", "partial", "start", "contig")})


def test_implants_are_what_they_say():
    chunks = labelled(other=3)
    made = make_up(chunks)
    kinds = {kind: [each for each in made if each.kind == kind] for kind in (IMPLANT, HOST, VIRUS)}
    assert len(kinds[VIRUS]) == 40 and {each.host for each in kinds[HOST]} == {f"g{number}" for number in range(10)}
    assert len(kinds[IMPLANT]) == 3 * len(kinds[HOST])
    known = {(number, start): value for number, start, value in zip(*chunk_values(chunks), strict=True)}
    for each in made:
        assert (np.diff(each.start) > 0).all() and each.start[0] == 0 and each.end[-1] == each.length
        assert each.length - (each.viral_to - each.viral_from) >= (0 if each.kind == VIRUS else HOST_BASES)
        inside = (each.start >= each.viral_from) & (each.start < each.viral_to)
        assert (each.viral == inside).all()
    for each in kinds[IMPLANT]:
        phage = int(each.phage[1:])  # these are all taken whole
        assert 0 < each.viral_from < each.viral_to < each.length and each.unit == str(chunks.group[phage])
        assert each.logit[each.viral].tolist() == [known[phage, STEP * number] for number in range(20)]
        others = next(host for host in kinds[HOST] if host.host == each.host)
        assert each.length == others.length + 20 * STEP
    folds = {(name, each.fold) for each in made for name in (each.host, each.unit) if name}
    assert len(folds) == len({name for name, _ in folds}), "a group is in one fold"
    assert {each.fold for each in kinds[IMPLANT]} == set(range(FOLDS))
    assert [each.phage for each in make_up(chunks)] == [each.phage for each in made]
    assert [each.phage for each in make_up(chunks, seed=1)] != [each.phage for each in made]


def test_a_long_host_with_one_scored_chunk_has_no_implant():
    chunks = labelled(per_group=1, chunks=60)
    first = np.flatnonzero(chunks.contig == 0)
    keep = np.setdiff1d(np.arange(len(chunks.contig)), first[1:])
    chunks = replace(chunks, **{name: getattr(chunks, name)[keep] for name in ("logit", "partial", "start", "contig")})
    chunks.length[0] = HOST_BASES
    of_first = [each for each in make_up(chunks) if each.host == "g0"]
    assert [each.kind for each in of_first] == [HOST]


def chunk_values(chunks):
    return chunks.contig.tolist(), chunks.start.tolist(), chunks.logit.tolist()


def test_a_long_virus_gives_a_part():
    for each in make_up(labelled(chunks=100, per_group=2)):
        if each.kind == IMPLANT:
            name, _, span = each.phage.partition(":")
            first, last = map(int, span.split("-"))
            assert last - first + 1 == each.viral_to - each.viral_from and name
            assert PHAGE_BASES[0] - 1 <= last - first + 1 <= PHAGE_BASES[1]
        if each.kind == VIRUS:
            assert each.length == 50_000


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"hosts": 4}, "5 groups of non-viral contigs with 20,000 bases or more, and there are 4"),
        ({"phages": 3}, "5 groups of viral contigs of 5,000 bases or more, and there are 3"),
        ({"chunks": 8, "per_group": 5}, "groups of viral contigs of 5,000 bases or more, and there are 0"),
        ({"per_group": 1}, "groups of non-viral contigs with 20,000 bases or more, and there are 0"),
    ],
)
def test_too_few_groups_leave_the_default(caplog, about, says):
    with pytest.raises(TooFewError, match=says):
        make_up(labelled(**about))
    with caplog.at_level(logging.WARNING):
        assert fit_regions(labelled(**about)) is None
    (record,) = caplog.records
    assert "default parameters" in record.message and says in record.message


def test_contigs_side_by_side_have_the_posteriors_of_each_alone():
    made = make_up(labelled())[::7]
    model = RegionModel(0.3, 0.02, 0.1, 0.7, 0.3, 2.0)
    odds = batch_log_odds(model, pack(made))
    for row, each in zip(odds, made, strict=True):
        alone = model.posteriors(each.start.tolist(), each.logit.tolist(), each.partial.tolist())
        np.testing.assert_allclose(1 / (1 + np.exp(-row[: len(alone)])), alone, atol=1e-9)


def test_a_fit_finds_weights_and_beats_the_default():
    """Logits of frames are log ratios of likelihoods: means ± 1.5, variance 3; those of partial frames are to be multiplied by 0.3."""
    chunks = labelled(hosts=12, phages=12, within=math.sqrt(3))
    model = fit_regions(chunks, {"part": "dev"})
    assert model.viral == DEFAULT.viral and 0.6 < model.frame < 1.4 and 0.1 < model.partial < 0.6
    assert model.fitted_on["part"] == "dev" and model.fitted_on["host_groups"] == 12 == model.fitted_on["viral_groups"]
    held_out = model.fitted_on["held_out"]["0.5"]
    assert held_out["bases_found"] > 0.8 and held_out["precision"] > 0.8 and held_out["boundary_kb"] <= 0.5
    assert RegionModel.from_dict(model.to_dict(), "x") == model
    assert fit_regions(chunks, {"part": "dev"}) == model
    other = replace(chunks, logit=np.where(chunks.partial, chunks.logit, chunks.logit / 2))
    assert fit_regions(other).frame == pytest.approx(2 * model.frame, rel=0.4)


def test_figures_of_known_regions():
    truths = [Truth(100_000, 20_000, 30_000), Truth(100_000, 0, 10_000), Truth(200_000, 0, 0)]
    found = [
        [Region(19_000, 24_000, 0.95), Region(26_000, 30_500, 0.8), Region(90_000, 92_000, 0.6)],
        [Region(0, 12_000, 0.92)],
        [Region(5000, 6000, 0.99)],
    ]
    low, high = (measure_regions(truths, found, level) for level in (0.5, 0.9))
    assert (low["implants"], low["viral_bases"], low["other_bases"]) == (2, 20_000, 380_000)
    assert low["bases_found"] == pytest.approx((4000 + 4000 + 10_000) / 20_000)
    assert low["precision"] == pytest.approx(18_000 / (5000 + 4500 + 2000 + 12_000 + 1000))
    assert low["false_regions"] == 2 and low["false_per_mb"] == pytest.approx(2 / 0.38)
    assert low["boundaries"] == 3 and low["boundary_kb"] == 1.0  # 1,000, 500 and 2,000; a contig's start isn't one
    assert high["regions"] == 3 and high["bases_found"] == pytest.approx(14_000 / 20_000) and high["false_regions"] == 1
    nothing = measure_regions([Truth(1000, 0, 0)], [[]], 0.5)
    assert nothing["bases_found"] is None is nothing["precision"] is nothing["boundary_kb"]
    assert nothing["false_per_mb"] == 0


def test_regions_are_runs_of_posteriors():
    start = np.arange(40) * STEP
    logit = np.where((start >= 5000) & (start < 12_000), 6.0, -6.0)
    (region,) = find_regions(DEFAULT, start, start + STEP, logit, np.zeros(40, bool))
    assert (region.start, region.end) == (5000, 12_000) and region.mean > 0.95
    whole = next(each for each in make_up(labelled(within=0.1)) if each.kind == VIRUS)
    assert [(region.start, region.end) for region in regions_of(DEFAULT, whole)] == [(0, whole.length)]
