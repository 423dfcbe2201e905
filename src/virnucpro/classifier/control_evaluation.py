"""The controls of all samples of an evaluation together: how often sequences that can't be viral are called so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from virnucpro.classifier.metrics import wilson
from virnucpro.outputs import CONTROLS
from virnucpro.result_tables import CONTROL_COLUMNS, GIVEN, read_rows

COUNTS = ("controls", "called_viral", "ambiguous", "non_viral", "unscored")
COLUMNS = ("kind", "preset", *COUNTS, "share", "low", "high")


def evaluate_controls(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """A row per kind of controls and preset, of all samples' ``controls.tsv``; none where no sample has controls.

    The user's own controls are the same for all samples, so they count once.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for folder in folders:
        if not (folder / CONTROLS).is_file():
            continue
        for kind, preset, *numbers in read_rows(folder / CONTROLS, CONTROL_COLUMNS, ("kind", "preset", *COUNTS)):
            found = Counter(dict(zip(COUNTS, map(int, numbers), strict=True)))
            if kind == GIVEN or (kind, preset) not in counts:
                counts[kind, preset] = found
            else:
                counts[kind, preset].update(found)
    return [_row(kind, preset, found) for (kind, preset), found in counts.items()]


def _row(kind: str, preset: str, found: Counter[str]) -> dict[str, Any]:
    scored = found["controls"] - found["unscored"]
    low, high = wilson(found["called_viral"], scored) if scored else (None, None)
    share = found["called_viral"] / scored if scored else None
    numbers = {name: found[name] for name in COUNTS}
    return {"kind": kind, "preset": preset, **numbers, "share": share, "low": low, "high": high}
