"""Pretrain (masked tokens) and fine-tune (viral or not) one of the two encoders on windows drawn without end.

    python train.py plan.json STAGE … --corpus corpus.npz --tokenizer tokenizer.json --folder checkpoints

Runs stages of a JSON plan one after the other; each starts from the checkpoint of another (or at random), ends at its steps
or seconds, and writes a checkpoint of averaged weights. Other processes draw the windows. `dev` windows of groups that
nothing is trained on are measured on the way, and the averaged weights that do best on them are kept.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from models import DNA_MASK, DNA_PAD, PROTEIN_MASK, Learner
from windows import MIXTURE, NAMELESS, UNKNOWN, Corpus, Options, Windows

from virnucpro.classifier.weighted import auroc

DEFAULT = {
    "encoder": "protein",  # or dna
    "start": None,  # a stage whose averaged weights are taken
    "steps": 100_000,
    "seconds": 120,
    "batch": 2048,
    "lr": 1.5e-3,
    "final_lr": 0.02,
    "warmup": 200,
    "weight_decay": 0.1,
    "ema": 0.999,
    "seed": 0,
    "parts": [0],
    "classify": True,
    "proteins": 0.0,  # share of a pretraining batch that are whole proteins
    "masked": 0.25,  # weight of the masked tokens
    "masked_rows": 0.25,
    "mask_rate": 0.15,
    "light_mask": 0.05,  # of the other rows
    "category": 0.3,
    "noise": 0.1,  # most residues that are replaced by similar ones
    "label_smoothing": 0.05,
    "dropout": 0.1,
    "head_dropout": 0.5,
    "evaluate_every": 500,
    "windows": {},  # see windows.Options
}

# BLOSUM62, rows and columns in BLOSUM_ORDER: where conservative substitutions go.
BLOSUM_ORDER = "ARNDCQEGHILKMFPSTWYV"
BLOSUM62 = """4 -1 -2 -2 0 -1 -1 0 -2 -1 -1 -1 -1 -2 -1 1 0 -3 -2 0
-1 5 0 -2 -3 1 0 -2 0 -3 -2 2 -1 -3 -2 -1 -1 -3 -2 -3
-2 0 6 1 -3 0 0 0 1 -3 -3 0 -2 -3 -2 1 0 -4 -2 -3
-2 -2 1 6 -3 0 2 -1 -1 -3 -4 -1 -3 -3 -1 0 -1 -4 -3 -3
0 -3 -3 -3 9 -3 -4 -3 -3 -1 -1 -3 -1 -2 -3 -1 -1 -2 -2 -1
-1 1 0 0 -3 5 2 -2 0 -3 -2 1 0 -3 -1 0 -1 -2 -1 -2
-1 0 0 2 -4 2 5 -2 0 -3 -3 1 -2 -3 -1 0 -1 -3 -2 -2
0 -2 0 -1 -3 -2 -2 6 -2 -4 -4 -2 -3 -3 -2 0 -2 -2 -3 -3
-2 0 1 -1 -3 0 0 -2 8 -3 -3 -1 -2 -1 -2 -1 -2 -2 2 -3
-1 -3 -3 -3 -1 -3 -3 -4 -3 4 2 -3 1 0 -3 -2 -1 -3 -1 3
-1 -2 -3 -4 -1 -2 -3 -4 -3 2 4 -2 2 0 -3 -2 -1 -2 -1 1
-1 2 0 -1 -3 1 1 -2 -1 -3 -2 5 -1 -3 -1 0 -1 -3 -2 -2
-1 -1 -2 -3 -1 0 -2 -3 -2 1 2 -1 5 0 -2 -1 -1 -1 -1 1
-2 -3 -3 -3 -2 -3 -3 -3 -1 0 0 -3 0 6 -4 -2 -2 1 3 -1
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4 7 -1 -1 -4 -3 -2
1 -1 1 0 -1 0 0 0 -1 -2 -2 0 -1 -2 -1 4 1 -3 -2 -2
0 -1 0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1 1 5 -2 -2 0
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1 1 -4 -3 -2 11 2 -3
-2 -2 -2 -3 -2 -1 -2 -3 2 -1 -1 -2 -1 3 -3 -2 -2 2 7 -1
0 -3 -3 -3 -1 -2 -2 -3 -3 3 1 -2 1 -1 -2 -2 0 -3 -1 4"""


def substitution_table(device) -> torch.Tensor:
    """Cumulative probabilities (33, 20) of the residue that replaces a token, in the order of ESM-2's ids 4..23."""
    score = torch.tensor([[float(x) for x in row.split()] for row in BLOSUM62.splitlines()])
    order = [BLOSUM_ORDER.index(a) for a in "LAGVSERTIDPKQNFYMHWC"]
    weight = torch.exp2(score[order][:, order] / 2).fill_diagonal_(0)
    table = torch.full((33, 20), 0.05)
    table[4:24] = weight / weight.sum(1, keepdim=True)
    return table.cumsum(1).to(device)


