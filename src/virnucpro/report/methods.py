"""A methods paragraph for a publication, with the facts of this run, and the works to cite."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from virnucpro.calls.rules import LOW_COMPLEXITY
from virnucpro.classifier.evidence import MISSED, PRESETS
from virnucpro.classifier.region_model import POSTERIOR
from virnucpro.models.registry import ARCHITECTURES, ROLES, Architecture
from virnucpro.rendering import how_many
from virnucpro.report import answers
from virnucpro.result_tables import FITTED
from virnucpro.sequences.stretches import MIN_CODONS


@dataclass(frozen=True)
class Reference:
    """A work to cite."""

    key: str
    kind: str  # the BibTeX entry's type: article or inproceedings
    authors: str
    title: str
    place: str  # journal or proceedings
    volume: str
    pages: str
    year: int
    doi: str

    def bibtex(self) -> str:
        """The BibTeX entry."""
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "journal" if self.kind == "article" else "booktitle": self.place,
            "volume": self.volume,
            "pages": self.pages.replace("–", "--"),
            "year": self.year,
            "doi": self.doi,
        }
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
        return f"@{self.kind}{{{self.key},\n" + ",\n".join(lines) + "\n}"


def architectures(summary: Mapping[str, Any]) -> dict[str, str]:
    """Role → name of its encoder's architecture, as summary.json says; as ``family`` up to version 0.1."""
    encoders = {role: summary[f"{role}_encoder"] for role in ROLES}
    return {role: encoder.get("architecture") or encoder["family"] for role, encoder in encoders.items()}


def references(names: Collection[str]) -> list[Reference]:
    """The works to cite for a run with encoders of these architectures, in the order of their numbers in ``methods``."""
    unused = {each.citation for each in ARCHITECTURES.values()} - {ARCHITECTURES[name].citation for name in names}
    return [work for work in _works() if work.key not in unused]


@cache
def _works() -> list[Reference]:
    """All works, in the order in which the methods paragraph counts them; authors as in BibTeX."""
    works = json.loads(Path(__file__).with_name("references.json").read_text(encoding="utf-8"))
    return [Reference(**work) for work in works]


def methods(summary: Mapping[str, Any], bases: int) -> str:
    """The paragraph; numbers in brackets are those of ``references``.

    Args:
        summary: summary.json.
        bases: of all sequences.
    """
    versions = summary["run"]["versions"]
    cite = {
        work.key: f" [{number}]" for number, work in enumerate(references(architectures(summary).values()), start=1)
    }
    dna, protein = (
        _encoder(summary[f"{role}_encoder"], ARCHITECTURES[name], cite) for role, name in architectures(summary).items()
    )
    classifier = summary["classifier"]
    ways = [{**way, **way["versions"]} for ways in summary["computed"].values() for way in ways]
    precision, backend, device, torch = (
        " and ".join(sorted({str(way[key]) for way in ways})) for key in ("precision", "backend", "device", "torch")
    )
    computed = (
        f" Embeddings were computed with PyTorch {torch}{cite['pytorch']}, in {precision} with {backend} attention "
        f"({device})."
    )
    return (
        f"Viral sequences were identified as in VirNucPro{cite['virnucpro']}, with version {versions['virnucpro']} of "
        f"its Snakemake workflow (Snakemake {versions['snakemake']}{cite['snakemake']}). "
        f"The {how_many(summary['records'], 'sequence')} ({how_many(bases, 'base')}) {_were(summary['records'])} cut into {how_many(summary['chunks'], 'chunk')} of at most "
        f"{summary['chunk_length']} bases and each chunk was translated in all six frames; the "
        f"{how_many(summary['frames'], 'frame')} without a stop codon {_were(summary['frames'])} kept{_partial(summary)}. The DNA of each frame was "
        f"embedded with {dna}, its protein with {protein}, and both vectors together were scored by the classifier "
        f"{classifier['name']} (weights SHA-256 {classifier['weights_sha256'][:12]}).{computed if ways else ''} "
        f"The score of a chunk is v / (v + o), where v and o are the largest viral and non-viral scores among its "
        f"frames; {how_many(summary['chunks'] - summary['scored_chunks'], 'chunk')} had no score. {_calls(summary)}{_regions(summary)}"
    )


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _partial(summary: Mapping[str, Any]) -> str:
    if not summary["partial_chunks"]:
        return ""
    return (
        f", and in {how_many(summary['partial_chunks'], 'chunk')} without any the longest stretch of at least {3 * MIN_CODONS} bases "
        "without a stop codon, in any frame, was taken for one"
    )


def _calls(summary: Mapping[str, Any]) -> str:
    """How sequences were called, and how many."""
    calls = summary["calls"]
    limits = answers.unscored_limits(summary)
    unscored = f"Sequences {limits} were left unscored. " if limits else ""
    if answers.by_score(summary):
        return (
            f"{unscored}A sequence was called viral if the mean score of its scored chunks was at least "
            f"{summary['threshold']}: {how_many(summary['viral_records'], 'sequence')}, {summary['unscored_records']:,} had no score."
        )
    share, fitted = answers.percent(PRESETS[calls["by"]]), answers.fitted_on(summary["calibration"])
    text = (
        "The log odds ln(v / o) of chunks, and their combination over the chunks of a sequence, were calibrated on labelled "
        f"sequences{f' ({fitted})' if fitted else ''}. {unscored}A sequence was called viral from a logit of "
        f"{calls['viral']:.3f} on, non-viral below {calls['non_viral']:.3f}, and ambiguous between (preset {calls['by']}: at "
        f"most {share} of the non-viral sequences of those data reach the first, and at most {answers.percent(MISSED)} of the viral ones are "
        f"below the second); at most ambiguous if {answers.percent(LOW_COMPLEXITY)} or more of its words of 8 bases repeat"
    )
    if calls["fdr"] is not None:
        text += (
            f", or if its q-value was not at most {calls['fdr']:g}"
            if calls["fdr"]
            else ", since the rate of false discoveries was set to 0"
        )
    text += (
        f": {summary['viral_records']:,} viral, {summary['ambiguous_records']:,} ambiguous, {summary['unscored_records']:,} "
        f"without a score. Probabilities assume that {answers.percent(calls['prior'])} of the sequences are viral."
    )
    found = summary["prevalence"]
    if found and not found["reason"]:
        text += (
            " The share of viral sequences, from which q-values follow, was estimated by maximum likelihood as "
            f"{answers.estimate(found['value'])} (95 % interval {answers.estimate(found['low'])} to {answers.estimate(found['high'])})."
        )
    return text


def _regions(summary: Mapping[str, Any]) -> str:
    """How viral regions were found, if they were looked for."""
    if not (found := summary["regions"]):
        return ""
    fitted = (
        "fitted for the classifier"
        if found["model"] == FITTED
        else "that weren't fitted for this classifier (the default ones)"
    )
    return (
        " Viral regions of sequences are runs of chunks that are viral with a posterior probability of at least "
        f"{POSTERIOR}, given all chunks of the sequence, in a hidden Markov model of two states over the log odds of chunks, with "
        f"parameters {fitted}: {how_many(found['regions'], 'region')} in {how_many(found['records'], 'sequence')}."
    )


def _encoder(encoder: Mapping[str, Any], architecture: Architecture, cite: Mapping[str, str]) -> str:
    return (
        f"{encoder['name']} ({architecture.title} architecture{cite.get(architecture.citation or '', '')}, "
        f"{encoder['layers']} layers, {encoder['width']} dimensions, {encoder['pooling']}, weights SHA-256 {encoder['weights_sha256'][:12]})"
    )
