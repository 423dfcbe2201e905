"""Whole genomes, marker genes and proteins → one corpus file with categories, groups and parts, made once.

    python make_corpus.py TRAIN2 TRAIN PROTEINS ../resources/example/contigs.fa corpus.npz

TRAIN2 holds `<category>.fa.gz` of whole genomes (headers `>ID category= group= …`) and SOURCES.tsv.gz; TRAIN the marker
genes and genome pieces of the first models; PROTEINS labelled proteins. Parts are made of whole groups: `test` is measured
once, `dev` chooses among models and calibrates, `train` is what is learned from. Viral groups that resemble TRAIN (5 % of
the 31-mers of a record) only train, since the first models saw TRAIN. Of kinds of host with few groups, one is tested.

Blocks of 200 bases that share a 31-mer with the example leave every part; then records of TRAIN that share 5 % of their 31-mers with the
test part leave the others, and with the dev part the training part (groups of TRAIN2 don't share that much with one another;
pieces for the last fit may, and leave, too). With `--without prophages.tsv`, the stretches that find_prophages.py found in hosts
leave the training part. Beside the corpus: corpus.json, names of categories, groups and records. `windows.py` and
`make_contigs.py` draw from them.
"""

import argparse
import csv
import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sequences import RESIDUE_ID, KmerSet, encode, known_spans, read_fasta

PARTS = ("train", "dev", "test", "last")  # last: joins the training part for the last fit
VIRAL = ("viral_phage", "viral_animal", "viral_plant", "viral_giant", "viral_other", "viral_marker")
CELLULAR = (
    *("bacteria", "archaea", "plasmid", "organelle_mito", "organelle_plastid"),
    *("vertebrate", "invertebrate", "plant", "fungi", "protozoa", "repeat", "prok_marker", "euk_marker"),
)
CATEGORIES = VIRAL + CELLULAR
SHARES = {"test": 0.2, "dev": 0.12}
"""Of a category's groups."""
LARGEST = 0.2
"""A group with more of its category's bases than this trains."""
CHOSEN = {
    "NN01494": "test",  # Arabidopsis lyrata; A. thaliana trains
    "NN01493": "train",
    "NN01489": "test",  # Pilobolus umbonatus; yeast and other Mucoromycota train
    "NN01490": "dev",
    "NN01487": "train",
    "NN01488": "train",
    "NN01491": "train",
    "NN01492": "train",  # Plasmodium falciparum; P. knowlesi is tested
    "NN01495": "train",  # Drosophila; regions of its chromosome 2R are tested
    "Pk": "test",
    "Ztritici": "dev",
    "Umaydis": "train",
    "Pf": "train",
    "drosophila_chr2R": "test",
    "drosophila_chr3R": "dev",
    "NC_000023": "train",
    "NV01168": "test",  # an Emiliania huxleyi virus
    "NV00101": "dev",  # Pyramimonas orientalis virus
}
MOST_SHARED = 0.05
MOST_BASES = 600_000
"""Of one viral group in the training part: the rest of it teaches little."""
SHORTEST = 150
PROPHAGE_COLUMNS = ("record", "start", "end", "mean_posterior", "chunks")
"""Of find_prophages.py; start and end 1-based, both included."""


class Record(NamedTuple):
    id: str
    category: str
    group: str
    codes: np.ndarray
    genome: bool = False  # of TRAIN2


def whole_genomes(folder: Path) -> tuple[list[Record], set[str], list[Record]]:
    """Records of TRAIN2, groups of viruses that resemble TRAIN, and the pieces for the last fit."""
    with gzip.open(folder / "SOURCES.tsv.gz", "rt") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    seen = {
        row["group"]
        for row in rows
        if row["category"] in VIRAL and float(row["frac31_in_existing_train"] or 0) >= MOST_SHARED
    }
    records, last = [], []
    for path in sorted(folder.glob("*.fa.gz")):
        for header, text in read_fasta(path):
            name, *words = header.split()
            facts = dict(word.split("=", 1) for word in words if "=" in word)
            record = Record(name, facts["category"], facts["group"], encode(text), True)
            (last if path.name == "viral_excised.fa.gz" else records).append(record)
    return records, seen, last


