"""Training files and Debian packages → one corpus file with categories, groups and a fixed split.

Splits are made before anything is trained: whole clusters of viral groups (joined where they share 3 % of their
protein 8-mers), whole organisms of genomes, accession ranges of marker genes. Whatever a training record shares with
the test set, the validation set or the example contigs (31-mers, either strand) is cut out of it.
"""

import argparse
import gzip
import json
import re
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.csgraph import connected_components
from sequences import (
    base_kmers,
    encode,
    known_runs,
    positional_kmers,
    read_fasta,
    residue_kmers,
    reverse_complement,
    translate,
)

TRAIN, VALIDATION, TEST = 0, 1, 2
CATEGORIES = (
    "viral",
    "prok_marker",
    "bacteria",
    "archaea",
    "fungi",
    "protozoa",
    "invertebrate",
    "vertebrate",
    "euk_marker",
    "organelle",
)
SHORTEST = 300

# Whole organisms (or, where one organism is all there is, chromosomes) that are never trained on.
HELD_OUT = {
    TEST: (
        "AE003852",
        "AE003853",
        "C_trachomatis",
        "prokka",
        "NC_005791",
        "Pk.",
        "chr22",
        "drosophila_chrX",
        "NC_001823",
    ),
    VALIDATION: ("NC_011333", "NC_004463", "S_suis", "NC_006624", "Ztritici", "drosophila_chr3R"),
}


class Corpus:
    """Records: one array of base codes each, with category, group (a genome or a viral group) and split."""

    def __init__(self):
        self.codes, self.category, self.group, self.split, self.name = [], [], [], [], []

    def add(self, name, codes, category, group, split):
        for run in known_runs(codes, SHORTEST):
            self.codes.append(run)
            self.category.append(CATEGORIES.index(category))
            self.group.append(group)
            self.split.append(split)
            self.name.append(name)

    def replace(self, parts: list[list[np.ndarray]]):
        """Put the surviving parts of every record in its place."""
        kept = Corpus()
        for i, runs in enumerate(parts):
            for run in runs:
                kept.codes.append(run)
                for field in ("category", "group", "split", "name"):
                    getattr(kept, field).append(getattr(self, field)[i])
        self.__dict__ = kept.__dict__


def organism_split(organism: str) -> int:
    for split, prefixes in HELD_OUT.items():
        if organism.startswith(prefixes):
            return split
    return TRAIN


def draw_split(sizes: dict, rng: np.random.Generator, share: float = 0.13) -> dict:
    """Random keys into test, then validation, until each holds `share` of the bases; the largest stay in training."""
    total, result = sum(sizes.values()), dict.fromkeys(sizes, TRAIN)
    keys = [k for k in sorted(sizes) if sizes[k] < 0.02 * total]
    filled = {TEST: 0, VALIDATION: 0}
    for i in rng.permutation(len(keys)):
        for split in (TEST, VALIDATION):
            if filled[split] < share * total:
                result[keys[i]], filled[split] = split, filled[split] + sizes[keys[i]]
                break
    return result


def viral_clusters(records: list[tuple[str, np.ndarray]], share: float = 0.03) -> dict[str, int]:
    """Viral group → cluster: groups are joined if they share `share` of the smaller one's protein 8-mers."""
    groups = sorted({g for g, _ in records})
    index = {g: i for i, g in enumerate(groups)}
    kmers, owner = [], []
    for group, codes in records:
        for run in known_runs(codes, 30):
            found = np.unique(residue_kmers(translate(run), 8))
            kmers.append(found)
            owner.append(np.full(len(found), index[group]))
    owner = np.concatenate(owner)
    _, column = np.unique(np.concatenate(kmers), return_inverse=True)
    table = sparse.csr_matrix((np.ones(len(owner), np.int32), (owner, column)))
    table.data[:] = 1
    count = np.diff(table.indptr)
    shared = (table @ table.T).tocoo()
    near = shared.data >= share * np.minimum(count[shared.row], count[shared.col])
    graph = sparse.coo_matrix((shared.data[near], (shared.row[near], shared.col[near])), shape=shared.shape)
    _, label = connected_components(graph, directed=False)
    return {g: int(label[index[g]]) for g in groups}


