"""Random windows of the corpus, and the frames or stretches of them that the workflow would embed: what encoders learn from.

Everything is drawn anew each time: category (`MIXTURE`), group (shares of bases, flattened), record, place, strand, length;
substitutions in the bases of some windows; windows made into negatives (shuffled codons, tandem repeats); other synonymous
codons in the DNA of some frames. A window's row is one of its stop-free frames at random, or its longest stretch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sequences import CODON_RESIDUE, decode

from virnucpro.sequences.stretches import MIN_CODONS

UNKNOWN = -100
"""Category of rows whose category isn't known: markers of viruses, prokaryotes and eukaryotes."""
MIXTURE = {
    "viral_phage": 0.16,
    "viral_animal": 0.12,
    "viral_plant": 0.05,
    "viral_giant": 0.04,
    "viral_other": 0.04,
    "viral_marker": 0.09,
    "bacteria": 0.085,
    "archaea": 0.04,
    "plasmid": 0.07,
    "organelle_mito": 0.03,
    "organelle_plastid": 0.025,
    "vertebrate": 0.04,
    "invertebrate": 0.02,
    "plant": 0.03,
    "fungi": 0.04,
    "protozoa": 0.015,
    "repeat": 0.03,
    "prok_marker": 0.05,
    "euk_marker": 0.025,
}
NAMELESS = ("viral_marker", "prok_marker", "euk_marker")
PROTEIN_TOKENS, DNA_TOKENS = 168, 136  # longest kept; cls, 166 residues and eos fit exactly
PAD_PROTEIN, PAD_DNA = 1, 3
_POWERS = np.array([16, 4, 1], np.int16)
_SYNONYMS = np.full((24, 6), 64, np.uint8)  # codons of each residue; 64: no further one
for _residue in np.unique(CODON_RESIDUE):
    _codons = np.flatnonzero(_residue == CODON_RESIDUE)
    _SYNONYMS[_residue, : len(_codons)] = _codons


@dataclass(frozen=True)
class Options:
    """How windows are drawn."""

    mixture: dict[str, float]
    made: float = 0.06  # share of windows made into negatives
    mutated: float = 0.4  # share of windows with substitutions
    most_mutated: float = 0.06  # largest share of a window's bases
    recoded: float = 0.2  # share of rows with other synonymous codons
    flatten: float = 0.4  # a group's share is its bases to this power
    lengths: tuple[tuple[int, float], ...] = ((500, 0.72), (300, 0.16), (0, 0.12))  # 0: random


