"""Add non-coding negatives to a folder of labelled FASTA: what an open frame by chance looks like.

Windows of eukaryotic genomes that have an open frame; few do, so that an even draw hardly holds any. Each keeps the
group of the genome it comes from.
"""

import argparse
import re
from pathlib import Path

from chunks import Corpus, Sampler, open_frames
from sequences import decode

SOURCES = {"vertebrate": 400, "invertebrate": 200, "fungi": 200}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path, help="folder made by make_samples.py")
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--chunk-length", type=int, default=500)
    parser.add_argument("--seed", type=int, default=25)
    args = parser.parse_args()
    sampler = Sampler(
        Corpus.load(args.corpus),
        tuple(args.splits),
        chunk=args.chunk_length,
        recode=0,
        short=0,
        other=0,
        seed=args.seed,
    )
    records = []
    for category, count in SOURCES.items():
        found = 0
        for _ in range(150 * count):
            if found == count:
                break
            group, codes = sampler.chunk_of(category)
            if len(codes) == args.chunk_length and open_frames(codes):
                name = re.sub(r"[^A-Za-z0-9]+", "_", sampler.corpus.groups[group]).strip("_")
                name = re.sub(r"^(Umaydis|Pf|Pk|AE00385).*", r"\1", name)  # as in make_samples.py
                records.append(f">noncoding_{len(records)} group={name}\n{decode(codes)}\n")
                found += 1
        print(category, found)
    (args.folder / "noncoding.fa").write_text("".join(records))
    table = args.folder / "labels.tsv"
    if "noncoding.fa" not in table.read_text():
        with table.open("a") as out:
            out.write("noncoding.fa\tnon-viral\t@header\tnoncoding\n")


if __name__ == "__main__":
    main()
