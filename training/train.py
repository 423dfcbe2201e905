"""Pretrain (masked tokens) and fine-tune (viral or not) both encoders on the same windows, drawn without end.

    python train.py plan.json STAGE … --corpus corpus.npz --tokenizer tokenizer.json --folder checkpoints

Runs stages of a JSON plan one after the other; each starts from the checkpoint of another (or from prepared files, or at
random), ends at its steps or seconds, and writes a checkpoint of averaged weights. Other processes draw the windows. `dev`
windows of groups that nothing is trained on are measured on the way, and the averaged weights that do best on them are kept.
With a teacher, the heads learn what it says of the windows as they are, as well as what they are.
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
from augment import Augment
from models import HEADS, Pair
from windows import MIXTURE, NAMELESS, UNKNOWN, Corpus, Options, Windows

from virnucpro.classifier.weighted import auroc

DEFAULT = {
    "start": None,  # a stage whose averaged weights are taken, or a folder with prepared encoders
    "teacher": None,  # a stage, or "self": the averaged weights
    "distil": 0.5,  # the teacher's share of the targets
    "steps": 100_000,
    "seconds": 120,
    "batch": 2048,
    "lr": 1.2e-3,
    "final_lr": 0.02,
    "warmup": 200,
    "ema": 0.999,
    "seed": 0,
    "parts": [0],
    "classify": True,
    "proteins": 0.0,  # whole proteins in a pretraining batch, as a share of its windows
    "masked": 0.25,  # weight of the masked tokens
    "masked_rows": 0.25,
    "category": 0.3,
    "label_smoothing": 0.05,
    "head_dropout": 0.5,
    "evaluate_every": 500,
    "windows": {},  # see windows.Options
}
ENCODER = {  # of each encoder; a stage's "protein" and "dna" replace some
    "lr": 1.0,  # times the stage's
    "weight_decay": 0.1,
    "mask_rate": 0.15,
    "light_mask": 0.05,  # of the other rows
    "noise": 0.1,  # most residues that are replaced by similar ones
    "dropout": 0.1,
}


def losses(pair, forwards, augment, batch, teacher, o):
    """Weighted sum of the objectives, and each for the log."""
    total, log, vectors = 0.0, {}, {}
    targets = None if teacher is None or not o["classify"] else teacher(batch)
    for kind, learner in pair.encoders():
        tokens, target, at = augment[kind](batch[kind])
        hidden, vectors[kind] = forwards[kind](tokens, o[kind]["dropout"])
        few = math.ceil(augment[kind].masked * len(at))
        at = at[:few]
        logits = learner.masked(hidden[:few][at], learner.encoder.embed_tokens).float()
        log[f"{kind} masked"] = F.cross_entropy(logits, target[:few][at])
        total = total + (o["masked"] if o["classify"] else 1.0) * log[f"{kind} masked"]
    if o["classify"]:
        smooth, viral = o["label_smoothing"], F.one_hot(batch["viral"], 2).float()
        viral = viral * (1 - smooth) + smooth / 2
        if targets is not None:
            viral = torch.lerp(viral, targets, o["distil"])
        for head, logits in pair.heads(vectors).items():
            log[head] = F.cross_entropy(logits.float(), viral)
            total = total + log[head]
        for kind, learner in pair.encoders():
            named = learner.category(vectors[kind]).float()
            loss = F.cross_entropy(named, batch["category"], label_smoothing=smooth, ignore_index=UNKNOWN)
            log[f"{kind} category"] = loss
            total = total + o["category"] * loss
    return total, log


class Teacher:
    """What a pair's heads say of windows as they are, on average: (b, 2) probabilities."""

    def __init__(self, pair):
        self.pair = pair.eval().requires_grad_(False)
        cuda = next(pair.parameters()).is_cuda
        self.forwards = {kind: torch.compile(each) if cuda else each for kind, each in pair.encoders()}

    @torch.no_grad()
    def __call__(self, batch):
        vectors = {kind: self.forwards[kind](batch[kind])[1] for kind, _ in self.pair.encoders()}
        logits = self.pair.heads(vectors).values()
        return torch.stack([torch.softmax(each.float(), 1) for each in logits]).mean(0)


