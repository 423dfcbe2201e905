"""Contigs of make_contigs.py → the label table of the classifiers' training: categories as users name them, no marker genes.

python make_training_labels.py CONTIGS/categories
"""

import argparse
import csv
from pathlib import Path

NAMES = {
    "viral_phage": "phage",
    "viral_animal": "animal virus",
    "viral_plant": "plant virus",
    "viral_giant": "giant virus",
    "viral_other": "other virus",
    "bacteria": "bacterium",
    "archaea": "archaeon",
    "plasmid": "plasmid",
    "organelle_mito": "organelle",
    "organelle_plastid": "organelle",
    **dict.fromkeys(("vertebrate", "invertebrate", "plant", "fungi", "protozoa", "repeat"), "eukaryote"),
}
MADE = "artificial"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds labels.tsv, by file; training.tsv is made beside it")
    args = parser.parse_args()
    with (args.folder / "labels.tsv").open() as table, (args.folder / "training.tsv").open("w") as output:
        output.write("fasta\tlabel\tgroup\tcategory\n")
        for row in csv.DictReader(table, delimiter="\t"):
            if not row["category"].endswith("_marker"):
                category = NAMES.get(row["category"], MADE)
                output.write(f"{row['fasta']}\t{row['label']}\t{row['group']}\t{category}\n")


if __name__ == "__main__":
    main()