class Corpus:
    """Bases of all records of some parts, one after the other, and a row a run of known bases; `offset`: where in its record."""

    def __init__(self, path: str | Path, parts: tuple[int, ...]):
        data = np.load(path)
        names = json.loads(Path(path).with_suffix(".json").read_text())
        self.categories: list[str] = names["categories"]
        self.groups: list[str] = names["groups"]
        length = data["length"].astype(np.int64)
        bases = (data["packed"][:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1)
        start = np.cumsum(length) - length
        rows = np.flatnonzero(np.isin(data["part"], parts))
        self.bases = bases
        self.names = [names["records"][i] for i in rows]
        self.start, self.length, self.offset = start[rows], length[rows], data["offset"][rows].astype(np.int64)
        self.category, self.group = data["category"][rows].astype(np.int64), data["group"][rows]
        self.proteins, self.protein_length = data["proteins"], data["protein_length"].astype(np.int64)


class Windows:
    """Draws rows from a corpus; see the module. `draw` gives what one call of an encoder's training needs."""

    def __init__(self, corpus: Corpus, options: Options, seed: int | tuple[int, ...]):
        self.corpus, self.o, self.rng = corpus, options, np.random.default_rng(seed)
        key = corpus.category * (1 << 32) + corpus.group
        order = np.argsort(key, kind="stable")
        units, first = np.unique(key[order], return_index=True)
        members = np.split(order, first[1:])
        bases = np.array([corpus.length[m].sum() for m in members], float)
        category = units >> 32
        weight = bases**options.flatten
        share = np.array([options.mixture.get(name, 0.0) for name in corpus.categories])
        total = np.bincount(category, weight, len(share))
        present = share * (total > 0)
        self.unit_share = np.cumsum((present / present.sum())[category] * weight / total[category])
        self.members = np.concatenate(members)
        self.first = np.concatenate([[0], np.cumsum(list(map(len, members)))])
        ends = np.cumsum(corpus.length[self.members].astype(float))
        self.before = np.concatenate([[0.0], ends])  # bases before each member
        self.usage = self._codon_usage()

    def codes(self, count: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(bases (n, length) uint8, n windows' lengths, categories); a record that is shorter gives what it has."""
        unit = np.searchsorted(self.unit_share, self.rng.random(count) * self.unit_share[-1])
        low, high = self.before[self.first[unit]], self.before[self.first[unit + 1]]
        place = low + self.rng.random(count) * (high - low)
        row = self.members[np.minimum(np.searchsorted(self.before, place, "right") - 1, len(self.members) - 1)]
        size = np.minimum(self.corpus.length[row], length)
        start = self.corpus.start[row] + (self.rng.random(count) * (self.corpus.length[row] - size + 1)).astype(
            np.int64
        )
        at = start[:, None] + np.arange(length)
        codes = self.corpus.bases[np.minimum(at, len(self.corpus.bases) - 1)]
        flip = self.rng.random(count) < 0.5
        place = np.arange(length)
        turned = np.take_along_axis(codes, np.maximum(size[:, None] - 1 - place, 0), 1)
        codes = np.where(flip[:, None], 3 - turned, codes)
        return codes, size, self.corpus.category[row]

    def draw(self, count: int, tokenizer=None, protein: bool = True) -> dict[str, np.ndarray]:
        """Rows of `count` windows: protein (n, 168) uint8, dna (n, 136) int16, viral, category, partial; fewer than `count`
        where windows have no stretch."""
        lengths, shares = zip(*self.o.lengths, strict=True)
        length = int(self.rng.choice(lengths, p=shares)) or int(self.rng.integers(120, 500))
        codes, size, category = self.codes(count, length)
        viral = np.array([name.startswith("viral") for name in self.corpus.categories])[category]
        category = np.where(np.isin(category, [self.corpus.categories.index(n) for n in NAMELESS]), UNKNOWN, category)
        for i in np.flatnonzero(self.rng.random(count) < self.o.made):
            codes[i, : size[i]] = self._made(codes[i, : size[i]])
            viral[i], category[i] = False, len(self.corpus.categories)
        rate = self.rng.random(count) * self.o.most_mutated * (self.rng.random(count) < self.o.mutated)
        hit = self.rng.random(codes.shape) < rate[:, None]
        codes = np.where(hit, (codes + self.rng.integers(1, 4, codes.shape, np.uint8)) & 3, codes)
        frame, begin, codons, partial = choose_frames(codes, size, self.rng)
        kept = np.flatnonzero(codons >= np.where(partial, MIN_CODONS, 1))
        rows = {"viral": viral[kept], "category": category[kept], "partial": partial[kept], "size": size[kept]}
        found = (codes[kept], size[kept], frame[kept], begin[kept], codons[kept])
        if protein:
            rows["protein"] = protein_tokens(*found)
        if tokenizer is not None:
            rows["dna"] = self._dna_tokens(tokenizer, *found)
        return rows

    def draw_proteins(self, count: int) -> np.ndarray:
        """(count, 168) uint8: pieces of up to 166 residues of the corpus' proteins."""
        c = self.corpus
        if not hasattr(self, "_protein_start"):
            self._protein_start = np.cumsum(c.protein_length) - c.protein_length
        row = self.rng.integers(0, len(c.protein_length), count)
        size = np.minimum(c.protein_length[row], PROTEIN_TOKENS - 2)
        start = self._protein_start[row] + (self.rng.random(count) * (c.protein_length[row] - size + 1)).astype(
            np.int64
        )
        at = np.minimum(start[:, None] + np.arange(PROTEIN_TOKENS - 2), len(c.proteins) - 1)
        return with_ends(c.proteins[at], size)

    def _made(self, codes: np.ndarray) -> np.ndarray:
        """A window's codons in random order, or a tandem repeat of a piece of it."""
        if self.rng.random() < 0.7:
            shift = int(self.rng.integers(0, 3))
            whole = (len(codes) - shift) // 3 * 3
            inner = self.rng.permutation(codes[shift : shift + whole].reshape(-1, 3)).ravel()
            return np.concatenate([codes[:shift], inner, codes[shift + whole :]])
        size = min(int(self.rng.integers(20, 151)), len(codes))
        start = int(self.rng.integers(0, len(codes) - size + 1))
        return np.resize(codes[start : start + size], len(codes))

    def _codon_usage(self, genomes: int = 200) -> np.ndarray:
        """(genomes, 64) relative frequencies of codons among those of the same residue, in windows of marker genes."""
        codes, _, _ = self.codes(genomes * 8, 498)
        codons = codes[:, :498].reshape(genomes, -1, 3).astype(np.int16) @ _POWERS
        counts = np.stack([np.bincount(row, minlength=64) for row in codons]) + 1.0
        total = np.zeros((genomes, 24))
        for codon, residue in enumerate(CODON_RESIDUE):
            total[:, residue] += counts[:, codon]
        return counts / total[:, CODON_RESIDUE]

    def _dna_tokens(self, tokenizer, codes, size, frame, begin, codons) -> np.ndarray:
        """Tokens of the rows' DNA as the workflow cuts it: 3 P + 1 bases for P residues, within the window."""
        every = np.arange(len(codes))
        strand = both_strands(codes, size)[frame // 3, every]
        at = np.minimum(begin[:, None] + np.arange(codes.shape[1]), codes.shape[1] - 1)
        pieces, ends = np.take_along_axis(strand, at, 1), np.minimum(3 * codons + 1, size - begin)
        recoded = np.flatnonzero(self.rng.random(len(codes)) < self.o.recoded)
        pieces[recoded] = self._recode(pieces[recoded], codons[recoded])
        texts = [decode(piece[:end]) for piece, end in zip(pieces, ends, strict=True)]
        tokens = np.full((len(codes), DNA_TOKENS), PAD_DNA, np.int16)
        for row, encoding in enumerate(tokenizer.encode_batch_fast(texts)):
            ids = encoding.ids[:DNA_TOKENS]
            tokens[row, : len(ids)] = ids
        return tokens

    def _recode(self, pieces: np.ndarray, codons: np.ndarray) -> np.ndarray:
        """(n, bases): synonymous codons drawn from another genome's usage in each; what follows the last codon stays."""
        most = pieces.shape[1] // 3
        text = pieces[:, : 3 * most].reshape(len(pieces), most, 3)
        choices = _SYNONYMS[CODON_RESIDUE[text.astype(np.int16) @ _POWERS]]  # (n, most, 6)
        usage = self.usage[self.rng.integers(len(self.usage), size=len(pieces))]
        share = np.take_along_axis(usage[:, None], np.minimum(choices, 63), 2)
        ends = np.cumsum(np.where(choices < 64, share, 0), 2)
        pick = (ends < self.rng.random((len(pieces), most, 1)) * ends[..., -1:]).sum(2)
        codon = np.take_along_axis(choices, np.minimum(pick, 5)[..., None], 2)[..., 0]
        new = np.stack([codon >> 4, codon >> 2 & 3, codon & 3], 2)
        inside = np.arange(most) < codons[:, None]
        result = pieces.copy()
        result[:, : 3 * most] = np.where(inside[..., None], new, text).reshape(len(pieces), 3 * most)
        return result


def both_strands(codes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(2, n, length): windows and their reverse complements, each beginning at 0."""
    turned = np.take_along_axis(codes, np.maximum(size[:, None] - 1 - np.arange(codes.shape[1]), 0), 1)
    return np.stack([codes, 3 - turned])


def choose_frames(codes: np.ndarray, size: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each window: frame 0..5, first base on its strand, codons, and whether it is a stretch, (n,) each.

    One of its stop-free frames at random, else the longest stretch, the first of equals in the order F1 … R3.
    """
    n = len(codes)
    strand = both_strands(codes, size).astype(np.int16)
    codon = 16 * strand[:, :, :-2] + 4 * strand[:, :, 1:-1] + strand[:, :, 2:]
    stop = CODON_RESIDUE[codon] == 0  # (2, n, length - 2)
    longest, begin, free = (np.zeros((6, n), np.int64) for _ in range(3))
    for f in range(6):
        here = stop[f // 3, :, f % 3 :: 3]
        count = np.maximum(size - f % 3, 0) // 3  # whole codons of the window
        index = np.arange(here.shape[1])
        outside = index >= count[:, None]
        here = here | outside
        last = np.maximum.accumulate(np.where(here, index, -1), axis=1)
        run = index - last
        best = run.argmax(1)
        longest[f] = run[np.arange(n), best]
        begin[f] = 3 * (best - longest[f] + 1) + f % 3
        free[f] = (longest[f] == count) & (count > 0)
    some = free.any(0)
    pick = (rng.random((6, n)) * free).argmax(0)
    frame = np.where(some, pick, longest.argmax(0))
    every = np.arange(n)
    return frame, begin[frame, every], longest[frame, every], ~some


def with_ends(residues: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(n, 166) residue ids and how many count → (n, 168) tokens: cls, residues, eos, padding."""
    tokens = np.full((len(residues), PROTEIN_TOKENS), PAD_PROTEIN, np.uint8)
    index = np.arange(residues.shape[1])
    tokens[:, 1 : 1 + residues.shape[1]] = np.where(index < size[:, None], residues, PAD_PROTEIN)
    tokens[:, 0] = 0
    tokens[np.arange(len(tokens)), size + 1] = 2
    return tokens


def protein_tokens(codes, size, frame, begin, codons) -> np.ndarray:
    """(n, 168) uint8 tokens of the rows' proteins."""
    strand = both_strands(codes, size)[frame // 3, np.arange(len(codes))]
    most = min(PROTEIN_TOKENS - 2, codes.shape[1] // 3)
    at = np.minimum(begin[:, None] + np.arange(3 * most), codes.shape[1] - 1)
    text = np.take_along_axis(strand, at, 1).astype(np.int16).reshape(len(codes), most, 3)
    residues = CODON_RESIDUE[text @ _POWERS]
    return with_ends(residues, np.minimum(codons, most))
