"""CheckV's and geNomad's tables: an entry for each sequence that they tell of, at its place on a contig.

CheckV: ``quality_summary.tsv``, and ``contamination.tsv`` for where its proviruses lie (``region_types``,
``region_coords_bp``). geNomad: ``*_virus_summary.tsv`` and ``*_plasmid_summary.tsv``. Columns that older versions
lack stay empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from virnucpro.errors import InputError
from virnucpro.handover.ids import Contigs, Matched, Place
from virnucpro.handover.text import lines, rows, whole_number

CONTAMINATION = "contamination.tsv"
"""CheckV's table beside its quality_summary.tsv."""


class Entry(NamedTuple):
    """What a program says of a contig or of a part of it."""

    place: Place
    part: bool  # of the contig, even if where isn't known
    values: tuple[str, ...]  # of the program's ``titles``


@dataclass(frozen=True)
class Program:
    """A kind of table: its columns, and what they are called in the joined one."""

    name: str
    id: str
    length: str
    required: tuple[str, ...]  # beside id and length
    columns: Mapping[str, str]  # theirs → ours
    prefix: str = ""  # of the columns start and end; without one all entries are of whole contigs

    @property
    def titles(self) -> tuple[str, ...]:
        """Columns in the joined table."""
        places = (f"{self.prefix}_start", f"{self.prefix}_end") if self.prefix else ()
        return (*places, *self.columns.values())

    def values(self, place: Place, row: Mapping[str, str]) -> tuple[str, ...]:
        """Values of ``titles``, from a row of the table and the place that it is of."""
        places = (str(place.start or ""), str(place.end or "")) if self.prefix else ()
        return (*places, *(row.get(column, "") for column in self.columns))


CHECKV = Program(
    "CheckV's quality_summary.tsv",
    "contig_id",
    "contig_length",
    ("checkv_quality", "completeness"),
    {
        "checkv_quality": "checkv_quality",
        "miuvig_quality": "checkv_miuvig_quality",
        "completeness": "checkv_completeness",
        "completeness_method": "checkv_completeness_method",
        "contamination": "checkv_contamination",
        "provirus": "checkv_provirus",
        "gene_count": "checkv_gene_count",
        "viral_genes": "checkv_viral_genes",
        "host_genes": "checkv_host_genes",
        "kmer_freq": "checkv_kmer_freq",
        "warnings": "checkv_warnings",
    },
    "checkv",
)
GENOMAD_VIRUS = Program(
    "geNomad's _virus_summary.tsv",
    "seq_name",
    "length",
    ("virus_score",),
    {
        "virus_score": "genomad_virus_score",
        "fdr": "genomad_virus_fdr",
        "topology": "genomad_virus_topology",
        "n_hallmarks": "genomad_virus_hallmarks",
        "marker_enrichment": "genomad_virus_marker_enrichment",
        "genetic_code": "genomad_genetic_code",
        "taxonomy": "genomad_taxonomy",
    },
    "genomad_virus",
)
GENOMAD_PLASMID = Program(
    "geNomad's _plasmid_summary.tsv",
    "seq_name",
    "length",
    ("plasmid_score",),
    {
        "plasmid_score": "genomad_plasmid_score",
        "fdr": "genomad_plasmid_fdr",
        "topology": "genomad_plasmid_topology",
        "n_hallmarks": "genomad_plasmid_hallmarks",
        "marker_enrichment": "genomad_plasmid_marker_enrichment",
    },
)


def genomad_kind(path: Path) -> Program:
    """Which of geNomad's two tables a file is; InputError if it is neither."""
    header = next(lines(path), "").split("\t")
    for kind in (GENOMAD_VIRUS, GENOMAD_PLASMID):
        if kind.required[0] in header:
            return kind
    raise InputError(
        f"{path}: is neither geNomad's _virus_summary.tsv nor its _plasmid_summary.tsv: it has no column virus_score or "
        f"plasmid_score; its columns are {', '.join(header)[:200] or '(none)'}."
    )


def read_entries(
    path: Path, kind: Program, contigs: Contigs, viral: Mapping[str, list[tuple[int, int]]] | None = None
) -> tuple[list[Entry], Matched]:
    """A table's entries that belong to the sample's contigs, and what became of all ids.

    ``viral``: for CheckV, the viral parts of the sequences that it cut (``viral_parts``).

    Raises InputError: another table, an id twice, or ids of other sequences.
    """
    entries, matched, seen = [], Matched(f"{path} ({kind.name})"), set()
    for line, row in rows(path, (kind.id, kind.length, *kind.required), kind.name):
        identifier, where = row[kind.id], f"{path}, line {line}"
        if identifier in seen:
            raise InputError(f"{where}: {identifier} is there twice. Give one run's table.")
        seen.add(identifier)
        place = contigs.place(identifier, whole_number(row[kind.length], where))
        if isinstance(place, Place) and viral is not None:
            place = _cut(contigs, identifier, place, viral)
        matched.add(identifier, place)
        if isinstance(place, Place):
            part = place.start is not None or place.number is not None
            entries.append(Entry(place, part, kind.values(place, row)))
    matched.check(contigs)
    return entries, matched


def viral_parts(path: Path) -> dict[str, list[tuple[int, int]]]:
    """First and last bases of the viral parts of each sequence that CheckV cut host sequence off, from contamination.tsv."""
    parts = {}
    for line, row in rows(path, ("contig_id", "region_types", "region_coords_bp"), "CheckV (contamination.tsv)"):
        types, spans = row["region_types"].split(","), row["region_coords_bp"].split(",")
        if len(types) != len(spans):
            raise InputError(f"{path}, line {line}: has {len(types)} regions, but {len(spans)} places. Copy it again.")
        if "host" in types:
            parts[row["contig_id"]] = list(_spans(types, spans, f"{path}, line {line}"))
    return parts


def _spans(types: list[str], spans: list[str], where: str) -> Iterator[tuple[int, int]]:
    for kind, span in zip(types, spans, strict=True):
        if kind.strip() == "viral":
            first, _, last = span.partition("-")
            yield whole_number(first, where), whole_number(last, where)


def _cut(contigs: Contigs, identifier: str, place: Place, viral: Mapping[str, list[tuple[int, int]]]) -> Place | str:
    """The place of a provirus that CheckV cut out, or whose only viral part it tells of; other places as they are."""
    parts = viral.get(place.cut or identifier, [])
    number = place.number or 1
    if number <= len(parts) and (place.number or len(parts) == 1):
        return contigs.within(place, *parts[number - 1])
    return place
