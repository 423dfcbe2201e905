"""What looks like a prophage in the hosts of a corpus, told by classifiers that learned nothing from the host's group.

    python find_prophages.py corpus.npz PROTEIN.safetensors DNA.safetensors prophages.tsv
    python find_prophages.py corpus.npz PROTEIN.safetensors DNA.safetensors RESULTS/regions.tsv --fasta implants.fa

Bacteria, archaea and plasmids of the training part are cut into chunks as the workflow cuts them, their groups divided into two
folds. Quick classifiers on the encoders' vectors tell windows of viruses from the chunks of one fold, and score those of the
other; where a group as a whole looks more viral than others do, that much is taken off. The hidden Markov model of regions then
finds runs of chunks that look viral, in bacteria and archaea. Only viruses and hosts of the training part are used, so `dev` and
`test` stay unseen; the encoders should not have been trained with these hosts as negatives either. `make_corpus.py --without
prophages.tsv` leaves the stretches out.

With --fasta, records of that file are judged instead, each as a group, by both folds' classifiers together: with implants of the
dev part (make_implants.py), `measure_regions.py RESULTS truth.tsv` says how many are found.
"""

import argparse
import csv
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from make_corpus import PARTS, PROPHAGE_COLUMNS
from probe import fit
from sequences import decode, read_fasta
from windows import Corpus, Options, Windows

from virnucpro.classifier.region_measures import Region, find_regions
from virnucpro.classifier.region_model import DEFAULT
from virnucpro.encoders.embed import embed
from virnucpro.encoders.loading import load_encoder
from virnucpro.sequences.chunks import chunk_table
from virnucpro.sequences.frames import stop_free_frames

LENGTH = 500
HOSTS = ("bacteria", "archaea")
NEGATIVES = (*HOSTS, "plasmid")  # plasmids stay whole: what looked viral was of one group alone
VIRUSES = {"viral_phage": 0.75, "viral_other": 0.1, "viral_marker": 0.15}
REGIONS = replace(DEFAULT, viral=0.02, frame=1.0, partial=1.0)
LOWER = 1 / 3
FEWEST_CHUNKS, LOWEST_MEAN = 6, 0.9


@dataclass
class Chunks:
    """The n chunks of some sequences that have a frame or a stretch, one frame each; ``start`` and ``end`` 0-based, the latter excluded."""

    sequence: np.ndarray  # index of the sequence
    start: np.ndarray
    end: np.ndarray
    partial: np.ndarray
    vectors: torch.Tensor  # (n, width of both encoders)


def embed_chunks(sequences: list[bytes], encoders: list, device: torch.device) -> Chunks:
    """Chunks of sequences, with the vectors of their first stop-free frame, or of their longest stretch."""
    table = chunk_table(np.array([len(text) for text in sequences]), LENGTH)
    before = np.searchsorted(table.record, np.arange(len(sequences)))  # chunks of earlier sequences
    at, partial, proteins, nucleotides = [], [], [], []
    for batch in stop_free_frames(sequences, LENGTH):
        for frames in (batch.frames, batch.partial):
            number, first = np.unique(before[frames.record] + frames.chunk, return_index=True)
            at += number.tolist()
            partial += [frames is batch.partial] * len(first)
            proteins += [frames.proteins[i] for i in first]
            nucleotides += [frames.nucleotides[i] for i in first]
    names = list(map(str, at))
    found = [
        embed(encoder, names, texts).vectors for encoder, texts in zip(encoders, (proteins, nucleotides), strict=True)
    ]
    order = np.argsort(at)
    at = np.array(at)[order]
    start = table.start[at]
    vectors = torch.from_numpy(np.concatenate(found, 1)[order]).to(device)
    return Chunks(table.record[at], start, start + table.length[at], np.array(partial)[order], vectors)


def learn(viral: torch.Tensor, hosts: torch.Tensor, seed: int):
    """Vectors (n, width) → log of the likelihood ratio (n,), by what was learned from chunks of viruses and of hosts."""
    torch.manual_seed(seed)
    truth = torch.cat([torch.ones(len(viral)), torch.zeros(len(hosts))]).long().to(viral.device)
    score = fit(torch.cat([viral, hosts]), truth, viral.device)
    odds = len(viral) / len(hosts)
    return lambda vectors: torch.logit(score(vectors).detach()).cpu().numpy() - np.log(odds)


