"""Held-out sequences of the training files → simulated reads with labels.

    python make_reads.py TRAIN_FOLDER OUTPUT --length 150 --errors 0.01 --reads 1000
    snakemake evaluate --config samples=OUTPUT/samples.tsv labels=OUTPUT/labels.tsv preset=mini-300

Reads come from random places and strands of the test part's records (held_out.tsv), as many viral as not, every record
as often as another; errors are substitutions.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from curate import marker_group

from virnucpro.sequences.read import read_fasta

HELD_OUT = Path(__file__).with_name("held_out.tsv")
COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def held_out_records(folder: Path, shortest: int) -> dict[str, list[bytes]]:
    """Category → the sequences of the test part that the training files hold."""
    rows = [line.split("\t") for line in HELD_OUT.read_text().splitlines()]
    categories = {group: category for split, category, group, _ in rows if split == "test"}
    found: dict[str, list[bytes]] = defaultdict(list)
    for path in sorted(folder.glob("*.fa.gz")):
        for record in read_fasta(path):
            group = record.id.partition(":")[0]  # of a piece of a genome
            if "group=" in record.header:
                group = record.header.partition("group=")[2]
            elif "markers" in path.name:
                group = marker_group(record.id)[0]
            if group in categories and len(record.sequence) >= shortest:
                found[categories[group]].append(record.sequence)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--length", type=int, default=150)
    parser.add_argument("--errors", type=float, default=0.0, help="share of wrong bases")
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    found = held_out_records(args.train, args.length)
    others = sum(len(records) for category, records in found.items() if category != "viral")
    args.output.mkdir(parents=True, exist_ok=True)
    table, lines = ["id\tlabel\tcategory"], []
    for category, records in sorted(found.items()):
        share = 0.5 if category == "viral" else 0.5 * len(records) / others
        for number in range(round(args.reads * share)):
            whole = records[rng.integers(len(records))]
            start = rng.integers(len(whole) - args.length + 1)
            read = np.frombuffer(whole[start : start + args.length].upper(), np.uint8).copy()
            wrong = np.flatnonzero(rng.random(args.length) < args.errors)
            letters = np.frombuffer(b"ACGT", np.uint8)
            known = np.searchsorted(letters, read[wrong]) % 4
            read[wrong] = letters[(known + rng.integers(1, 4, len(wrong))) % 4]
            text = read.tobytes()
            text = text.translate(COMPLEMENT)[::-1] if rng.random() < 0.5 else text
            table.append(f"{category}_{number}\t{'viral' if category == 'viral' else 'non-viral'}\t{category}")
            lines.append(f"@{category}_{number}\n{text.decode()}\n+\n{'I' * args.length}\n")
        print(f"{category}: {len(records)} records, {round(args.reads * share)} reads")
    (args.output / "reads.fq").write_text("".join(lines))
    (args.output / "samples.tsv").write_text("sample\tfasta\nreads\treads.fq\n")
    (args.output / "labels.tsv").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
