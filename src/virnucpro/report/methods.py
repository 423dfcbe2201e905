"""A methods paragraph for a publication, with the facts of this run, and the works to cite."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from virnucpro.models.registry import ARCHITECTURES, ROLES, Architecture


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


def methods(summary: dict[str, Any], bases: int) -> str:
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
        f"The {summary['records']:,} sequences ({bases:,} bases) were cut into {summary['chunks']:,} chunks of at most "
        f"{summary['chunk_length']} bases and each chunk was translated in all six frames; the "
        f"{summary['frames']:,} frames without a stop codon were kept. The DNA of each frame was embedded with "
        f"{dna}, its protein with {protein}, and both vectors together were scored by the classifier "
        f"{classifier['name']} (weights SHA-256 {classifier['weights_sha256'][:12]}).{computed if ways else ''} "
        f"The score of a chunk is v / (v + o), where v and o are the largest viral and non-viral scores among its "
        f"frames; chunks without a stop-free frame have no score. A sequence was called viral if the mean score of its "
        f"scored chunks was at least {summary['threshold']}: {summary['viral_records']:,} sequences."
    )


def _encoder(encoder: Mapping[str, Any], architecture: Architecture, cite: Mapping[str, str]) -> str:
    return (
        f"{encoder['name']} ({architecture.title} architecture{cite.get(architecture.citation or '', '')}, "
        f"{encoder['layers']} layers, {encoder['width']} dimensions, {encoder['pooling']}, weights SHA-256 {encoder['weights_sha256'][:12]})"
    )
