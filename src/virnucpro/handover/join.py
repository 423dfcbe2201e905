"""contigs.tsv with what CheckV, geNomad and an alignment of the reads say of the same contigs beside it.

A contig has a row; one with several parts (proviruses, say) a row for each. Parts of different programs stand in one row
if they share at least half of the shorter one. What is said of the whole contig stands in all of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import InputError, StorageError
from virnucpro.handover.ids import Contigs, Matched, shares, unmatched_rows
from virnucpro.handover.programs import (
    CHECKV,
    CONTAMINATION,
    GENOMAD_PLASMID,
    GENOMAD_VIRUS,
    Entry,
    Program,
    genomad_kind,
    read_entries,
    viral_parts,
)
from virnucpro.handover.reads import TITLES, Coverage, read_paf
from virnucpro.handover.regions import TITLES_OF_REGIONS, read_regions
from virnucpro.io import atomic_file
from virnucpro.outputs import TABLES
from virnucpro.result_tables import CONTIG_COLUMNS, read_rows, write_table

UNMATCHED_COLUMNS = ("table", "id", "reason", "rows")
_LENGTH = CONTIG_COLUMNS.index("length")


@dataclass
class _Source:
    """A program's columns, and its entries by contig."""

    titles: tuple[str, ...]
    entries: dict[str, list[Entry]]


def unmatched_path(output: Path) -> Path:
    """Where the list of what wasn't matched goes."""
    return output.with_suffix(f".unmatched{output.suffix or '.tsv'}")


def join(
    sample: Path,
    output: Path,
    *,
    checkv: Path | None = None,
    contamination: Path | None = None,
    genomad: Sequence[Path] = (),
    paf: Path | None = None,
    min_mapq: int = 0,
) -> list[Matched]:
    """Write the joined table and, beside it, the list of ids that aren't the sample's; returns what became of each table.

    Args:
        sample: a finished sample's folder.
        output: the table.
        checkv: CheckV's quality_summary.tsv.
        contamination: its contamination.tsv, which says where its proviruses lie; if None, that beside ``checkv``, if
            it is there.
        genomad: geNomad's _virus_summary.tsv and _plasmid_summary.tsv, each at most once.
        paf: alignments of reads to the contigs.
        min_mapq: the lowest mapping quality that counts.

    Raises:
        StorageError: the sample isn't finished.
        InputError: a table that isn't what it should be, or of other sequences.
    """
    entries = read_regions(sample)
    contigs = Contigs(_lengths(sample), {entry.values[0]: entry.place for entry in entries or ()})
    # The sample's own regions are in front: what other programs say of parts then stands beside them.
    sources = [] if entries is None else [_Source(TITLES_OF_REGIONS, _by_record(entries))]
    tables: list[Matched] = []
    kinds: dict[Path, Program] = {}
    for path in genomad:
        if (kind := genomad_kind(path)) in kinds.values():
            raise InputError(f"{path}: a second {kind.name}. Give the tables of one run.")
        kinds[path] = kind
    for kind in (GENOMAD_VIRUS, GENOMAD_PLASMID):
        for path in (path for path, found in kinds.items() if found is kind):
            _add(sources, tables, kind.titles, *read_entries(path, kind, contigs))
    if checkv:
        beside = contamination or checkv.with_name(CONTAMINATION)
        viral = viral_parts(beside) if contamination or beside.is_file() else {}
        _add(sources, tables, CHECKV.titles, *read_entries(checkv, CHECKV, contigs, viral))
    coverage: dict[str, Coverage] = {}
    titles: tuple[str, ...] = ()
    if paf:
        coverage, matched = read_paf(paf, contigs, min_mapq)
        tables.append(matched)
        titles = TITLES
    columns = [*CONTIG_COLUMNS, *(title for source in sources for title in source.titles), *titles]
    none = ("0", "0", "0.0")[: len(titles)]
    with atomic_file(output) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(columns) + "\n")
        for contig in read_rows(sample / TABLES["contigs"], CONTIG_COLUMNS):
            found = coverage.get(contig[0])
            reads = found.values(int(contig[_LENGTH])) if found else none
            for values in _beside(contig[0], sources):
                file.write("\t".join([*contig, *values, *reads]) + "\n")
    write_table(unmatched_path(output), UNMATCHED_COLUMNS, unmatched_rows(tables))
    return tables


def _lengths(sample: Path) -> dict[str, int]:
    """Bases of each contig, by id."""
    check_finished(sample)
    return {
        record: int(length)
        for record, length in read_rows(sample / TABLES["contigs"], CONTIG_COLUMNS, ("record", "length"))
    }


def check_finished(sample: Path) -> None:
    """Raise StorageError unless a folder is that of a sample whose tables are complete."""
    if (sample / TABLES["summary"]).is_file():
        return
    inside = sorted(path.parent.name for path in sample.glob(f"*/{TABLES['summary']}"))
    hint = (
        f"Give a sample's folder, such as {sample / inside[0]}." if inside else "Give the folder of a finished sample."
    )
    raise StorageError(f"{sample}: has no {TABLES['summary']}, so it isn't the folder of a finished sample. {hint}")


def _add(
    sources: list[_Source], tables: list[Matched], titles: tuple[str, ...], entries: list[Entry], matched: Matched
) -> None:
    sources.append(_Source(titles, _by_record(entries)))
    tables.append(matched)


def _by_record(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.place.record, []).append(entry)
    return found


def _beside(record: str, sources: Sequence[_Source]) -> Iterator[list[str]]:
    """What the sources say of a contig, a row or more."""
    rows: list[dict[int, Entry]] = []
    whole: dict[int, Entry] = {}
    for index, source in enumerate(sources):
        for entry in source.entries.get(record, ()):
            if not entry.part:
                whole[index] = entry
                continue
            free = [row for row in rows if index not in row]
            shared = [max(shares(entry.place, other.place) for other in row.values()) for row in free]
            if most := max(shared, default=0):
                free[shared.index(most)][index] = entry
            else:
                rows.append({index: entry})
    for row in rows or [{}]:
        values: list[str] = []
        for index, source in enumerate(sources):
            said = row.get(index) or whole.get(index)
            values += said.values if said else [""] * len(source.titles)
        yield values
