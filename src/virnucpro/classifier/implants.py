"""Implants at the level of chunks: labelled contigs joined to long hosts, with a viral contig's chunks put in.

A labelled contig is viral or not as a whole, so nothing in it shows where a viral part begins. A made-up contig does: the
scored chunks of some contigs of one non-viral group after another, and between two of them those of a viral contig.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

HOST_BASES = 60_000
"""A host is joined to at least this; a group with less begins again with its first contig."""
LEAST_OF_GROUP = 20_000
"""A group with fewer bases is no host."""
PHAGE_BASES = (5_000, 40_000)
"""Bases of an implant; a longer viral contig gives a part of that length, of a shorter one there is none."""
FOLDS = 5
"""Each made-up contig is of one fold: so is its host's group, and its virus's."""
HOSTS_PER_GROUP = 2
IMPLANTS_PER_HOST = 3
"""Made-up contigs of one host; beside them it is there once without an implant."""
IMPLANT, HOST, VIRUS = "implant", "host", "virus"
_HOST_WORDS = ("bacteri", "archae", "prokaryot")
_PHAGE_WORD = "phage"


@dataclass(frozen=True)
class LabelledChunks:
    """The m scored chunks of n labelled contigs, in any order.

    Attributes:
        logit: (m,) float64, as calibrated; of a contig's own chunks.
        partial: (m,) bool, whether a partial frame was scored.
        start: (m,) int64, of the chunk in its contig, 0-based.
        contig: (m,) int64, each chunk's contig.
        viral: (n,) bool.
        group, category: (n,) str, or numbers for the group.
        length: (n,) int64, bases.
        name: (n,) names of the contigs.
    """

    logit: np.ndarray
    partial: np.ndarray
    start: np.ndarray
    contig: np.ndarray
    viral: np.ndarray
    group: np.ndarray
    category: np.ndarray
    length: np.ndarray
    name: Sequence[str]


class Piece(NamedTuple):
    """Chunks ``rows`` (k,) of one contig, ascending, which stand for ``bases`` of it from ``first`` (0-based) on."""

    contig: int
    rows: np.ndarray
    first: int
    bases: int


@dataclass(frozen=True)
class MadeUp:
    """A contig of k scored chunks, made of others.

    Attributes:
        kind: ``IMPLANT``, ``HOST`` (without one) or ``VIRUS`` (a whole viral contig).
        host: the group of its host; empty for a virus.
        phage: the name of its viral contig, with ``:FIRST-LAST`` (1-based) if a part was taken; empty for a host.
        unit: what it is counted with: the group of its virus if it has one, else that of its host.
        fold: 0 … ``FOLDS`` − 1.
        length: bases.
        viral_from, viral_to: its viral part, 0-based, end excluded; both 0 without.
        start, logit, partial: (k,) as in ``LabelledChunks``.
        viral: (k,) bool.
    """

    kind: str
    host: str
    phage: str
    unit: str
    fold: int
    length: int
    viral_from: int
    viral_to: int
    start: np.ndarray
    logit: np.ndarray
    partial: np.ndarray
    viral: np.ndarray

    @property
    def end(self) -> np.ndarray:
        """(k,) int64, where the next chunk starts, or the contig ends: an unscored chunk goes with the one before it."""
        return np.append(self.start[1:], self.length)


class TooFewError(Exception):
    """Why there are no implants, as a clause that a log or a page can end with."""


def make_up(chunks: LabelledChunks, seed: int = 0) -> list[MadeUp]:
    """Contigs with and without implants, and whole viral ones; the same for the same chunks and seed.

    Hosts are groups of bacteria and archaea and implants are phages where the categories say so, else all groups and
    viral contigs are. Raises TooFewError for fewer than ``FOLDS`` groups of either.
    """
    random = np.random.default_rng(seed)
    order = np.lexsort((chunks.start, chunks.contig))
    ends = np.searchsorted(chunks.contig[order], np.arange(len(chunks.viral) + 1))
    rows = [order[a:b] for a, b in itertools.pairwise(ends)]
    scored = np.diff(ends) > 0
    hosts = _named(chunks, ~chunks.viral & scored, _HOST_WORDS)
    groups = {
        group: members for group, members in _by_group(chunks, hosts) if chunks.length[members].sum() >= LEAST_OF_GROUP
    }
    phages = _named(chunks, chunks.viral & scored & (chunks.length >= PHAGE_BASES[0]), (_PHAGE_WORD,))
    viruses = dict(_by_group(chunks, phages))
    for found, what in (
        (groups, f"groups of non-viral contigs with {LEAST_OF_GROUP:,} bases"),
        (viruses, f"groups of viral contigs of {PHAGE_BASES[0]:,} bases"),
    ):
        if len(found) < FOLDS:
            raise TooFewError(f"implants need {FOLDS} {what} or more, and there are {len(found)}")
    fold = _deal(groups, viruses, chunks, random)
    made = list(_whole(chunks, rows, np.flatnonzero(chunks.viral & scored), fold))
    turns = {number: _in_turn([m for g, m in viruses.items() if fold[g] == number], random) for number in range(FOLDS)}
    for group, members in groups.items():
        for host in _hosts(chunks, rows, members, random):
            made.append(_join(chunks, host, fold[group]))
            if len(host) == 1:
                continue  # one chunk has a score, so there is no edge within
            for _ in range(IMPLANTS_PER_HOST):
                if (contig := next(turns[fold[group]], None)) is None:
                    break  # its fold has no phage
                place = int(random.integers(1, len(host)))  # so that there is a boundary on either side
                phage = _part(chunks, rows[contig], contig, random)
                made.append(_join(chunks, [*host[:place], phage, *host[place:]], fold[group], place))
    return made


def _named(chunks: LabelledChunks, which: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """(n,) bool: those of ``which`` whose category has one of the words; all of them if none has."""
    told = np.array([any(word in str(category).lower() for word in words) for category in chunks.category], bool)
    return which & told if (which & told).any() else which


def _by_group(chunks: LabelledChunks, which: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(group, its contigs) of those chosen, in the groups' order."""
    contigs = np.flatnonzero(which)
    names, place = np.unique(chunks.group[contigs], return_inverse=True)
    for number, name in enumerate(names.tolist()):
        yield str(name), contigs[place == number]


