"""Labelled contigs → simulated reads with labels: three of each contig, from random places and strands.

    python make_contigs.py corpus.npz CONTIGS --parts test --contigs-per-category 450 --negatives 150
    python make_reads.py CONTIGS OUTPUT --length 150 --errors 0.01
    snakemake evaluate --config samples=OUTPUT/samples.tsv labels=OUTPUT/labels.tsv preset=mini-300

Shuffled contigs give none; errors are substitutions.
"""

import argparse
from pathlib import Path

import numpy as np
from sequences import decode, encode, read_fasta, reverse_complement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contigs", type=Path, help="folder that make_contigs.py made")
    parser.add_argument("output", type=Path)
    parser.add_argument("--length", type=int, default=150)
    parser.add_argument("--errors", type=float, default=0.0, help="share of wrong bases")
    parser.add_argument("--each", type=int, default=3, help="reads of a contig")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    header, *rows = (line.split("\t") for line in (args.contigs / "labels.tsv").read_text().splitlines())
    labels = {row[0]: row[1:] for row in rows}
    table, reads = ["\t".join(header)], []
    for name, text in read_fasta(args.contigs / "contigs.fa"):
        name = name.split()[0]
        codes = encode(text)
        if labels[name][1].startswith("shuffled") or len(codes) < args.length:
            continue
        for number in range(args.each):
            start = int(rng.integers(len(codes) - args.length + 1))
            read = codes[start : start + args.length]
            read = reverse_complement(read) if rng.random() < 0.5 else read.copy()
            wrong = rng.random(args.length) < args.errors
            read[wrong] = (read[wrong] + rng.integers(1, 4, int(wrong.sum()))) % 4
            table.append("\t".join([f"{name}_{number}", *labels[name]]))
            reads.append(f"@{name}_{number}\n{decode(read)}\n+\n{'I' * args.length}\n")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "reads.fq").write_text("".join(reads))
    (args.output / "samples.tsv").write_text("sample\tfasta\nreads\treads.fq\n")
    (args.output / "labels.tsv").write_text("\n".join(table) + "\n")
    print(f"{len(reads)} reads")


if __name__ == "__main__":
    main()
