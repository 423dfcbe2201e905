"""Random chunks from the corpus, and their open frames: what the encoders are trained on.

Genes have no surroundings in the corpus, so genes of one genome are joined into pseudo-contigs with short linkers
(shuffled bases of the genes themselves, hence the same composition); genomes are cut as they are. A share of the
genes is recoded with another genome's codon usage, so that composition alone doesn't give the label away.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sequences import CODON_RESIDUE, decode, reverse_complement, translate

GENE_CATEGORIES = ("viral", "prok_marker", "euk_marker")
# Shares of the sampled chunks. In training most negatives are genes of very many genomes (the few whole genomes are
# soon learned by heart); the evaluation gives genomes more weight.
MIXTURE = {
    "viral": 0.45,
    "prok_marker": 0.24,
    "bacteria": 0.07,
    "archaea": 0.03,
    "euk_marker": 0.12,
    "fungi": 0.02,
    "protozoa": 0.025,
    "invertebrate": 0.02,
    "vertebrate": 0.03,
    "organelle": 0.005,
}
EVALUATION_MIXTURE = {
    "viral": 0.45,
    "prok_marker": 0.15,
    "bacteria": 0.12,
    "archaea": 0.05,
    "euk_marker": 0.11,
    "fungi": 0.03,
    "protozoa": 0.03,
    "invertebrate": 0.025,
    "vertebrate": 0.03,
    "organelle": 0.005,
}


@dataclass
class Corpus:
    """Unpacked corpus: bases (codes 0..3) of all records, one after the other, and one row per record."""

    bases: np.ndarray
    start: np.ndarray
    length: np.ndarray
    category: np.ndarray
    group: np.ndarray
    split: np.ndarray
    categories: list[str]
    groups: list[str]

    @classmethod
    def load(cls, path: str | Path) -> "Corpus":
        data = np.load(path)
        packed, length = data["packed"], data["length"].astype(np.int64)
        bases = (packed[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1)[: length.sum()]
        names = json.loads(Path(path).with_suffix(".json").read_text())
        return cls(
            bases,
            np.cumsum(length) - length,
            length,
            data["category"],
            data["group"],
            data["split"],
            names["categories"],
            names["groups"],
        )

    def record(self, i: int) -> np.ndarray:
        return self.bases[self.start[i] : self.start[i] + self.length[i]]


class Sampler:
    """Draws chunks of one or more splits.

    `short`: share of chunks of random length (a record's last chunk is short); `other`: share of 300-base chunks;
    `recode`: share of genes with another genome's codon usage; `temper` < 1 flattens the groups' shares of a category.
    """

    def __init__(
        self,
        corpus: Corpus,
        splits: tuple[int, ...],
        chunk: int = 500,
        recode: float = 0.25,
        short: float = 0.12,
        other: float = 0.1,
        temper: float = 0.6,
        seed: int = 0,
        mixture: dict = MIXTURE,
    ):
        self.corpus, self.chunk, self.recode, self.short, self.other = corpus, chunk, recode, short, other
        self.rng = np.random.default_rng(seed)
        self.pools = {}
        for number, category in enumerate(corpus.categories):
            rows = np.flatnonzero((corpus.category == number) & np.isin(corpus.split, splits))
            if len(rows) == 0:
                continue
            order = rows[np.argsort(corpus.group[rows], kind="stable")]
            groups, first = np.unique(corpus.group[order], return_index=True)
            members = np.split(order, first[1:])
            bases = np.array([corpus.length[m].sum() for m in members], float)
            weight = np.cumsum(bases**temper)
            self.pools[category] = (groups, members, weight / weight[-1])
        self.names = [c for c in mixture if c in self.pools]
        share = np.cumsum([mixture[c] for c in self.names])
        self.share = share / share[-1]
        self.usage = self._codon_usage()

    def _codon_usage(self, count: int = 300) -> np.ndarray:
        """Cumulative codon frequencies within each residue, (genomes, 64), of random genomes with genes."""
        tables = []
        for _ in range(count):
            category = GENE_CATEGORIES[self.rng.integers(3)]
            if category not in self.pools:
                continue
            members = self._draw_group(category)[1]
            counts = np.ones(64)
            for i in members[:20]:
                codes = self.corpus.record(i)
                n = len(codes) // 3 * 3
                codons = 16 * codes[0:n:3].astype(int) + 4 * codes[1:n:3] + codes[2:n:3]
                counts += np.bincount(codons, minlength=64)
            tables.append(counts)
        return np.array(tables)

    def _recode(self, codes: np.ndarray) -> np.ndarray:
        """Synonymous codons drawn from another genome's usage; stops and the remainder stay."""
        usage = self.usage[self.rng.integers(len(self.usage))]
        residues = translate(codes)
        draw = self.rng.random(len(residues))
        result = codes.copy()
        for residue in np.unique(residues[residues > 0]):
            codons = np.flatnonzero(residue == CODON_RESIDUE)
            if len(codons) == 1:
                continue
            at = np.flatnonzero(residues == residue)
            limits = np.cumsum(usage[codons])
            new = codons[np.searchsorted(limits / limits[-1], draw[at]).clip(max=len(codons) - 1)]
            result[3 * at], result[3 * at + 1], result[3 * at + 2] = new // 16, new // 4 % 4, new % 4
        return result

    def _draw_group(self, category: str):
        groups, members, weight = self.pools[category]
        g = int(np.searchsorted(weight, self.rng.random()))
        return groups[g], members[g]

    def _linker(self, like: np.ndarray) -> np.ndarray:
        kind = self.rng.random()
        length = int(
            self.rng.integers(0, 12)
            if kind < 0.4
            else self.rng.integers(12, 80)
            if kind < 0.8
            else self.rng.integers(80, 350)
        )
        at = int(self.rng.integers(0, max(1, len(like) - length)))
        piece = like[at : at + length]
        pairs = piece[: len(piece) // 2 * 2].reshape(-1, 2)
        return self.rng.permutation(pairs).reshape(-1)

    def _pseudo_contig(self, members: np.ndarray, length: int) -> np.ndarray:
        """At least `length` bases (if the genome has them): neighbouring genes with linkers."""
        at = int(self.rng.integers(len(members)))
        gene = self.corpus.record(members[at])
        if self.rng.random() < self.recode:
            recode = self._recode
        else:
            recode = lambda codes: codes  # noqa: E731
        parts, size, first = [recode(gene)], 0, len(gene)
        skipped = int(self.rng.integers(0, first))  # the window starts in this gene, evenly
        while first - skipped + size < length and len(parts) < 9:
            linker = self._linker(gene)
            at = (at + 1) % len(members)
            gene = recode(self.corpus.record(members[at]))
            if self.rng.random() < 0.2:
                gene = reverse_complement(gene)
            parts += [linker, gene]
            size += len(linker) + len(gene)
        whole = np.concatenate(parts)
        begin = min(skipped, max(0, len(whole) - length))
        return whole[begin : begin + length]

    def chunk_of(self, category: str) -> tuple[int, np.ndarray]:
        """(group, base codes) of one random chunk, on a random strand."""
        length = self.chunk
        kind = self.rng.random()
        if kind < self.short:
            length = int(self.rng.integers(120, self.chunk))
        elif kind < self.short + self.other:
            length = min(300, length)
        group, members = self._draw_group(category)
        if category in GENE_CATEGORIES:
            codes = self._pseudo_contig(members, length)
        else:
            lengths = np.cumsum(self.corpus.length[members])
            codes = self.corpus.record(members[int(np.searchsorted(lengths, self.rng.random() * lengths[-1]))])
            begin = int(self.rng.integers(0, max(1, len(codes) - length + 1)))
            codes = codes[begin : begin + length]
        if self.rng.random() < 0.5:
            codes = reverse_complement(codes)
        return group, codes

    def draw(self) -> tuple[int, int, np.ndarray]:
        """(category, group, base codes) of a chunk drawn from the mixture."""
        category = self.names[int(np.searchsorted(self.share, self.rng.random()))]
        group, codes = self.chunk_of(category)
        return self.corpus.categories.index(category), int(group), codes


def open_frames(codes: np.ndarray) -> list[tuple[int, str, np.ndarray]]:
    """(frame 0..5, nucleotide text, residues) of the frames without a stop, exactly as the pipeline cuts them."""
    found = []
    for strand, codes_ in enumerate((codes, reverse_complement(codes))):
        for shift in range(3):
            residues = translate(codes_[shift:])
            if len(residues) and residues.all():
                end = min(len(codes_), shift + 3 * len(residues) + 1)
                found.append((3 * strand + shift, decode(codes_[shift:end]), residues))
    return found


def windows(length: int, chunk: int) -> list[tuple[int, int]]:
    """(start, stop) of the pipeline's overlapping windows over a record."""
    count = -(-length // chunk)
    low, extra = divmod(count * chunk - length, count)
    extra = count * chunk - length - low * (count - 1) if count > 1 else 0
    result, shift = [], 0
    for i in range(count):
        begin = i * chunk - shift
        result.append((begin, min(begin + chunk, length)))
        shift += low + 1 if i < extra else low
    return result