def first_training_files(folder: Path) -> list[Record]:
    """Records of TRAIN."""
    records = []
    for header, text in read_fasta(folder / "viral_markers_metaphlan2.fa.gz"):
        records.append(Record(header.split()[0], "viral_marker", header.split("group=")[1], encode(text)))
    for category, file in (("prok_marker", "prok_markers_metaphlan2_subset"), ("euk_marker", "euk_markers_metaphlan2")):
        for header, text in read_fasta(folder / f"nonviral_{file}.fa.gz"):
            name = header.split()[0]
            records.append(Record(name, category, marker_genome(name), encode(text)))
    for category in ("bacteria", "archaea", "fungi", "protozoa", "vertebrate", "invertebrate"):
        suffix = "vertebrate_mammalian" if category == "vertebrate" else category
        for header, text in read_fasta(folder / f"nonviral_genomes_{suffix}.fa.gz"):
            group = re.split(r"[:.]", header.split()[0])[0]
            if category == "invertebrate":
                group = "drosophila_" + re.search(r"_(chr\w+?)_\d+", header).group(1)
            for name in ("Umaydis", "Ztritici", "Pf", "Pk"):
                group = name if group.startswith(name) else group
            records.append(Record(header.split()[0], category, group, encode(text)))
    return records


def marker_genome(name: str) -> str:
    """The genome of a marker gene, from its accession; those of transcripts by ranges of 5,000."""
    accession = re.sub(r"^gi\|\d+\|ref\|", "", name).split("|")[0].split(":")[0]
    accession = re.sub(r"_c?\d+-\d+$", "", accession).split(".")[0]
    if whole := re.match(r"(NZ_)?[A-Z]{4}(?=\d{8})", accession):
        return whole[0]
    if transcript := re.match(r"([XN]M_)(\d+)$", accession):
        return f"{transcript[1]}{int(transcript[2]) // 5000}"
    return accession


def divide(records: list[Record], only_train: set[str]) -> dict[str, str]:
    """Group → part: within the category where most of its bases are, by a hash of its name."""
    bases: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        bases[record.group][record.category] += len(record.codes)
    kinds: dict[str, dict[str, int]] = defaultdict(dict)
    for group, found in bases.items():
        kinds[max(found, key=found.__getitem__)][group] = sum(found.values())
    parts = {}
    for category, groups in kinds.items():
        total = sum(groups.values())
        free = [g for g in groups if g not in CHOSEN and g not in only_train and groups[g] <= LARGEST * total]
        free.sort(key=lambda group: hashlib.sha256(f"22 {group}".encode()).digest())
        counts = {part: round(share * len(groups)) for part, share in SHARES.items()}
        if category in ("viral_marker", "prok_marker", "euk_marker", "plant", "fungi", "protozoa", "invertebrate"):
            counts = dict.fromkeys(counts, 0)  # genes only, or few groups, see CHOSEN
        ends = np.cumsum([counts["test"], counts["dev"]])
        for rank, group in enumerate(free):
            parts[group] = "test" if rank < ends[0] else "dev" if rank < ends[1] else "train"
    return {group: CHOSEN.get(group) or parts.get(group, "train") for group in bases}


def record_shares(record: Record, reference: KmerSet) -> bool:
    """Whether more than `MOST_SHARED` of its 31-mers are in the reference."""
    return len(reference.hits(record.codes)) > MOST_SHARED * max(len(record.codes) - 30, 0)