def _produce(corpus, tokenizer, o, seed, queue):
    """A process that puts rows of drawn windows into the queue, for ever."""
    drawer = Windows(corpus, Options(**{"mixture": MIXTURE, **o["windows"]}), seed)
    while True:
        rows = drawer.draw(512, tokenizer)
        made = {name: rows[name] for name in ("protein", "dna")}
        made |= {name: rows[name].astype(np.int64) for name in ("viral", "category")}
        if o["proteins"]:
            made["extra"] = drawer.draw_proteins(len(made["viral"]))
        queue.put(made)


def batches(queue, o, device):
    """Batches of equal size from what the processes draw."""
    held = []
    while True:
        while sum(len(part["viral"]) for part in held) < o["batch"]:
            held.append(queue.get())
        joined = {name: np.concatenate([part[name] for part in held]) for name in held[0]}
        held = [{name: column[o["batch"] :] for name, column in joined.items()}]
        batch = {name: torch.from_numpy(column[: o["batch"]]).to(device).long() for name, column in joined.items()}
        if "extra" in batch:
            batch["protein"] = torch.cat([batch["protein"], batch.pop("extra")[: int(o["batch"] * o["proteins"])]])
        yield batch


def dev_rows(corpus_path, part, tokenizer, count, length=500, seed=5):
    """Rows of windows of a part, every named category alike in its class."""
    corpus = Corpus(corpus_path, (part,))
    named = [name for name in MIXTURE if name not in NAMELESS]
    classes = [[n for n in named if n.startswith("viral") == viral] for viral in (True, False)]
    mixture = {name: 0.5 / len(members) for members in classes for name in members}
    drawer = Windows(corpus, Options(mixture, made=0, mutated=0, recoded=0, lengths=((length, 1.0),)), seed)
    return drawer.draw(count, tokenizer)


