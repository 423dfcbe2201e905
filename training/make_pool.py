"""Corpus → pools of tokenised open frames for training and evaluation (several processes)."""

import argparse
import multiprocessing
from pathlib import Path

import numpy as np
from chunks import EVALUATION_MIXTURE, MIXTURE, Corpus, Sampler, open_frames, windows
from sequences import encode, known_runs, read_fasta, residue_kmers, translate

PROTEIN_TOKENS, DNA_TOKENS = 168, 136  # longest kept; cls + 166 residues + eos fit exactly
PAD_PROTEIN, PAD_DNA = 1, 3
_shared = {}


def pack_frames(frames, tokenizer):
    """(protein tokens (n, 168) uint8, DNA tokens (n, 144) int16) of (frame, text, residues) rows."""
    protein = np.full((len(frames), PROTEIN_TOKENS), PAD_PROTEIN, np.uint8)
    dna = np.full((len(frames), DNA_TOKENS), PAD_DNA, np.int16)
    encodings = tokenizer.encode_batch_fast([text for _, text, _ in frames])
    for row, ((_, _, residues), encoding) in enumerate(zip(frames, encodings, strict=False)):
        protein[row, 0] = 0
        protein[row, 1 : 1 + len(residues)] = residues
        protein[row, 1 + len(residues)] = 2
        ids = encoding.ids[:DNA_TOKENS]
        dna[row, : len(ids)] = ids
    return protein, dna


def assemble(rows, tokenizer):
    """rows: (category, group, chunk number, codes) → dict of arrays, one row per open frame."""
    frames, category, group, chunk = [], [], [], []
    for c, g, number, codes in rows:
        for frame in open_frames(codes):
            frames.append(frame)
            category.append(c)
            group.append(g)
            chunk.append(number)
    protein, dna = pack_frames(frames, tokenizer)
    return {
        "protein": protein,
        "dna": dna,
        "category": np.array(category, np.uint8),
        "group": np.array(group, np.int32),
        "chunk": np.array(chunk, np.int32),
    }


def _work(task):
    splits, seed, first, count, options = task
    tokenizer, corpus = _shared["tokenizer"], _shared["corpus"]
    sampler = Sampler(corpus, splits, seed=seed, **options)
    return assemble([(*(draw := sampler.draw())[:2], first + i, draw[2]) for i in range(count)], tokenizer)


def make_pool(corpus, tokenizer, splits, chunks, seed, processes, **options):
    """A pool of `chunks` random chunks of these splits; the same seed gives the same pool."""
    _shared.update(corpus=corpus, tokenizer=tokenizer)
    size = min(5000, -(-chunks // processes))
    tasks = [(splits, (seed, i), i, min(size, chunks - i), options) for i in range(0, chunks, size)]
    if processes == 1:
        parts = [_work(t) for t in tasks]
    else:
        with multiprocessing.get_context("fork").Pool(processes) as workers:
            parts = workers.map(_work, tasks, chunksize=1)
    return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def fasta_pool(path, tokenizer, label_of, chunk=500):
    """Every pipeline chunk of a FASTA file; `label_of` maps a record's id to a category number."""
    rows, number = [], 0
    for record, (header, text) in enumerate(read_fasta(path)):
        codes = encode(text)
        for begin, stop in windows(len(codes), chunk):
            piece = codes[begin:stop]
            if len(known_runs(piece, len(piece))) == 1:
                rows.append((label_of[header.split()[0]], record, number, piece))
            number += 1
    return assemble(rows, tokenizer)


def mark_remote(pool, corpus, most=1):
    """Add `remote`: frames of chunks that share at most `most` protein 7-mers with the training split's viral genes."""
    seen = np.zeros(20**7, bool)
    for i in np.flatnonzero((corpus.category == 0) & (corpus.split == 0)):
        seen[residue_kmers(translate(corpus.record(i)), 7)] = True
    hits = np.array([seen[residue_kmers(row, 7)].sum() for row in pool["protein"]])
    worst = np.zeros(pool["chunk"].max() + 1, int)
    np.maximum.at(worst, pool["chunk"], hits)
    pool["remote"] = worst[pool["chunk"]] <= most


def load_tokenizer(path):
    import os

    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Tokenizer.from_file(str(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("pool", type=Path, help="output (.npz)")
    parser.add_argument("--splits", type=int, nargs="+", default=[0])
    parser.add_argument("--chunks", type=int, default=10000)
    parser.add_argument("--chunk-length", type=int, default=500)
    parser.add_argument("--recode", type=float, default=0.25)
    parser.add_argument(
        "--evaluation",
        action="store_true",
        help="another mixture, no recoding, and chunks unlike the viral training genes are marked",
    )
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    pool = make_pool(
        Corpus.load(args.corpus),
        load_tokenizer(args.tokenizer),
        tuple(args.splits),
        args.chunks,
        args.seed,
        args.processes,
        chunk=args.chunk_length,
        recode=0.0 if args.evaluation else args.recode,
        other=0.0 if args.evaluation else 0.1,
        mixture=EVALUATION_MIXTURE if args.evaluation else MIXTURE,
    )
    if args.evaluation:
        mark_remote(pool, Corpus.load(args.corpus))
    partial = args.pool.with_suffix(".partial.npz")
    np.savez(partial, **pool)
    partial.rename(args.pool)  # the pool appears when it is complete
    print(len(pool["chunk"]), "frames of", len(np.unique(pool["chunk"])), "chunks with an open frame of", args.chunks)


if __name__ == "__main__":
    main()
