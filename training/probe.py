"""How good a classifier on the vectors of a pair is: a quick one on training windows, measured on dev windows.

python probe.py corpus.npz tokenizer.json CHECKPOINT.pt FOLDER …
"""

import argparse
import multiprocessing
import os
from pathlib import Path

import numpy as np
import torch
from models import PREPARED, Pair, classifier
from train import dev_rows, two
from windows import MIXTURE, Corpus, Options, Windows

from virnucpro.classifier.weighted import auroc
from virnucpro.encoders.spec import read_spec


def load(path, device):
    """The pair of a checkpoint, or of a folder with prepared encoders, in eval mode."""
    if not path.is_dir():
        return Pair.read(path, device)
    specs = [read_spec(path / f"{name}.safetensors") for name in PREPARED]
    pair = Pair(dict(zip(("protein", "dna"), (spec.config for spec in specs), strict=True)))
    pair.start_from(path)
    return pair.to(device).eval()


@torch.no_grad()
def vectors(pair, rows, device):
    """(n, widths) float32 pooled vectors of rows by both encoders."""
    found = []
    for i in range(0, len(rows["viral"]), 4096):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            each = [
                learner(torch.from_numpy(rows[kind][i : i + 4096]).to(device).long())[1].float()
                for kind, learner in pair.encoders()
            ]
        found.append(torch.cat(each, 1))
    return torch.cat(found)


def _keep(*shared):
    """In each process: what all draws share, which is too large to be sent with each."""
    global _SHARED
    _SHARED = shared


def _draw(number):
    """Rows of 2,000 training windows; equal numbers give equal rows."""
    corpus, tokenizer, length = _SHARED
    options = Options(MIXTURE, mutated=0.2, recoded=0, lengths=((length, 1.0),))
    return Windows(corpus, options, (7, number)).draw(2000, tokenizer)


def fit(features, viral, device, epochs=8, batch=1024):
    """A classifier of the shape that `virnucpro train` makes."""
    mean, scale = features.mean(0), features.std(0) + 1e-6
    model = classifier(features.shape[1], 2, 512).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    for _epoch in range(epochs):
        for at in torch.randperm(len(viral), device=device).split(batch)[:-1]:
            loss = torch.nn.functional.cross_entropy(
                model((features[at] - mean) / scale), viral[at], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.7
    model.eval()
    return lambda x: torch.softmax(model((x - mean) / scale), 1)[:, 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("pairs", type=Path, nargs="+", help="checkpoints, or folders with prepared encoders")
    parser.add_argument("--windows", type=int, default=200_000)
    parser.add_argument("--dev", type=int, default=24_000, help="windows to measure with")
    parser.add_argument("--length", type=int, default=500)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    rows = dev_rows(args.corpus, 1, tokenizer, args.dev, args.length)
    corpus = Corpus(args.corpus, (0,))
    with multiprocessing.get_context("fork").Pool(args.processes, _keep, (corpus, tokenizer, args.length)) as pool:
        parts = pool.map(_draw, range(args.windows // 2000), chunksize=1)
    train = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    viral = torch.from_numpy(train["viral"].astype(np.int64)).to(device)
    truth, partial = rows["viral"], rows["partial"]
    for path in args.pairs:
        pair = load(path, device)
        x, y = (vectors(pair, part, device) for part in (train, rows))
        torch.manual_seed(0)
        scores = fit(x, viral, device)(y).detach().cpu().numpy()
        parts = {"all": partial | True, "frames": ~partial, "partial": partial}
        for c in np.unique(rows["category"]):
            of_kind = rows["category"] == c
            parts[corpus.categories[c]] = of_kind | (truth != truth[of_kind][0])
        found = (
            f"{name} {auroc(truth[kept], scores[kept], np.ones(kept.sum())):.4f}"
            for name, kept in parts.items()
            if two(truth[kept])
        )
        print(path.stem, args.length, *found, flush=True)


if __name__ == "__main__":
    main()
