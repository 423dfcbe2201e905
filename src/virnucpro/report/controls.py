"""What the page of a sample says of its controls: the share that is called viral, and what that bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virnucpro.rendering import how_many
from virnucpro.report.answers import BY_THRESHOLD, Summary
from virnucpro.result_tables import CONTROL_COLUMNS, GIVEN, read_rows
from virnucpro.sequences.controls import CODON, DINUCLEOTIDE, FEWEST_CHUNKS

TITLES = {CODON: "codons shuffled", DINUCLEOTIDE: "dinucleotides shuffled", GIVEN: "your own controls"}
_SHARES = ("share", "low", "high")
_BOUNDS = (
    "Shuffled contigs have the sample's composition and no gene. So their share bounds how many contigs are called viral for "
    "their composition alone. It says nothing of sequences with genes that aren't viral: hosts, plasmids, prophages and mobile "
    "elements can be called viral more often, and only controls of such kinds (control_fasta) or labelled sequences (virnucpro "
    "evaluate) tell. If much of the sample is viral, shuffled codons are those of viruses, and more of them are called viral "
    "than of others."
)


def read_controls(path: Path) -> list[dict[str, Any]]:
    """Rows of ``controls.tsv``, counts and shares as numbers (None: nothing was scored)."""
    return [_numbers(dict(zip(CONTROL_COLUMNS, row, strict=True))) for row in read_rows(path, CONTROL_COLUMNS)]


def about(rows: Sequence[Mapping[str, Any]], summary: Summary) -> list[str]:
    """Paragraphs above the table: which sequences the controls are, and what their share says."""
    shuffled = [row for row in rows if row["kind"] != GIVEN]
    given = [row for row in rows if row["kind"] == GIVEN]
    return [
        *([_choice(shuffled[0], summary), _BOUNDS] if shuffled else []),
        *([_given(given[0])] if given else []),
        _interval(summary),
    ]


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    text = ("kind", "preset")
    return {
        name: value if name in text else (float(value) if value else None) if name in _SHARES else int(value)
        for name, value in row.items()
    }


def _choice(row: Mapping[str, Any], summary: Summary) -> str:
    """Which contigs were shuffled, and how."""
    count, asked = row["controls"], summary["configuration"].get("controls", row["controls"])
    if count < asked:
        which = f"All {count:,} contigs of this sample ({asked:,} were asked for)"
    elif row["shortest"] > (FEWEST_CHUNKS - 1) * summary["chunk_length"]:
        which = f"{how_many(count, 'contig')}, chosen at random among those of {FEWEST_CHUNKS} chunks and more,"
    else:
        which = f"{count:,} contigs, chosen at random among all since fewer than {count:,} have {FEWEST_CHUNKS} chunks,"
    return (
        f"{which} were shuffled in two ways and scored as the sample is: their codons in frame F1, and their bases so that each "
        f"pair of neighbours is as frequent as before. So the controls are as long as those contigs, {_lengths(row)}."
    )


def _given(row: Mapping[str, Any]) -> str:
    return (
        f"Your own controls ({how_many(row['controls'], 'sequence')}, {_lengths(row)}) were taken as not viral. Their share is the rate "
        "of false calls among sequences of their kind and length; of other kinds, and of shorter contigs, it says nothing. What is "
        "viral in them, such as a prophage in a host's genome, counts as a false call."
    )


def _interval(summary: Summary) -> str:
    text = (
        "Shares are of the controls that have a score. The interval (Wilson, 95 %) is that of chance among these controls: none "
        "called viral of 10 agrees with shares up to 28 %, none of 100 with up to 3.7 %, none of 1,000 with up to 0.4 %."
    )
    if summary["calls"]["by"] != BY_THRESHOLD and summary["calls"].get("fdr") is not None:
        text += " They are shares before fdr, since q-values follow from the sample's own share of viral contigs."
    return text


def _lengths(row: Mapping[str, Any]) -> str:
    if row["shortest"] == row["longest"]:
        return f"{row['longest']:,} bases"
    return f"{row['shortest']:,} to {row['longest']:,} bases, half of them up to {row['median_length']:,}"