def _deal(
    groups: dict[str, np.ndarray], viruses: dict[str, np.ndarray], chunks: LabelledChunks, random: np.random.Generator
) -> dict[str, int]:
    """Group → fold, hosts and phages dealt apart, so that each fold has of both; all other groups after them."""
    fold: dict[str, int] = {}
    for names in (list(groups), list(viruses), [str(name) for name in np.unique(chunks.group)]):
        left = [name for name in names if name not in fold]
        for place, which in enumerate(random.permutation(len(left)).tolist()):
            fold[left[which]] = place % FOLDS
    return fold


def _in_turn(groups: Sequence[np.ndarray], random: np.random.Generator) -> Iterator[int]:
    """Contigs without end, each group in turn, each contig of a group in turn; none without groups."""
    mixed = [random.permutation(members).tolist() for members in groups]
    turn = 0
    while mixed:
        for members in mixed:
            yield members[turn % len(members)]
        turn += 1


def _hosts(
    chunks: LabelledChunks, rows: Sequence[np.ndarray], members: np.ndarray, random: np.random.Generator
) -> Iterator[list[Piece]]:
    """Hosts of one group: its contigs in random order, cut where ``HOST_BASES`` are reached, till all were in one."""
    mixed = random.permutation(members).tolist()
    used = 0
    for _ in range(HOSTS_PER_GROUP):
        pieces: list[Piece] = []
        while sum(piece.bases for piece in pieces) < HOST_BASES:
            contig = mixed[used % len(mixed)]
            pieces += [Piece(contig, rows[contig], 0, int(chunks.length[contig]))]
            used += 1
        yield _single(chunks, pieces)
        if used >= len(mixed):
            return


