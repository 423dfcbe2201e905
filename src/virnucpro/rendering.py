"""Figures as files, tables and numbers as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.io import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def saved_figure(stem: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure (inches) to draw on, then in ``stem``.png and .svg; equal drawings give equal files."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "virnucpro"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for kind in ("png", "svg"):
            with atomic_file(stem.with_name(f"{stem.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def text_table(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows of cells as lines in which columns are aligned: the first ``left`` ones to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def how_many(count: int, what: str) -> str:
    """A number and its noun: ``1 contig``, ``1,234 contigs``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
