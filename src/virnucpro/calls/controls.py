"""Scored controls → controls.tsv: how many of them are called viral, and what share of such sequences may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median_low
from typing import Any

from virnucpro.calls.rules import Rules
from virnucpro.classifier.evidence import PRESETS
from virnucpro.classifier.metrics import wilson
from virnucpro.classifier.spec import read_classifier_spec
from virnucpro.errors import StorageError
from virnucpro.outputs import CONTROLS
from virnucpro.result_tables import (
    AMBIGUOUS,
    CONTIG_COLUMNS,
    CONTROL_COLUMNS,
    GIVEN,
    NON_VIRAL,
    UNSCORED,
    VIRAL,
    read_rows,
    write_table,
)
from virnucpro.sequences.controls import SHUFFLES

_COLUMNS = ("record", "length", "call", "mean_score", "logit", "scored_chunks", "low_complexity", "n_share")


@dataclass
class _Kind:
    """Controls of one kind."""

    lengths: list[int] = field(default_factory=list)  # bases
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)  # (preset, call) → controls


def write_controls(
    folder: Path, classifier: Path, rules: Rules, shuffled: Path | None, given: Path | None
) -> Path | None:
    """Write a sample's ``controls.tsv``, or remove that of an earlier run if there are no controls now.

    Controls are called by each preset as contigs of the sample are (``rules``), but for ``fdr``: q-values follow from the sample's own
    share of viral contigs. Where a threshold decides there is one row a kind, without a preset.

    Args:
        folder: the sample's, in the results.
        classifier: the classifier's file.
        rules: of the calls.
        shuffled, given: ``contigs.tsv`` of the sample's shuffled contigs and of the user's own controls, if there are such.

    Returns:
        The table, without rows where no control has a sequence; None without controls.
    """
    path = folder / CONTROLS
    kinds: dict[str, _Kind] = {}
    rules = replace(rules, calibration=read_classifier_spec(classifier).read_calibration(classifier))
    presets = [""] if rules.by_threshold else list(PRESETS)
    by_preset = {name: replace(rules, preset=name) for name in presets}
    for table, kind in ((shuffled, ""), (given, GIVEN)):
        if table:
            _count(table, kind, by_preset, kinds)
    if shuffled or given:
        write_table(path, CONTROL_COLUMNS, _rows(kinds, presets))
        return path
    if _is_ours(path):
        path.unlink()
    return None


def _count(table: Path, kind: str, rules: Mapping[str, Rules], kinds: dict[str, _Kind]) -> None:
    """Add the controls in a table, of one ``kind``, or if that is empty of those that their ids name."""
    for record, length, call, mean, logit, scored, low_complexity, n_share in read_rows(
        table, CONTIG_COLUMNS, _COLUMNS
    ):
        name = kind or record.partition("|")[0]
        if name not in (*SHUFFLES, GIVEN):
            raise StorageError(f"{table}: {record} isn't a control. Delete the folder {table.parent} and run again.")
        of_kind = kinds.setdefault(name, _Kind())
        of_kind.lengths.append(int(length))
        for preset, of_preset in rules.items():
            if call == UNSCORED:
                of_kind.calls[preset, UNSCORED] += 1
                continue
            evidence = float(logit) if logit else None
            found, _ = of_preset.contig_call(float(mean), evidence, int(scored), float(low_complexity), float(n_share))
            of_kind.calls[preset, found] += 1


def _rows(kinds: Mapping[str, _Kind], presets: list[str]) -> Iterator[dict[str, Any]]:
    for name, kind in kinds.items():
        for preset in presets:
            viral, unscored = kind.calls[preset, VIRAL], kind.calls[preset, UNSCORED]
            scored = len(kind.lengths) - unscored
            low, high = wilson(viral, scored) if scored else ("", "")
            yield {
                "kind": name,
                "preset": preset,
                "controls": len(kind.lengths),
                "called_viral": viral,
                "ambiguous": kind.calls[preset, AMBIGUOUS],
                "non_viral": kind.calls[preset, NON_VIRAL],
                "unscored": unscored,
                "share": viral / scored if scored else "",
                "low": low,
                "high": high,
                "shortest": min(kind.lengths),
                "median_length": median_low(kind.lengths),
                "longest": max(kind.lengths),
            }


def _is_ours(path: Path) -> bool:
    """Whether there is such a table, and a run made it: a file of the user's with that name stays."""
    try:
        with open(path, "rb") as file:
            return file.readline().rstrip() == "\t".join(CONTROL_COLUMNS).encode()
    except OSError:
        return False