def prophages(chunks: Chunks, logits: np.ndarray) -> list[tuple[int, Region, int]]:
    """(index of the sequence, region, its chunks) of the runs of chunks that look viral."""
    found = []
    for at in np.split(np.arange(len(logits)), np.flatnonzero(np.diff(chunks.sequence)) + 1):
        for region in find_regions(REGIONS, chunks.start[at], chunks.end[at], logits[at], chunks.partial[at]):
            count = int(((chunks.start[at] >= region.start) & (chunks.end[at] <= region.end)).sum())
            if count >= FEWEST_CHUNKS and region.mean >= LOWEST_MEAN:
                found.append((int(chunks.sequence[at[0]]), region, count))
    return found


def relative(logits: np.ndarray, groups: np.ndarray, usual: float) -> np.ndarray:
    """Logits less what the lower third of their group's are above the usual: whole genomes look viral by their composition."""
    result = logits.copy()
    for group in np.unique(groups):
        inside = groups == group
        result[inside] -= max(0.0, np.quantile(logits[inside], LOWER) - usual)
    return result


def fold(group: str) -> int:
    return hashlib.sha256(f"prophages {group}".encode()).digest()[0] % 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "protein", "dna", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--fasta", type=Path, help="judge the records of this file instead")
    parser.add_argument("--windows", type=int, default=30_000, help="of viruses, to learn from")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    encoders = [load_encoder(path, device, dtype) for path in (args.protein, args.dna)]
    corpus = Corpus(args.corpus, (PARTS.index("train"),))
    windows, sizes, _ = Windows(corpus, Options(VIRUSES), 11).codes(args.windows, LENGTH)
    viruses = [decode(codes[:size]).encode() for codes, size in zip(windows, sizes, strict=True)]
    viral = embed_chunks(viruses, encoders, device).vectors
    rows = np.flatnonzero(np.isin(corpus.category, [corpus.categories.index(name) for name in NEGATIVES]))
    texts = [decode(corpus.bases[corpus.start[row] :][: corpus.length[row]]).encode() for row in rows]
    chunks = embed_chunks(texts, encoders, device)
    folds = np.array([fold(corpus.groups[corpus.group[row]]) for row in rows])[chunks.sequence]
    one, other = (learn(viral, chunks.vectors[folds != number], number) for number in range(2))
    logits = np.where(folds == 0, one(chunks.vectors), other(chunks.vectors))
    usual = float(np.quantile(logits, LOWER))
    logits = relative(logits, corpus.group[rows][chunks.sequence], usual)
    found = [each for each in prophages(chunks, logits) if corpus.categories[corpus.category[rows[each[0]]]] in HOSTS]
    names, first = [corpus.names[row] for row in rows], corpus.offset[rows]
    if args.fasta:
        records = list(read_fasta(args.fasta))
        names, first = [header.split()[0] for header, _ in records], np.zeros(len(records), int)
        chunks = embed_chunks([text.encode() for _, text in records], encoders, device)
        logits = (one(chunks.vectors) + other(chunks.vectors)) / 2
        found = prophages(chunks, relative(logits, chunks.sequence, usual))
    with args.output.open("w", newline="") as table:
        writer = csv.writer(table, delimiter="\t", lineterminator="\n")
        writer.writerow(PROPHAGE_COLUMNS)
        for number, region, count in found:
            place = first[number] + region.start + 1, first[number] + region.end
            writer.writerow((names[number], *place, f"{region.mean:.4f}", count))
    if not args.fasta:
        for name in HOSTS:
            of_kind = corpus.category[rows] == corpus.categories.index(name)
            sizes = [region.end - region.start for number, region, _ in found if of_kind[number]]
            total = int(corpus.length[rows][of_kind].sum())
            print(f"{name}: {len(sizes)} stretches, {sum(sizes)} of {total} bases ({sum(sizes) / max(total, 1):.2%})")


if __name__ == "__main__":
    main()