class Augment:
    """Conservative substitutions and masks, on the device."""

    def __init__(self, o, vocabulary, device):
        self.o, self.vocabulary, self.table = o, vocabulary, substitution_table(device)

    def mask(self, tokens, eligible, mask_id, rate, random_ids):
        """BERT's: 80 % mask, 10 % random, 10 % kept. Returns tokens and chosen positions."""
        chosen = (torch.rand(tokens.shape, device=tokens.device) < rate) & eligible
        kind = torch.rand(tokens.shape, device=tokens.device)
        other = torch.randint(*random_ids, tokens.shape, device=tokens.device)
        result = torch.where(chosen & (kind < 0.8), mask_id, tokens)
        return torch.where(chosen & (kind >= 0.9), other, result), chosen

    def __call__(self, tokens):
        """(tokens, their targets, positions of the masked-token objective)."""
        o, b, clean = self.o, len(tokens), tokens
        protein = o["encoder"] == "protein"
        if protein:
            eligible = (tokens > 3) & (tokens < 24)
            if o["noise"]:
                rate = torch.rand(b, 1, device=tokens.device) * o["noise"]
                hit = eligible & (torch.rand(tokens.shape, device=tokens.device) < rate)
                draw = torch.rand(tokens.shape, device=tokens.device)[..., None]
                new = (self.table[tokens] < draw).sum(-1).clamp(max=19) + 4
                tokens = torch.where(hit, new, tokens)
        else:
            eligible = (tokens > 4) & (tokens != DNA_PAD)
        rows = torch.arange(b, device=tokens.device)[:, None] < (o["masked_rows"] * b if o["classify"] else b)
        rate = torch.where(rows, o["mask_rate"], o["light_mask"])
        ids = (PROTEIN_MASK, rate, (4, 24)) if protein else (DNA_MASK, rate, (5, self.vocabulary))
        tokens, at = self.mask(tokens, eligible, *ids)
        return tokens, clean, at & rows


def losses(learner, forward, augment, batch, o):
    """Weighted sum of the objectives, and each for the log."""
    tokens, viral, category = batch
    tokens, target, at = augment(tokens)
    hidden, vector = forward(tokens, o["dropout"])
    total, log = torch.zeros((), device=tokens.device), {}
    if o["masked"] or not o["classify"]:
        few = int(o["masked_rows"] * len(at)) if o["classify"] else len(at)
        at = at[:few]
        logits = learner.masked(hidden[:few][at], learner.encoder.embed_tokens).float()
        log["masked"] = F.cross_entropy(logits, target[:few][at])
        total = total + (o["masked"] if o["classify"] else 1.0) * log["masked"]
    if o["classify"]:
        smooth = o["label_smoothing"]
        log["viral"] = F.cross_entropy(learner.viral(vector).float(), viral, label_smoothing=smooth)
        log["category"] = F.cross_entropy(
            learner.category(vector).float(), category, label_smoothing=smooth, ignore_index=UNKNOWN
        )
        total = total + log["viral"] + o["category"] * log["category"]
    return total, log


