"""A part of the corpus → long hosts with and without a phage put in, to measure regions with.

    python make_implants.py corpus.npz OUTPUT --parts dev --implants 40 --hosts 20

A host is windows of one genome (a group of bacteria or archaea), on random strands, joined in random order to 60 kb;
joints aren't boundaries. A phage is a record of another part of the corpus, the whole of it or a piece, of 5 to 40 kb (log-uniform),
put in on a random strand between any two bases of the host. Host groups and phage groups are taken in turn. Neither has an unknown
base. What the host's own genome has of prophages counts as host.

OUTPUT: implants.fa, and truth.tsv with a row a contig: record, length, start and end of the implant (1-based, both
included, empty without one), host (group), host_windows, phage (group), phage_source, seed.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from make_contigs import Record, read_part
from make_corpus import PARTS
from sequences import decode, known_runs, reverse_complement
from windows import Corpus

HOSTS, PHAGES = ("bacteria", "archaea"), ("viral_phage",)
HOST_BASES = 60_000
PHAGE_BASES = (5_000, 40_000)
SHORTEST_WINDOW = 2_000
COLUMNS = ("record", "length", "start", "end", "host", "host_windows", "phage", "phage_source", "seed")


def by_group(corpus: Corpus, categories: tuple[str, ...], shortest: int) -> dict[str, list[Record]]:
    """Group → its records that have a stretch of ``shortest`` known bases."""
    groups: dict[str, list[Record]] = {}
    for category in categories:
        for record in read_part(corpus, category):
            if known_runs(record.codes, shortest):
                groups.setdefault(record.group, []).append(record)
    return groups


def in_turn(groups: dict[str, list[Record]], rng: np.random.Generator) -> Iterator[list[Record]]:
    """Groups' records without end, in random order, each group once before any again."""
    while True:
        for name in rng.permutation(sorted(groups)).tolist():
            yield groups[name]


def turned(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return reverse_complement(codes) if rng.random() < 0.5 else codes


def draw_host(records: list[Record], rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """``HOST_BASES`` bases, and the names of the records that they are of."""
    runs = [(record.id, run) for record in records for run in known_runs(record.codes, SHORTEST_WINDOW)]
    names: list[str] = []
    parts: list[np.ndarray] = []
    for k in rng.permutation(len(runs)).tolist():
        names.append(runs[k][0])
        parts.append(turned(runs[k][1], rng))
        if sum(map(len, parts)) >= HOST_BASES:
            break
    return np.concatenate(parts)[:HOST_BASES], names


def draw_phage(records: list[Record], rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Bases of one of the records, and where in it they are: ID:start-end, 1-based."""
    record = records[rng.integers(len(records))]
    run = max(known_runs(record.codes, PHAGE_BASES[0]), key=len)
    wanted = min(len(run), int(np.exp(rng.uniform(*np.log(PHAGE_BASES)))))
    if len(run) <= PHAGE_BASES[1] and rng.random() < 0.5:
        wanted = len(run)
    first = int(rng.integers(len(run) - wanted + 1))
    return turned(run[first : first + wanted], rng), f"{record.id}:{first + 1}-{first + wanted}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="corpus.npz of make_corpus.py")
    parser.add_argument("output", type=Path, help="output folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, required=True)
    parser.add_argument("--implants", type=int, default=40, help="contigs with an implant")
    parser.add_argument("--hosts", type=int, default=20, help="contigs without one")
    parser.add_argument("--seed", type=int, default=23)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    corpus = Corpus(args.corpus, tuple(PARTS.index(part) for part in args.parts))
    every = by_group(corpus, HOSTS, SHORTEST_WINDOW)
    hosts = {group: records for group, records in every.items() if sum(len(r.codes) for r in records) >= HOST_BASES}
    phages = by_group(corpus, PHAGES, PHAGE_BASES[0])
    if not hosts or not phages:
        parser.error(f"these parts have {len(hosts)} hosts of {HOST_BASES:,} bases and {len(phages)} groups of phages")
    next_host, next_phage = in_turn(hosts, rng), in_turn(phages, rng)
    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / "implants.fa").open("w") as fasta, (args.output / "truth.tsv").open("w", newline="") as table:
        truth = csv.DictWriter(table, COLUMNS, delimiter="\t", lineterminator="\n")
        truth.writeheader()
        for number in range(args.implants + args.hosts):
            host = next(next_host)
            codes, windows = draw_host(host, rng)
            kind = "implant" if number < args.implants else "host"
            row = {"record": f"{kind}_{number + 1:03d}", "host": host[0].group, "host_windows": ",".join(windows)}
            if kind == "implant":
                records = next(next_phage)
                phage, source = draw_phage(records, rng)
                place = int(rng.integers(1, len(codes)))
                codes = np.concatenate([codes[:place], phage, codes[place:]])
                row |= {
                    "start": place + 1,
                    "end": place + len(phage),
                    "phage": records[0].group,
                    "phage_source": source,
                }
            truth.writerow(row | {"length": len(codes), "seed": args.seed})
            fasta.write(f">{row['record']} host={row['host']} phage={row.get('phage', 'none')}\n{decode(codes)}\n")
    print(
        f"{args.implants} implants and {args.hosts} hosts, of {len(hosts)} groups of hosts and {len(phages)} of phages"
    )


if __name__ == "__main__":
    main()
