"""A part of the corpus → contigs with labels, to train classifiers on, to calibrate and to measure with.

    python make_contigs.py corpus.npz OUTPUT --parts dev --contigs-per-category 100
    virnucpro evaluate OUTPUT/labels.tsv …

Every category gives as many contigs, if it has the bases; its groups in turn. Contigs don't overlap and have no unknown
base. Lengths are log-uniform from 500 to 25,000 bases in both classes: what a category can't give (plasmids end at
15 kb), another of its class gives, in exchange for a shorter one. Three categories are made from the contigs: shuffled
codons (frame F1) and shuffled dinucleotides of viral ones, and tandem repeats of a piece of any, as long as the
shuffled ones. They are non-viral and keep the group of their source; `shuffled_host_codons` are those of others, so that
calls of the same contigs before and after can be compared.

OUTPUT: contigs.fa; labels.tsv, by record (id, label, category, group); categories/, the same contigs with a file a
category and labels.tsv by file (fasta, label, group, category), as `train` reads it.
"""

import argparse
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from make_corpus import CELLULAR, PARTS, VIRAL
from sequences import decode, reverse_complement
from windows import Corpus

SHORTEST, LONGEST = 500, 25_000
UNIT = (45, 150)  # bases of a tandem repeat's unit
MOST_USED = 0.6  # of a category's bases: of the rest, pieces are soon too short for the lengths wanted


class Record(NamedTuple):
    """A sequence to draw from; codes as in `sequences`."""

    id: str
    group: str
    codes: np.ndarray


class Contig(NamedTuple):
    """A contig drawn, or made from one; `source` is ID:start-end:strand, 1-based, of the record it comes from."""

    category: str
    group: str
    source: str
    codes: np.ndarray


class Slot(NamedTuple):
    """A length that a contig is wanted of, in bases."""

    length: int
    category: str


class Pool:
    """A category's sequence that isn't drawn yet, as stretches without an unknown base."""

    def __init__(self, records: Sequence[Record], rng: np.random.Generator):
        self.records, self.rng = records, rng
        self.drawn: Counter[str] = Counter()
        self.free: dict[str, list[tuple[int, int, int]]] = {}  # group → (record, start, end)
        for i, record in enumerate(records):
            edges = np.concatenate(([-1], np.flatnonzero(record.codes > 3), [len(record.codes)]))
            for k in np.flatnonzero(np.diff(edges) > SHORTEST):
                self.free.setdefault(record.group, []).append((i, int(edges[k]) + 1, int(edges[k + 1])))

    def bases(self) -> int:
        """Bases not drawn yet, in stretches of at least `SHORTEST`."""
        return sum(end - start for spans in self.free.values() for _, start, end in spans)

    def draw(self, slot: Slot) -> Contig | None:
        """A contig on a random strand, from one of the groups drawn least often so far; None if none is as long."""
        able = [g for g, spans in self.free.items() if any(end - start >= slot.length for _, start, end in spans)]
        if not able:
            return None
        fewest = min(self.drawn[g] for g in able)
        able = [g for g in able if self.drawn[g] == fewest]
        group = able[self.rng.integers(len(able))]
        spans = self.free[group]
        fitting = [k for k, (_, start, end) in enumerate(spans) if end - start >= slot.length]
        i, start, end = spans.pop(fitting[self.rng.integers(len(fitting))])
        first = int(self.rng.integers(start, end - slot.length + 1))
        last = first + slot.length
        spans += [(i, a, b) for a, b in ((start, first), (last, end)) if b - a >= SHORTEST]
        self.drawn[group] += 1
        codes, strand = self.records[i].codes[first:last], "+"
        if self.rng.random() < 0.5:
            codes, strand = reverse_complement(codes), "-"
        source = f"{self.records[i].id}:{first + 1}-{last}:{strand}"
        return Contig(slot.category, group, source, codes.copy())


def wanted(category: str, count: int, rng: np.random.Generator, longest: int) -> list[Slot]:
    """`count` lengths, one in each of as many log-uniform strata."""
    places = (np.arange(count) + rng.random(count)) / count
    lengths = SHORTEST * ((longest + 1) / SHORTEST) ** places
    return [Slot(int(length), category) for length in lengths]