def _produce(corpus, tokenizer, o, seed, queue):
    """A process that puts (tokens, viral, category) of drawn windows into the queue, for ever."""
    drawer = Windows(corpus, Options(**{"mixture": MIXTURE, **o["windows"]}), seed)
    protein = o["encoder"] == "protein"
    while True:
        rows = drawer.draw(512, None if protein else tokenizer, protein)
        tokens, viral, category = rows[o["encoder"]], rows["viral"], rows["category"]
        if protein and o["proteins"]:
            extra = drawer.draw_proteins(int(512 * o["proteins"]))
            tokens = np.concatenate([tokens, extra])
            viral, category = np.pad(viral, (0, len(extra))), np.pad(category, (0, len(extra)))
        queue.put((tokens, viral.astype(np.int64), category.astype(np.int64)))


def batches(queue, o, device):
    """Batches of equal size from what the processes draw."""
    held = []
    while True:
        while sum(len(part[0]) for part in held) < o["batch"]:
            held.append(queue.get())
        joined = [np.concatenate(column) for column in zip(*held, strict=True)]
        held = [tuple(column[o["batch"] :] for column in joined)]
        yield tuple(torch.from_numpy(column[: o["batch"]]).to(device).long() for column in joined)


def dev_rows(corpus_path, part, tokenizer, count, seed=5):
    """Rows of windows of 500 of a part, every named category alike in its class."""
    corpus = Corpus(corpus_path, (part,))
    named = [name for name in MIXTURE if name not in NAMELESS]
    classes = [[n for n in named if n.startswith("viral") == viral] for viral in (True, False)]
    mixture = {name: 0.5 / len(members) for members in classes for name in members}
    drawer = Windows(corpus, Options(mixture, made=0, mutated=0, recoded=0, lengths=((500, 1.0),)), seed)
    return drawer.draw(count, tokenizer)


@torch.no_grad()
def evaluate(learner, rows, o, device):
    """AUROC of the learner's own head over dev rows: all, of frames, of stretches."""
    learner.eval()
    scores = []
    for i in range(0, len(rows["viral"]), 2048):
        tokens = torch.from_numpy(rows[o["encoder"]][i : i + 2048]).to(device).long()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            scores.append(torch.softmax(learner.viral(learner(tokens)[1]).float(), 1)[:, 1])
    learner.train()
    scores = torch.cat(scores).cpu().numpy()
    viral, partial = rows["viral"], rows["partial"]
    parts = {"all": np.ones(len(viral), bool), "frames": ~partial, "partial": partial}
    category = rows["category"]
    others = [c for c in np.unique(category) if not viral[category == c].any()]
    found, kinds = (
        {
            name: auroc(viral[kept], scores[kept], np.ones(kept.sum()))
            for name, kept in kept_of.items()
            if two(viral[kept])
        }
        for kept_of in (parts, {int(c): viral | (category == c) for c in others})
    )
    return found, kinds


def two(viral):
    """Whether both classes are there."""
    return 0 < viral.sum() < len(viral)


