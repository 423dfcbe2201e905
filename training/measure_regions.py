"""Regions of a sample and where its implants are → bases found, precision, false regions, boundary error.

    python measure_regions.py RESULTS/implants IMPLANTS/truth.tsv [--classifier mini-500.safetensors]

RESULTS/implants is the sample's folder of `virnucpro predict` on the implants.fa of make_implants.py. Regions are those of
its regions.tsv; with `--classifier`, those that this file's parameters find in the logits of chunks.tsv, so that parameters
can be compared without another prediction.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from virnucpro.classifier.region_measures import LEVELS, Region, Truth, find_regions, measure_regions
from virnucpro.classifier.region_model import RegionModel
from virnucpro.classifier.spec import read_classifier_spec
from virnucpro.result_tables import CHUNK_COLUMNS, PARTIAL, read_rows


def read_truth(path: Path) -> dict[str, Truth]:
    """Record → its length and implant."""
    with path.open(newline="") as file:
        return {
            row["record"]: Truth(int(row["length"]), int(row["start"] or 1) - 1, int(row["end"] or 0))
            for row in csv.DictReader(file, delimiter="\t")
        }


def read_regions(path: Path) -> dict[str, list[Region]]:
    """Record → the regions of a regions.tsv."""
    found: dict[str, list[Region]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            region = Region(int(row["start"]) - 1, int(row["end"]), float(row["mean_posterior"]))
            found.setdefault(row["record"], []).append(region)
    return found


def regions_by(model: RegionModel, path: Path) -> dict[str, list[Region]]:
    """Record → the regions that a model finds in a chunks.tsv."""
    chunks: dict[str, list[tuple[int, int, float, bool]]] = {}
    for record, kind, start, end, logit in read_rows(path, CHUNK_COLUMNS, ("record", "kind", "start", "end", "logit")):
        if kind:
            chunks.setdefault(record, []).append((int(start) - 1, int(end), float(logit), kind == PARTIAL))
    return {record: find_regions(model, *map(np.array, zip(*rows, strict=True))) for record, rows in chunks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the sample's tables")
    parser.add_argument("truth", type=Path, help="truth.tsv of make_implants.py")
    parser.add_argument("--classifier", type=Path, help="find regions anew, by the parameters of this file")
    args = parser.parse_args()
    truth = read_truth(args.truth)
    if args.classifier:
        model = read_classifier_spec(args.classifier).read_regions(args.classifier)
        found = regions_by(model, args.results / "chunks.tsv")
    else:
        found = read_regions(args.results / "regions.tsv")
    if unknown := sorted(set(found) - set(truth)):
        parser.error(f"{args.truth} lacks {len(unknown)} records that have regions, such as {unknown[0]}")
    for level in LEVELS:
        figures = measure_regions(list(truth.values()), [found.get(record, []) for record in truth], level)
        print(f"posterior {level}: " + ", ".join(f"{key} {_text(value)}" for key, value in figures.items()))


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