def draw_class(
    pools: dict[str, Pool], count: int, rng: np.random.Generator, longest: int = LONGEST
) -> tuple[list[Contig], list[tuple[Slot, str]], list[Slot]]:
    """Contigs of one class; slots that another category filled, with its name; slots that none could fill.

    A category that gives a contig for another hands over a random one of its shorter slots, so that both the number
    of contigs of a category and the lengths of the class stay.
    """
    mean = (longest - SHORTEST) / np.log(longest / SHORTEST)
    slots = []
    for category, pool in pools.items():
        slots += wanted(category, min(count, int(MOST_USED * pool.bases() / mean)), rng, longest)
    slots.sort(reverse=True)  # long ones first: short ones fit in what is left
    contigs: list[Contig] = []
    exchanged: list[tuple[Slot, str]] = []
    unfilled: list[Slot] = []
    while slots:
        slot = slots.pop(0)
        if contig := pools[slot.category].draw(slot):
            contigs.append(contig)
            continue
        for giver in rng.permutation([category for category in pools if category != slot.category]).tolist():
            if contig := pools[giver].draw(slot._replace(category=giver)):
                contigs.append(contig)
                exchanged.append((slot, giver))
                if theirs := [k for k, other in enumerate(slots) if other.category == giver]:
                    k = theirs[rng.integers(len(theirs))]
                    slots[k] = slots[k]._replace(category=slot.category)
                break
        else:
            unfilled.append(slot)
    return contigs, exchanged, unfilled


def spread(contigs: Sequence[Contig], count: int, rng: np.random.Generator) -> list[Contig]:
    """At most `count` contigs whose lengths are spread like those of all, categories in turn."""
    ordered = sorted(contigs, key=lambda contig: len(contig.codes))
    taken: Counter[str] = Counter()
    chosen = []
    edges = np.rint(np.linspace(0, len(ordered), min(count, len(ordered)) + 1)).astype(int)
    for low, high in itertools.pairwise(edges):
        pick = min(rng.permutation(np.arange(low, high)), key=lambda k: taken[ordered[k].category])
        taken[ordered[pick].category] += 1
        chosen.append(ordered[pick])
    return chosen