def _single(chunks: LabelledChunks, pieces: Sequence[Piece]) -> list[Piece]:
    """The same, each chunk a piece of its own: an implant can be put in at any of their edges."""
    single = []
    for contig, rows, first, bases in pieces:
        starts = chunks.start[rows]
        # A chunk stands for the bases up to the next one; so the first does for those before it, too.
        edges = np.concatenate(([first], starts[1:], [first + bases]))
        single += [
            Piece(contig, rows[k : k + 1], int(edges[k]), int(edges[k + 1] - edges[k])) for k in range(len(rows))
        ]
    return single


def _part(chunks: LabelledChunks, rows: np.ndarray, contig: int, random: np.random.Generator) -> Piece:
    """A viral contig, or of a longer one a part of log-uniform length within ``PHAGE_BASES``."""
    length = int(chunks.length[contig])
    if length <= PHAGE_BASES[1]:
        return Piece(contig, rows, 0, length)
    wanted = int(np.exp(random.uniform(*np.log(PHAGE_BASES))))
    first = int(random.integers(0, length - wanted + 1))
    starts = chunks.start[rows]
    inside = rows[(starts >= first) & (starts < first + wanted)]
    return Piece(contig, inside, first, wanted)


def _join(chunks: LabelledChunks, pieces: Sequence[Piece], fold: int, implant: int | None = None) -> MadeUp:
    """Pieces one after the other; the one at place ``implant`` is viral, if given."""
    before = np.concatenate(([0], np.cumsum([piece.bases for piece in pieces])))
    rows = np.concatenate([piece.rows for piece in pieces])
    shift = np.repeat([begin - piece.first for begin, piece in zip(before, pieces, strict=False)], _sizes(pieces))
    number = np.repeat(np.arange(len(pieces)), _sizes(pieces))
    phage = None if implant is None else pieces[implant]
    host = str(chunks.group[pieces[0].contig])
    return MadeUp(
        kind=HOST if phage is None else IMPLANT,
        host=host,
        phage="" if phage is None else _name(chunks, phage),
        unit=host if phage is None else str(chunks.group[phage.contig]),
        fold=fold,
        length=int(before[-1]),
        viral_from=0 if implant is None else int(before[implant]),
        viral_to=0 if implant is None else int(before[implant + 1]),
        start=chunks.start[rows] + shift,
        logit=chunks.logit[rows],
        partial=chunks.partial[rows],
        viral=np.zeros(len(rows), bool) if implant is None else number == implant,
    )


def _whole(
    chunks: LabelledChunks, rows: Sequence[np.ndarray], contigs: np.ndarray, fold: dict[str, int]
) -> Iterator[MadeUp]:
    """Viral contigs as they are, of the longest ones ``HOST_BASES`` at most."""
    for contig in contigs.tolist():
        bases = min(int(chunks.length[contig]), HOST_BASES)
        kept = rows[contig][chunks.start[rows[contig]] < bases]
        if len(kept):
            group = str(chunks.group[contig])
            yield MadeUp(
                kind=VIRUS,
                host="",
                phage=_name(chunks, Piece(contig, kept, 0, bases)),
                unit=group,
                fold=fold[group],
                length=bases,
                viral_from=0,
                viral_to=bases,
                start=chunks.start[kept],
                logit=chunks.logit[kept],
                partial=chunks.partial[kept],
                viral=np.ones(len(kept), bool),
            )


def _name(chunks: LabelledChunks, piece: Piece) -> str:
    name = chunks.name[piece.contig]
    whole = piece.bases == chunks.length[piece.contig]
    return name if whole else f"{name}:{piece.first + 1}-{piece.first + piece.bases}"


def _sizes(pieces: Sequence[Piece]) -> list[int]:
    return [len(piece.rows) for piece in pieces]