def genbank_sequences(path: Path):
    opener = gzip.open if path.suffix == ".gz" else open
    name, inside, parts = "", False, []
    with opener(path, "rt") as handle:
        for line in handle:
            if line.startswith("LOCUS"):
                name = line.split()[1]
            elif line.startswith("ORIGIN"):
                inside, parts = True, []
            elif line.startswith("//") and inside:
                inside = False
                yield name, "".join(parts)
            elif inside:
                parts.append("".join(line.split()[1:]))


def maf_reference(path: Path, shortest: int):
    """The first species' sequence of every alignment block, without gaps."""
    first = False
    with gzip.open(path, "rt") as handle:
        for line in handle:
            if line.startswith("a"):
                first = True
            elif line.startswith("s ") and first:
                first = False
                _, name, start, _, _, _, text = line.split()
                text = text.replace("-", "")
                if len(text) >= shortest:
                    yield f"{name}:{start}", text


def marker_group(name: str) -> tuple[str, str]:
    """(genome, range of accessions that is split as a whole) of a MetaPhlAn2 marker."""
    accession = re.sub(r"^gi\|\d+\|ref\|", "", name).split("|")[0].split(":")[0]
    accession = re.sub(r"_c?\d+-\d+$", "", accession).split(".")[0]
    whole_genome = re.match(r"(NZ_)?[A-Z]{4}(?=\d{8})", accession)
    if whole_genome:
        return whole_genome[0], whole_genome[0]
    parts = re.match(r"([A-Z_]+?)(\d+)$", accession)
    if not parts:
        return accession, accession
    prefix, number = parts.groups()
    number = int(number)
    width = {"NC_": 100, "XM_": 20000, "NM_": 20000}.get(prefix, 1000)
    genome = f"{prefix}{number // 5000}" if prefix in ("XM_", "NM_") else accession
    return genome, f"{prefix}{number // width}"


def add_markers(corpus, rng, train_folder, packages, extra_bases):
    chosen, seen = {"prok_marker": [], "euk_marker": []}, set()
    for category, file in (
        ("prok_marker", "nonviral_prok_markers_metaphlan2_subset.fa.gz"),
        ("euk_marker", "nonviral_euk_markers_metaphlan2.fa.gz"),
    ):
        for header, text in read_fasta(train_folder / file):
            seen.add(re.sub(r"[^A-Za-z0-9]", "", header.split()[0]))
            chosen[category].append((header.split()[0], text))
    pool = {}
    for header, text in read_fasta(packages / "var/lib/metaphlan2-data/markers.fasta"):
        if not header.startswith("gi|") or not SHORTEST < len(text) < 20000:
            continue  # GeneID: viral; those outside the training files are left alone
        name = re.sub(r"^gi\|\d+\|ref\|", "", header.split()[0]).replace("|", "")
        if re.sub(r"[^A-Za-z0-9]", "", name) in seen:
            continue
        category = "euk_marker" if name.startswith(("XM_", "NM_")) else "prok_marker"
        if category == "euk_marker":
            chosen[category].append((name, text))
        else:
            pool.setdefault(marker_group(name)[0], []).append((name, text))
    genomes, taken = sorted(pool), 0
    for round_number in range(60):  # a few genes of every genome, round by round
        for genome in genomes:
            if round_number < len(pool[genome]) and taken < extra_bases:
                if round_number == 0:
                    rng.shuffle(pool[genome])
                chosen["prok_marker"].append(pool[genome][round_number])
                taken += len(pool[genome][round_number][1])
    for category, records in chosen.items():
        sizes = {}
        for name, text in records:
            key = marker_group(name)[1]
            sizes[key] = sizes.get(key, 0) + len(text)
        split = draw_split(sizes, rng)
        for name, text in records:
            genome, key = marker_group(name)
            corpus.add(name, encode(text), category, genome, split[key])