def run_stage(name, o, learner, queue, rows, device, folder):
    """Train in place; writes the averaged weights that did best on the dev rows (of a pretraining: the last)."""
    torch.manual_seed(o["seed"])
    cuda = device.type == "cuda"
    decay = [p for p in learner.parameters() if p.ndim > 1]
    plain = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": o["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=(0.9, 0.98), fused=cuda)
    average = {k: v.detach().clone() for k, v in learner.state_dict().items()}
    floats = [k for k in average if average[k].is_floating_point()]
    augment = Augment(o, learner.config.get("vocabulary", 33), device)
    forward = torch.compile(learner) if cuda else learner
    source = batches(queue, o, device)
    learner.train()
    begin, sums, counted, best, history = time.time(), {}, 0, (0.0, 0, None), []
    for step in range(o["steps"]):
        part = max(step / o["steps"], (time.time() - begin) / o["seconds"])
        cosine = o["final_lr"] + (1 - o["final_lr"]) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = o["lr"] * min(1.0, (step + 1) / o["warmup"]) * cosine
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cuda):
            loss, log = losses(learner, forward, augment, next(source), o)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            state, momentum = learner.state_dict(), min(o["ema"], step / (step + 20))
            torch._foreach_lerp_([average[k] for k in floats], [state[k] for k in floats], 1 - momentum)
        for key, value in log.items():
            sums[key] = sums.get(key, 0) + value.detach()
        counted += 1
        last = step + 1 == o["steps"] or time.time() - begin > o["seconds"]
        if last or (step + 1) % o["evaluate_every"] == 0:
            seconds = time.time() - begin
            text = " ".join(f"{k} {float(v) / counted:.4f}" for k, v in sums.items())
            text = f"{name} step {step + 1} {seconds:.0f} s {(step + 1) * o['batch'] / seconds:.0f} rows/s {text}"
            sums, counted = {}, 0
            if o["classify"]:
                kept = {k: v.clone() for k, v in learner.state_dict().items()}
                learner.load_state_dict(average)
                found, kinds = evaluate(learner, rows, o, device)
                learner.load_state_dict(kept)
                text += " | dev " + " ".join(f"{k} {v:.4f}" for k, v in found.items())
                if found["all"] > best[0]:
                    best = found["all"], step + 1, {k: v.clone() for k, v in average.items()}
                    text += " *"
                if last:
                    text += " | " + " ".join(f"{k}:{v:.3f}" for k, v in kinds.items())
                history.append({"step": step + 1, **found})
            print(text, flush=True)
        if last:
            break
    weights = {k: v.half() if v.is_floating_point() else v for k, v in (best[2] or average).items()}
    last_weights = {k: v.half() if v.is_floating_point() else v for k, v in average.items()}
    made = {"model": weights, "last": last_weights, "best": best[:2], "steps": step + 1, "options": o}
    torch.save({**made, "config": learner.config, "history": history}, folder / f"{name}.pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help='JSON: {"protein": {…}, "dna": {…}, "stages": {NAME: {…}}}')
    parser.add_argument("stages", nargs="+")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--dev", type=int, default=24_000, help="windows to measure with")
    args = parser.parse_args()
    plan = json.loads(args.plan.read_text())
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    torch.set_float32_matmul_precision("high")
    args.folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")  # the corpus is shared, not copied
    corpora, rows = {}, None
    stages = {name: {**DEFAULT, **plan["stages"][name]} for name in args.stages}
    if any(o["classify"] for o in stages.values()):
        rows = dev_rows(args.corpus, 1, tokenizer, args.dev)
        print(f"{len(rows['viral'])} dev rows, {rows['viral'].mean():.2f} viral, {rows['partial'].mean():.2f} partial")
    producers = {}
    for name, o in stages.items():  # all are started before CUDA is
        parts = tuple(o["parts"])
        corpora[parts] = corpora.get(parts) or Corpus(args.corpus, parts)
        queue = context.Queue(args.workers * 4)
        producers[name] = (
            queue,
            [
                context.Process(
                    target=_produce, args=(corpora[parts], tokenizer, o, (o["seed"], i), queue), daemon=True
                )
                for i in range(args.workers)
            ],
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, o in stages.items():
        queue, processes = producers[name]
        for process in processes:
            process.start()
        torch.manual_seed(plan.get("seed", 0))
        shape = {**plan[o["encoder"]], **o.get("shape", {})}
        learner = Learner(o["encoder"], shape, len(MIXTURE) + 1, o["head_dropout"]).to(device)
        if o["start"]:
            before = torch.load(args.folder / f"{o['start']}.pt", map_location=device)
            learner.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in before["model"].items()})
        run_stage(name, o, learner, queue, rows, device, args.folder)
        for process in processes:
            process.kill()


if __name__ == "__main__":
    main()