def shuffle_codons(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The codons of frame F1 in random order; the one or two bases after the last one stay."""
    whole = len(codes) // 3 * 3
    return np.concatenate([rng.permutation(codes[:whole].reshape(-1, 3)).ravel(), codes[whole:]])


def shuffle_dinucleotides(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random sequence with the same dinucleotide counts (Altschul and Erickson 1985); all bases must be known."""
    followers = [codes[1:][codes[:-1] == base] for base in range(4)]
    end = int(codes[-1])
    present = [base for base in range(4) if base != end and len(followers[base])]
    while True:  # the last steps from the other bases must all lead to the end
        last = {base: int(rng.integers(len(followers[base]))) for base in present}
        step = {base: int(followers[base][last[base]]) for base in present}
        reached = {end}
        for _ in present:
            reached |= {base for base in present if step[base] in reached}
        if reached >= set(present):
            break
    queues = []
    for base in range(4):
        rest, final = followers[base], []
        if base in last:
            rest, final = np.delete(rest, last[base]), [step[base]]
        queues.append(iter([*rng.permutation(rest).tolist(), *final]))
    walk = [int(codes[0])]
    for _ in range(len(codes) - 1):
        walk.append(next(queues[walk[-1]]))
    return np.array(walk, np.uint8)


def tandem_repeat(codes: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` bases of copies of a random piece of a sequence, without a change between them."""
    size = int(rng.integers(UNIT[0], UNIT[1] + 1))
    start = int(rng.integers(len(codes) - size + 1))
    return np.resize(codes[start : start + size], length)


def in_turn(contigs: Sequence[Contig], rng: np.random.Generator) -> list[Contig]:
    """The contigs in random order, one of each category, then the next of each."""
    taken: Counter[str] = Counter()
    turns = []
    for k in rng.permutation(len(contigs)):
        taken[contigs[k].category] += 1
        turns.append((taken[contigs[k].category], contigs[k]))
    return [contig for _, contig in sorted(turns, key=lambda turn: turn[0])]


def make_negatives(
    viral: Sequence[Contig], others: Sequence[Contig], count: int, rng: np.random.Generator
) -> list[Contig]:
    """Four categories of non-viral contigs, at most `count` each, with lengths spread like those of the viral ones."""
    sources = spread(viral, count, rng)
    codons = [s._replace(category="shuffled_codons", codes=shuffle_codons(s.codes, rng)) for s in sources]
    host_codons = [
        s._replace(category="shuffled_host_codons", codes=shuffle_codons(s.codes, rng))
        for s in spread(others, count, rng)
    ]
    repeats = [
        unit._replace(category="tandem_repeat", codes=tandem_repeat(unit.codes, len(source.codes), rng))
        for source, unit in zip(sources, in_turn([*viral, *others], rng), strict=False)
    ]
    dinucleotides = [
        s._replace(category="shuffled_dinucleotides", codes=shuffle_dinucleotides(s.codes, rng)) for s in sources
    ]
    return codons + host_codons + repeats + dinucleotides


def read_part(corpus: Corpus, category: str) -> list[Record]:
    """A category's records, to draw from."""
    rows = np.flatnonzero(corpus.category == corpus.categories.index(category))
    return [
        Record(corpus.names[i], corpus.groups[corpus.group[i]], corpus.bases[corpus.start[i] :][: corpus.length[i]])
        for i in rows
    ]


def write(folder: Path, contigs: Sequence[Contig]) -> None:
    """contigs.fa, labels.tsv, samples.tsv, and the same by category."""
    by_category: dict[str, list[str]] = defaultdict(list)
    lines = ["id\tlabel\tcategory\tgroup\n"]
    for contig in contigs:
        entries = by_category[contig.category]
        name = f"{contig.category}_{len(entries) + 1:04d}"
        label = label_of(contig.category)
        about = f"group={contig.group} category={contig.category} label={label} length={len(contig.codes)}"
        entries.append(f">{name} {about} source={contig.source}\n{decode(contig.codes)}\n")
        lines.append(f"{name}\t{label}\t{contig.category}\t{contig.group}\n")
    (folder / "categories").mkdir(parents=True, exist_ok=True)
    files = ["fasta\tlabel\tgroup\tcategory\n"]
    for category, entries in by_category.items():
        (folder / "categories" / f"{category}.fa").write_text("".join(entries))
        files.append(f"{category}.fa\t{label_of(category)}\t@header\t{category}\n")
    (folder / "categories" / "labels.tsv").write_text("".join(files))
    (folder / "contigs.fa").write_text("".join(entry for entries in by_category.values() for entry in entries))
    (folder / "labels.tsv").write_text("".join(lines))
    (folder / "samples.tsv").write_text("sample\tfasta\ncontigs\tcontigs.fa\n")


def label_of(category: str) -> str:
    return "viral" if category in VIRAL else "non-viral"


def report(contigs: Sequence[Contig]) -> None:
    """Print numbers by category, and how many contigs of each class have which length."""
    print(f"\n{'category':23s} {'label':9s} contigs groups    bases shortest median longest")
    names = list(dict.fromkeys(contig.category for contig in contigs))
    for name in [*names, "all"]:
        members = [contig for contig in contigs if name in (contig.category, "all")]
        sizes = np.array([len(contig.codes) for contig in members])
        groups = len({contig.group for contig in members})
        print(
            f"{name:23s} {label_of(name) if name != 'all' else '':9s} {len(members):7d} {groups:6d} {sizes.sum():8d} "
            f"{sizes.min():8d} {int(np.median(sizes)):6d} {sizes.max():7d}"
        )
    edges = np.rint(np.geomspace(SHORTEST, max(len(c.codes) for c in contigs) + 1, 9)).astype(int)
    print("\nlengths            " + " ".join(f"{low:>7d}-" for low in edges[:-1]))
    for title, wanted_names in (("viral", VIRAL), ("cellular", CELLULAR), ("made", set(names) - {*VIRAL, *CELLULAR})):
        sizes = np.array([len(contig.codes) for contig in contigs if contig.category in wanted_names])
        counts = np.histogram(sizes, edges)[0]
        print(f"{title:18s} " + " ".join(f"{n:4d} {n / max(len(sizes), 1):.2f}"[-8:] for n in counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="corpus.npz of make_corpus.py")
    parser.add_argument("output", type=Path, help="output folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, required=True)
    parser.add_argument("--contigs-per-category", type=int, default=30)
    parser.add_argument("--longest", type=int, default=LONGEST, help="contig, in bases")
    parser.add_argument("--negatives", type=int, help="contigs of each made category; as many if not given")
    parser.add_argument("--seed", type=int, default=26)
    args = parser.parse_args()
    if args.contigs_per_category < 1:
        parser.error("--contigs-per-category must be at least 1")
    rng = np.random.default_rng(args.seed)
    corpus = Corpus(args.corpus, tuple(PARTS.index(part) for part in args.parts))
    classes = []
    for categories in (VIRAL, CELLULAR):
        pools = {}
        for category in categories:
            if records := read_part(corpus, category):
                pools[category] = Pool(records, rng)
                print(f"{category}: {len(records)} stretches, {pools[category].bases()} bases", flush=True)
        contigs, exchanged, unfilled = draw_class(pools, args.contigs_per_category, rng, args.longest)
        for category in pools:
            given = Counter(giver for slot, giver in exchanged if slot.category == category)
            lengths = sorted(slot.length for slot, _ in exchanged if slot.category == category)
            if given:
                print(
                    f"{category} couldn't give {len(lengths)} of {lengths[0]} to {lengths[-1]} bases; instead: "
                    + ", ".join(f"{n} of {giver}" for giver, n in sorted(given.items()))
                )
        if unfilled:
            print("no category could give: " + ", ".join(str(slot.length) for slot in unfilled))
        classes.append(sorted(contigs, key=lambda contig: categories.index(contig.category)))
    made = args.contigs_per_category if args.negatives is None else args.negatives
    contigs = [*classes[0], *classes[1], *make_negatives(*classes, made, rng)]
    write(args.output, contigs)
    report(contigs)


if __name__ == "__main__":
    main()
