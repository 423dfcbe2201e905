"""Which contig, or part of one, other programs' ids mean."""

from __future__ import annotations

import pytest

from virnucpro.handover.ids import OTHER_LENGTH, OUTSIDE, UNKNOWN, Contigs, Place, shares

LENGTHS = {"c1": 60000, "c2": 5000, "c3": 800, "c1_2": 900}


@pytest.mark.parametrize(
    ("identifier", "length", "found"),
    [
        ("c2", 5000, Place("c2")),
        ("c2", 4999, OTHER_LENGTH),
        ("c4", 5000, UNKNOWN),
        ("c1_2", 900, Place("c1_2")),  # a contig that is called as a provirus of another would be
        ("c1_1", 700, Place("c1", None, None, 1, "c1")),
        ("c2_1", 5001, OTHER_LENGTH),
        ("c1|provirus_101_200", 100, Place("c1", 101, 200)),
        ("c1|provirus_101_200", 99, OTHER_LENGTH),
        ("c3|provirus_101_900", 800, OUTSIDE),
        ("c9|provirus_101_200", 100, UNKNOWN),
        ("c1|provirus_101_200_1", 50, Place("c1", 101, 200, 1, "c1|provirus_101_200")),
        ("c1|provirus_101_200_1", 101, OTHER_LENGTH),
        ("a|b_c", 5, UNKNOWN),
    ],
)
def test_places(identifier, length, found):
    assert Contigs(LENGTHS).place(identifier, length) == found


def test_places_within_places():
    contigs = Contigs(LENGTHS)
    assert contigs.within(Place("c1", 101, 200), 1, 50)[:3] == ("c1", 101, 150)
    assert contigs.within(Place("c1", 101, 200), 2, 101) == OUTSIDE
    assert contigs.within(Place("c1"), 0, 5) == OUTSIDE


@pytest.mark.parametrize(("other", "bases"), [((151, 350), 50), ((152, 350), 0), ((101, 110), 10), ((201, 300), 0)])
def test_parts_stand_together_from_half_of_the_shorter_one_on(other, bases):
    assert (
        shares(Place("c1", 101, 200), Place("c1", *other))
        == shares(Place("c1", *other), Place("c1", 101, 200))
        == bases
    )
    assert shares(Place("c1"), Place("c1", *other)) == 0


@pytest.mark.parametrize(
    ("identifier", "length", "found"),
    [
        ("r_region_1", 100, Place("r", 101, 200)),
        ("r_region_1", 99, OTHER_LENGTH),
        ("r_region_1_1", 40, Place("r", 101, 200, 1, "r_region_1")),
        ("r_region_1|provirus_11_60", 50, Place("r", 111, 160)),
        ("r_region_1|provirus_11_101", 91, OUTSIDE),
        ("r_region_2", 100, UNKNOWN),
    ],
)
def test_places_in_regions(identifier, length, found):
    contigs = Contigs({"r": 1000}, {"r_region_1": Place("r", 101, 200)})
    assert contigs.place(identifier, length) == found


def test_a_contig_that_is_called_as_a_region():
    contigs = Contigs({"r": 1000, "r_region_1": 50}, {"r_region_1": Place("r", 101, 200)})
    assert contigs.place("r_region_1", 50) == Place("r_region_1")
