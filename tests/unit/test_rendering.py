"""Figures and text tables."""

from __future__ import annotations

from virnucpro.rendering import saved_figure, text_table


def test_columns_are_aligned_without_trailing_spaces():
    assert text_table([["way", "n"], ["a", "10"], ["bcde", ""]], left=1) == "way    n\na     10\nbcde"


def test_equal_drawings_give_equal_files(tmp_path):
    for name in ("a.b", "c"):
        with saved_figure(tmp_path / name, 2, 1) as figure:
            figure.subplots().plot([0, 1])
    assert (tmp_path / "a.b.svg").read_bytes() == (tmp_path / "c.svg").read_bytes()
    assert (tmp_path / "a.b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