@torch.no_grad()
def evaluate(pair, rows, device):
    """AUROC over dev rows: of each head over all, frames, stretches; of the joint head against each kind of others."""
    pair.eval()
    scores = {name: [] for name in HEADS}
    for i in range(0, len(rows["viral"]), 2048):
        tokens = {kind: torch.from_numpy(rows[kind][i : i + 2048]).to(device).long() for kind, _ in pair.encoders()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            vectors = {kind: learner(tokens[kind])[1] for kind, learner in pair.encoders()}
            for name, logits in pair.heads(vectors).items():
                scores[name].append(torch.softmax(logits.float(), 1)[:, 1])
    pair.train()
    scores = {name: torch.cat(each).cpu().numpy() for name, each in scores.items()}
    viral, partial, category = rows["viral"], rows["partial"], rows["category"]
    parts = {"all": np.ones(len(viral), bool), "frames": ~partial, "partial": partial}
    others = [c for c in np.unique(category) if not viral[category == c].any()]
    kinds = {int(c): viral | (category == c) for c in others}

    def measured(name, kept):
        return auroc(viral[kept], scores[name][kept], np.ones(kept.sum())) if two(viral[kept]) else math.nan

    found = {name: {part: measured(name, kept) for part, kept in parts.items()} for name in HEADS}
    return found, {c: measured("joint", kept) for c, kept in kinds.items()}


def two(viral):
    """Whether both classes are there."""
    return 0 < viral.sum() < len(viral)


def optimizer_of(pair, o):
    """AdamW with each encoder's decay and rate, none for vectors. Heads have no warm-up: they may be new where encoders aren't."""
    groups = []
    for kind, learner in pair.encoders():
        inner = list(learner.encoder.parameters())
        shared = {id(p) for p in inner}
        heads = [p for p in learner.parameters() if id(p) not in shared]
        for parts, warmup in ((inner, o["warmup"]), (heads, 1)):
            for decay, wanted in ((o[kind]["weight_decay"], True), (0.0, False)):
                chosen = [p for p in parts if (p.ndim > 1) == wanted]
                groups.append(
                    {"params": chosen, "weight_decay": decay, "rate": o["lr"] * o[kind]["lr"], "warmup": warmup}
                )
    groups.append({"params": list(pair.joint.parameters()), "weight_decay": 0.1, "rate": o["lr"], "warmup": 1})
    return torch.optim.AdamW(groups, lr=o["lr"], betas=(0.9, 0.98), fused=next(pair.parameters()).is_cuda)


def halves(state):
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def run_stage(name, o, pair, teacher, queue, rows, device, folder):
    """Train in place; writes the averaged weights that did best on the dev rows (of a pretraining: the last)."""
    torch.manual_seed(o["seed"])
    cuda = device.type == "cuda"
    optimizer = optimizer_of(pair, o)
    average = {k: v.detach().clone() for k, v in pair.state_dict().items()}
    floats = [k for k in average if average[k].is_floating_point()]
    masked = o["masked_rows"] if o["classify"] else 1.0
    augment = {
        kind: Augment(kind, o[kind], masked, each.config.get("vocabulary", 33), device)
        for kind, each in pair.encoders()
    }
    forwards = {kind: torch.compile(each) if cuda else each for kind, each in pair.encoders()}
    if o["teacher"] == "self":
        own = Pair(pair.plan, o["head_dropout"]).to(device)
        own.load_state_dict(average)
        average = own.state_dict()  # the same tensors
        teacher = Teacher(own)
    source = batches(queue, o, device)
    pair.train()
    begin, sums, counted, best, history = time.time(), {}, 0, (0.0, 0, None), []
    for step in range(o["steps"]):
        part = max(step / o["steps"], (time.time() - begin) / o["seconds"])
        cosine = o["final_lr"] + (1 - o["final_lr"]) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (step + 1) / group["warmup"]) * cosine
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cuda):
            loss, log = losses(pair, forwards, augment, next(source), teacher, o)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pair.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            state, momentum = pair.state_dict(), min(o["ema"], step / (step + 20))
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
                kept = {k: v.clone() for k, v in pair.state_dict().items()}
                pair.load_state_dict(average)
                found, kinds = evaluate(pair, rows, device)
                pair.load_state_dict(kept)
                text += " | dev " + ", ".join(
                    f"{head} " + " ".join(f"{v:.4f}" for v in parts.values()) for head, parts in found.items()
                )
                if found["joint"]["all"] > best[0]:
                    best = found["joint"]["all"], step + 1, {k: v.clone() for k, v in average.items()}
                    text += " *"
                if last:
                    text += " | " + " ".join(f"{k}:{v:.3f}" for k, v in kinds.items())
                history.append({"step": step + 1, **found})
            print(text, flush=True)
        if last:
            break
    made = {"model": halves(best[2] or average), "last": halves(average), "best": best[:2], "steps": step + 1}
    torch.save({**made, "options": o, "plan": pair.plan, "history": history}, folder / f"{name}.pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "plan", type=Path, help='JSON: {"pairs": {NAME: {"protein": {…}, "dna": {…}}}, "stages": {NAME: {…}}}'
    )
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
    for o in stages.values():
        o |= {kind: {**ENCODER, **o.get(kind, {})} for kind in ("protein", "dna")}
        if o["proteins"] and o["classify"]:
            parser.error("proteins are for stages with classify: false, as they have no windows to classify")
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
        torch.manual_seed(o["seed"])
        pair = Pair(plan["pairs"][o["pair"]], o["head_dropout"]).to(device)
        if o["start"]:
            pair.start_from(args.folder / f"{o['start']}.pt" if "/" not in o["start"] else Path(o["start"]))
        teacher = None
        if o["teacher"] not in (None, "self"):
            teacher = Teacher(Pair.read(args.folder / f"{o['teacher']}.pt", device))
        run_stage(name, o, pair, teacher, queue, rows, device, args.folder)
        for process in processes:
            process.kill()


if __name__ == "__main__":
    main()
