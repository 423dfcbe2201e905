"""What to look at next: a line for each ambiguous contig, and why contigs are unscored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virnucpro.calls.rules import READ, UNUSUAL
from virnucpro.rendering import how_many
from virnucpro.report.answers import Summary
from virnucpro.result_tables import NO_FRAME
from virnucpro.sequences.stretches import MIN_CODONS

LOW_GC, HIGH_GC = 0.25, 0.65
"""GC beyond these is worth a word."""
REGION_CHUNKS, REGION_VIRAL = 8, 3
"""From so many scored chunks on, with so many viral ones among them, a contig may have a viral region."""

Row = Mapping[str, str]

_NOTHING = "viral by the preset alone; fdr is 0, so nothing is called viral"


def ambiguous(row: Row, summary: Summary) -> str:
    """What to do about an ambiguous contig, from its row in contigs.tsv: one line."""
    reasons = row["reason"].split(",")
    said = [_of_reason(reason, row, summary) for reason in reasons]
    gc = float(row["gc"])
    if gc < LOW_GC:
        said.append(f"GC is only {_whole(row['gc'])}, as in many organelles: compare it with mitochondria and plastids")
    elif gc > HIGH_GC:
        said.append(f"GC is {_whole(row['gc'])}: compare it with bacteria so rich in GC, and their phages")
    said = [each for each in said if each] or [
        "evidence for either side: search its proteins against viral and cellular ones"
    ]
    line = "; ".join(said)
    return line if line.endswith("?") else f"{line}."


def unscored(reasons: Mapping[str, int], chunk_reasons: Mapping[str, int], summary: Summary) -> list[tuple[int, str]]:
    """Numbers of unscored contigs, most first, and why they are.

    Args:
        reasons: contigs by the reason in contigs.tsv.
        chunk_reasons: unscored chunks by theirs.
        summary: summary.json.
    """
    calls = summary["calls"]
    nothing = (
        f"without a stop-free frame or a stretch of {3 * MIN_CODONS} bases without a stop, such as N: nothing to score"
    )
    if NO_FRAME in chunk_reasons:
        nothing = (
            "without a stop-free frame; partial_frames: true scores their longest stretches without a stop, which not "
            "every classifier was validated for"
        )
    words = {
        "short": f"shorter than {calls['min_length']:,} bases (min_length)",
        READ: (
            f"shorter than {calls.get('shortest', 0):,} bases, such as reads: less than half of anything that the classifier was "
            "calibrated on. Assemble them, or set threshold to call them by their scores all the same"
        ),
        "few_chunks": f"with fewer than {calls['min_chunks']:,} scored chunks (min_chunks)",
        "no_scored_chunk": nothing,
    }
    most_first = sorted(reasons.items(), key=lambda item: -item[1])
    return [(count, words.get(reason, reason)) for reason, count in most_first]


def _of_reason(reason: str, row: Row, summary: Summary) -> str:
    """What a reason in contigs.tsv asks for; empty if the contig's other reasons say more."""
    scored, chunks, viral = (int(row[name]) for name in ("scored_chunks", "chunks", "viral_chunks"))
    few = {1: "one", 2: "two"}.get(scored, f"{scored:,}")
    if reason == "between_thresholds":
        if scored < REGION_CHUNKS or viral < REGION_VIRAL:
            return ""
        return f"{viral:,} of {how_many(scored, 'scored chunk')} {'is' if viral == 1 else 'are'} viral: a provirus, or another viral region? chunks.tsv says where"
    if reason == "few_chunks" and scored < chunks:
        return f"only {few} of {chunks:,} chunks {'has' if scored == 1 else 'have'} a score: look at its genes"
    if reason == "few_chunks":
        return f"{few} scored chunk{'s'[: scored > 1]}: look for longer assemblies, or look at its genes"
    if reason == "low_complexity":
        return f"{_whole(row['low_complexity'])} of its words repeat: a tandem repeat or satellite?"
    if reason == UNUSUAL:
        return (
            f"unlike what the classifier was trained on (distance {float(row['distance']):.2g}; of sequences like those it is "
            "up to 1): look at its genes"
        )
    if reason == "many_n":
        return f"{_whole(row['n_share'])} of its letters aren't A, C, G or T: gaps of a scaffold? Look at the parts between them"
    if reason == "q_value":
        return _above_fdr(float(row["q_value"]), summary["calls"]["fdr"])
    if reason == "no_q_value":
        if not summary["calls"]["fdr"]:
            return _NOTHING
        return "viral by the preset alone, without the q-value that fdr asks for: it needs more contigs, or no fdr"
    return reason


def _above_fdr(q_value: float, fdr: Any) -> str:
    if not fdr:
        return _NOTHING
    return f"viral by the preset alone, but its q-value, {q_value:.3g}, is above fdr ({fdr:g}): look at its genes"


def _whole(share: str) -> str:
    return f"{100 * float(share):.0f} %"