def add_genomes(corpus, rng, train_folder, packages):
    for category in ("bacteria", "archaea", "fungi", "protozoa", "vertebrate", "invertebrate"):
        suffix = "vertebrate_mammalian" if category == "vertebrate" else category
        for header, text in read_fasta(train_folder / f"nonviral_genomes_{suffix}.fa.gz"):
            organism = header.split(":")[0]
            if category == "invertebrate":
                organism = "drosophila_" + re.search(r"_(chr\w+?)_\d+", header).group(1)
            corpus.add(header, encode(text), category, organism, organism_split(organism))
    scripts, projects = packages / "usr/share/cct/lib/scripts", packages / "usr/share/doc/cct/examples/sample_projects"
    for path, organism, category, share in (
        (scripts / "get_cds/test_input/prokka_multicontig.gbk", "prokka", "bacteria", 0.5),
        (projects / "sample_project_3/reference_genome/NC_004463.gbk.gz", "NC_004463", "bacteria", 0.4),
        (projects / "sample_project_3/comparison_genomes/NC_000913.gbk.gz", "NC_000913", "bacteria", 0.7),
        (projects / "sample_project_5/comparison_genomes/Arabidopsis_mito.gbk.gz", "Arabidopsis_mito", "organelle", 1),
        (projects / "sample_project_5/reference_genome/NC_001823.gbk.gz", "NC_001823", "organelle", 1),
        (scripts / "ncbi_search/sample_output/NC_009933.gbk", "NC_009933", "bacteria", 1),
    ):
        for name, text in genbank_sequences(path):
            codes = encode(text)
            for start in range(0, len(codes), 20000):
                if rng.random() < share:
                    corpus.add(
                        f"{name}:{start}", codes[start : start + 20000], category, organism, organism_split(organism)
                    )
    maf = packages / "usr/share/doc/maffilter/examples"
    for path, organism, category, shortest, share in (
        (maf / "Ztritici/tba_refIPO323.maf.gz", "Ztritici", "fungi", 1000, 0.15),
        (next((maf / "Gorilla").glob("*.maf.gz")), "chr22", "vertebrate", 500, 0.3),
    ):
        for name, text in maf_reference(path, shortest):
            if rng.random() < share:
                corpus.add(f"{organism}:{name}", encode(text), category, organism, organism_split(organism))