def cut(records: list[Record], reference: KmerSet, block: int = 200) -> tuple[list[Record], int]:
    """Records whose blocks with a 31-mer of the reference became unknown bases, and how many bases those are."""
    result, lost = [], 0
    for record in records:
        hits = reference.hits(record.codes)
        if len(hits):
            codes = record.codes.copy()
            for number in np.unique(np.concatenate([hits, hits + 30]) // block):
                codes[number * block : (number + 1) * block] = 4
            lost += int((codes > 3).sum() - (record.codes > 3).sum())
            record = record._replace(codes=codes)
        if (record.codes < 4).sum() >= SHORTEST:
            result.append(record)
    return result, lost


def read_prophages(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Record → the stretches of it in a table of find_prophages.py, 0-based, end excluded."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found[row["record"]].append((int(row["start"]) - 1, int(row["end"])))
    return dict(found)


def without(records: list[Record], stretches: dict[str, list[tuple[int, int]]]) -> tuple[list[Record], dict[str, int]]:
    """Records whose bases in the stretches became unknown, and how many bases of each category those are."""
    result, lost = [], Counter()
    for record in records:
        if record.id in stretches:
            codes = record.codes.copy()
            for start, end in stretches[record.id]:
                codes[start:end] = 4
            lost[record.category] += int((codes > 3).sum() - (record.codes > 3).sum())
            record = record._replace(codes=codes)
        if (record.codes < 4).sum() >= SHORTEST:
            result.append(record)
    return result, dict(lost)


def capped(records: list[Record]) -> list[Record]:
    """Of each viral group, records (or parts of such) of at most `MOST_BASES` together."""
    total: dict[str, int] = defaultdict(int)
    kept = []
    for record in records:
        codes = record.codes
        if record.category in VIRAL:
            codes = codes[: max(0, MOST_BASES - total[record.group])]
            total[record.group] += len(codes)
        if len(codes) >= SHORTEST:
            kept.append(record._replace(codes=codes))
    return kept


def save(path: Path, parts: dict[str, list[Record]], proteins: list[np.ndarray]) -> None:
    """Two bits a base, and a row a run of known bases; ``offset`` is where in its record it begins."""
    runs, names, category, group, part, offset = [], [], [], [], [], []
    groups = sorted({r.group for records in parts.values() for r in records})
    number = {name: i for i, name in enumerate(groups)}
    for name, records in parts.items():
        for record in records:
            for start, end in known_spans(record.codes, SHORTEST):
                runs.append(record.codes[start:end])
                offset.append(start)
                names.append(record.id)
                category.append(CATEGORIES.index(record.category))
                group.append(number[record.group])
                part.append(PARTS.index(name))
    bases = np.concatenate(runs)
    bases = np.concatenate([bases, np.zeros(-len(bases) % 4, np.uint8)]).reshape(-1, 4)
    np.savez(
        path,
        packed=bases[:, 0] | bases[:, 1] << 2 | bases[:, 2] << 4 | bases[:, 3] << 6,
        length=np.array(list(map(len, runs)), np.int32),
        offset=np.array(offset, np.int32),
        category=np.array(category, np.uint8),
        group=np.array(group, np.int32),
        part=np.array(part, np.uint8),
        proteins=np.concatenate(proteins),
        protein_length=np.array(list(map(len, proteins)), np.int32),
    )
    path.with_suffix(".json").write_text(json.dumps({"categories": CATEGORIES, "groups": groups, "records": names}))


def read_proteins(folder: Path) -> list[np.ndarray]:
    """Residue ids of all proteins of at least 30 known residues."""
    table = np.zeros(256, np.uint8)
    for letter, residue in RESIDUE_ID.items():
        table[ord(letter)] = residue
    found = []
    for file in ("viral.faa.gz", "cellular.faa.gz"):
        for _, text in read_fasta(folder / file):
            residues = table[np.frombuffer(text.upper().encode("ascii", "replace"), np.uint8)]
            if len(residues) >= 30 and (residues > 0).all():
                found.append(residues)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train2", "train", "proteins", "example", "corpus"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--without", type=Path, metavar="TABLE", help="of find_prophages.py: left out of what trains")
    args = parser.parse_args()
    genomes, seen, last = whole_genomes(args.train2)
    records = genomes + first_training_files(args.train)
    example = KmerSet(encode(text) for _, text in read_fasta(args.example))
    records, lost = cut(records, example)
    last, lost_last = cut(last, example)
    print(f"shared with the example: {lost + lost_last} bases", flush=True)
    part_of = divide(records, seen)
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for record in records:
        parts[part_of[record.group]].append(record)
    parts["last"] = last
    for held, lower in (("test", ("train", "dev", "last")), ("dev", ("train", "last"))):
        # Groups of TRAIN2 don't share so much among them; those of TRAIN may, with one another and with these.
        reference = {
            "TRAIN": KmerSet(r.codes for r in parts[held]),
            "TRAIN2": KmerSet(r.codes for r in parts[held] if not r.genome),
        }
        for part in lower:
            kept = []
            for record in parts[part]:
                known = reference["TRAIN2" if record.genome and part != "last" else "TRAIN"]
                if not record_shares(record, known):
                    kept.append(record)
            print(
                f"shared with {held}: {len(parts[part]) - len(kept)} of {len(parts[part])} records of {part}",
                flush=True,
            )
            parts[part] = kept
    stretches = read_prophages(args.without) if args.without else {}
    for part in ("train", "last"):
        parts[part], left_out = without(parts[part], stretches)
        print(f"what looks like a prophage, bases left out of {part}: {left_out or 'none'}", flush=True)
        parts[part] = capped(parts[part])
    if unused := len(stretches.keys() - {record.id for part in ("train", "last") for record in parts[part]}):
        print(f"{unused} records of {args.without} aren't in these parts, or are left out as a whole", flush=True)
    save(args.corpus, parts, read_proteins(args.proteins))
    for category in CATEGORIES:
        line = f"{category:18s}"
        for part in PARTS:
            members = [r for r in parts[part] if r.category == category]
            known = sum(int((r.codes < 4).sum()) for r in members)
            line += f"  {part} {len({r.group for r in members}):5d} groups {known / 1e6:6.2f} Mbp"
        print(line)


if __name__ == "__main__":
    main()
