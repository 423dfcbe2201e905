"""Corpus → labelled FASTA files and their table (fasta, label, group, category), for `train` and `evaluate`.

One file a category. A record is a pseudo-genome (genes of a viral group or of a marker genome, joined with short
linkers) or a piece of a genome; `group=NAME` in its header names the genome or organism, so that a split by group
never has a genome on both sides.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from chunks import GENE_CATEGORIES, Corpus, Sampler
from sequences import decode, reverse_complement

# bases in all, longest pseudo-genome; the mixture of the encoders' training
BUDGET = {
    "viral": (14e6, 25000),
    "prok_marker": (6e6, 6000),
    "bacteria": (3e6, 20000),
    "archaea": (1.5e6, 20000),
    "euk_marker": (4e6, 60000),
    "fungi": (1e6, 20000),
    "protozoa": (1e6, 20000),
    "invertebrate": (1e6, 2000),
    "vertebrate": (1.5e6, 20000),
    "organelle": (4e5, 20000),
}


def pseudo_genome(sampler: Sampler, members: np.ndarray, longest: int) -> np.ndarray:
    parts, size = [], 0
    begin = int(sampler.rng.integers(len(members)))
    for i in np.roll(members, -begin):
        gene = sampler.corpus.record(i)
        if sampler.rng.random() < 0.2:
            gene = reverse_complement(gene)
        linker = sampler._linker(gene)
        parts += [gene, linker]
        size += len(gene) + len(linker)
        if size >= longest:
            break
    return np.concatenate(parts)[:longest]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument("--splits", type=int, nargs="+", default=[0], help="0 training, 1 validation, 2 test")
    parser.add_argument("--share", type=float, default=1.0, help="share of the default number of bases")
    parser.add_argument("--seed", type=int, default=23)
    args = parser.parse_args()
    sampler = Sampler(Corpus.load(args.corpus), tuple(args.splits), recode=0, seed=args.seed)
    corpus, rng = sampler.corpus, sampler.rng
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for category in sampler.names:
        groups, members, _ = sampler.pools[category]
        budget, longest = BUDGET[category]
        budget *= args.share
        total = corpus.length[np.concatenate(members)].sum()
        records = []
        for g in rng.permutation(len(groups)):
            name = re.sub(r"[^A-Za-z0-9]+", "_", corpus.groups[groups[g]]).strip("_")
            name = re.sub(r"^(Umaydis|Pf|Pk|AE00385).*", r"\1", name)  # chromosomes of one organism
            if category in GENE_CATEGORIES:
                pieces = [(f"{category}_{name}", pseudo_genome(sampler, members[g], longest))]
            else:
                pieces, part = [], budget * corpus.length[members[g]].sum() / total
                for i in rng.permutation(members[g]):
                    pieces.append((f"{category}_{name}_{i}", corpus.record(i)[:longest]))
                    part -= len(pieces[-1][1])
                    if part <= 0:
                        break
            records += [f">{record} group={name}\n{decode(codes)}\n" for record, codes in pieces]
            if category in GENE_CATEGORIES:
                budget -= len(pieces[0][1])
                if budget <= 0:
                    break
        path = args.folder / f"{category}.fa"
        path.write_text("".join(records))
        rows.append((path, "viral" if category == "viral" else "non-viral", category))
    with open(args.folder / "labels.tsv", "w") as out:
        out.write("fasta\tlabel\tgroup\tcategory\n")
        for path, label, category in rows:
            out.write(f"{path.name}\t{label}\t@header\t{category}\n")
    print(f"{len(rows)} files, {sum(p.stat().st_size for p, *_ in rows) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