class KmerSet:
    """A set of 31-mers with a hashed bitmap in front, so that most look-ups touch one byte."""

    def __init__(self, sequences):
        self.kmers = np.unique(np.concatenate([base_kmers(c) for c in sequences]))
        self.bitmap = np.zeros(2**30, bool)
        self.bitmap[self._hash(self.kmers)] = True

    @staticmethod
    def _hash(kmers: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return (kmers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(34)

    def hits(self, codes: np.ndarray) -> np.ndarray:
        """Positions of the sequence whose 31-mer is in the set."""
        kmers, known = positional_kmers(codes)
        at = np.flatnonzero(known & self.bitmap[self._hash(kmers)])
        found = np.minimum(np.searchsorted(self.kmers, kmers[at]), len(self.kmers) - 1)
        return at[self.kmers[found] == kmers[at]]


def cut_shared(corpus: Corpus, reference: KmerSet, may_change: np.ndarray, block: int = 200) -> int:
    """Cut from the records that may change every block that holds a 31-mer of `reference`; genes go entirely."""
    parts, lost = [], 0
    genes = {CATEGORIES.index(c) for c in ("viral", "prok_marker", "euk_marker")}
    for i, codes in enumerate(corpus.codes):
        hits = reference.hits(codes) if may_change[i] else np.empty(0, int)
        if len(hits) == 0:
            parts.append([codes])
            continue
        if corpus.category[i] in genes:
            parts.append([])
            lost += len(codes)
            continue
        bad = codes.copy()
        for number in np.unique(np.concatenate([hits, hits + 30]) // block):
            bad[number * block : (number + 1) * block] = 4
        runs = known_runs(bad, SHORTEST)
        lost += len(codes) - sum(map(len, runs))
        parts.append(runs)
    corpus.replace(parts)
    return lost


def cut_prophages(corpus: Corpus, most: int = 10, window: int = 500) -> int:
    """Cut windows of prokaryotic training records that share more than `most` protein 7-mers with viral genes."""
    seen = np.zeros(20**7, bool)
    for codes, category, split in zip(corpus.codes, corpus.category, corpus.split, strict=False):
        if category == 0 and split == TRAIN:
            seen[residue_kmers(translate(codes), 7)] = True
    parts, lost = [], 0
    prokaryotes = {CATEGORIES.index(c) for c in ("prok_marker", "bacteria", "archaea")}
    for codes, category, split in zip(corpus.codes, corpus.category, corpus.split, strict=False):
        if category not in prokaryotes or split != TRAIN:
            parts.append([codes])
            continue
        bad = codes.copy()
        for start in range(0, len(codes), window):
            piece = codes[start : start + window]
            both = (piece, reverse_complement(piece)) if CATEGORIES[category] != "prok_marker" else (piece,)
            hits = max(int(seen[residue_kmers(translate(strand[f:]), 7)].sum()) for strand in both for f in range(3))
            if hits > most:
                bad[start : start + window] = 4
        runs = known_runs(bad, SHORTEST)
        lost += len(codes) - sum(map(len, runs))
        parts.append(runs)
    corpus.replace(parts)
    return lost


def save(corpus: Corpus, path: Path):
    length = np.array([len(c) for c in corpus.codes], np.int32)
    bases = np.concatenate(corpus.codes)
    bases = np.concatenate([bases, np.zeros(-len(bases) % 4, np.uint8)]).reshape(-1, 4)
    packed = bases[:, 0] | bases[:, 1] << 2 | bases[:, 2] << 4 | bases[:, 3] << 6
    groups = sorted(set(corpus.group))
    number = {g: i for i, g in enumerate(groups)}
    np.savez(
        path,
        packed=packed,
        length=length,
        category=np.array(corpus.category, np.uint8),
        group=np.array([number[g] for g in corpus.group], np.int32),
        split=np.array(corpus.split, np.uint8),
    )
    path.with_suffix(".json").write_text(json.dumps({"categories": CATEGORIES, "groups": groups}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path, help="folder of the training files")
    parser.add_argument("packages", type=Path, help="folder into which the Debian packages were unpacked")
    parser.add_argument("example", type=Path, help="FASTA of the example contigs")
    parser.add_argument("corpus", type=Path, help="output (.npz; group names beside it)")
    parser.add_argument("--held-out", type=Path, help="output: TSV of groups and organisms that are not trained on")
    parser.add_argument("--extra-markers", type=float, default=75e6, help="bases of further prokaryotic markers")
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    corpus = Corpus()

    viral = [(h.split("group=")[1], encode(s)) for h, s in read_fasta(args.train / "viral_markers_metaphlan2.fa.gz")]
    cluster = viral_clusters(viral)
    sizes = {}
    for group, codes in viral:
        sizes[cluster[group]] = sizes.get(cluster[group], 0) + len(codes)
    split = draw_split(sizes, rng)
    for i, (group, codes) in enumerate(viral):
        corpus.add(f"viral{i}", codes, "viral", group, split[cluster[group]])
    add_markers(corpus, rng, args.train, args.packages, args.extra_markers)
    add_genomes(corpus, rng, args.train, args.packages)

    every = np.ones(len(corpus.codes), bool)
    print("cut for the example:", cut_shared(corpus, KmerSet(encode(s) for _, s in read_fasta(args.example)), every))
    for held in (TEST, VALIDATION):
        reference = KmerSet([c for c, s in zip(corpus.codes, corpus.split, strict=False) if s == held])
        lower = np.array(corpus.split) != TEST if held == TEST else np.array(corpus.split) == TRAIN
        print("cut for split", held, cut_shared(corpus, reference, lower), flush=True)
    print("cut as prophage-like:", cut_prophages(corpus))
    save(corpus, args.corpus)

    held_out = {}
    for category in range(len(CATEGORIES)):
        bases = [0, 0, 0]
        for c, s, codes, g in zip(corpus.category, corpus.split, corpus.codes, corpus.group, strict=False):
            if c == category:
                bases[s] += len(codes)
                if s != TRAIN:
                    held_out[CATEGORIES[c], g, s] = held_out.get((CATEGORIES[c], g, s), 0) + len(codes)
        print(f"{CATEGORIES[category]:12s} Mbp train/validation/test", *(f"{b / 1e6:7.2f}" for b in bases))
    if args.held_out:
        with open(args.held_out, "w") as out:
            out.write("split\tcategory\tgroup\tbases\n")
            for (category, group, split_), n in sorted(held_out.items(), key=lambda x: (x[0][2], x[0][0], x[0][1])):
                out.write(f"{['train', 'validation', 'test'][split_]}\t{category}\t{group}\t{n}\n")


if __name__ == "__main__":
    main()
