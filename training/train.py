"""Pretrain (masked tokens) and fine-tune (viral or not) the pair of encoders on pools of frames.

One call runs one or several stages from a JSON plan; each stage starts from a checkpoint (or at random), stops at
its step or time limit, and writes a checkpoint with optimiser state, so that a run can go on in pieces.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from evaluate import report
from models import DNA_MASK, DNA_PAD, PROTEIN_MASK, Pair

VIRAL = 0
DEFAULT = {
    "steps": 2000,
    "seconds": 600,
    "batch": 2048,
    "lr": 1.5e-3,
    "warmup": 200,
    "weight_decay": 0.05,
    "seed": 0,
    "classify": True,
    "masked": 0.25,
    "only": 1.0,
    "both": 1.0,
    "category": 0.2,
    "noise": 0.15,
    "mask_rate": 0.15,
    "ema": 0.999,
    "evaluate_every": 0,
    "label_smoothing": 0.05,
    "head_dropout": 0.5,
    "start": None,
    "resume": False,
    "encoder": "both",
    "final_lr": 0.02,
    "drop_modality": 0.2,
    "timed": False,
    "dropout": 0.0,
    "pool": 0,
    "masked_rows": 0.25,
    "light_mask": 0.02,
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
    """Conservative substitutions and masking of a batch of tokens, on the GPU."""

    def __init__(self, options, vocabulary, device):
        self.o, self.vocabulary, self.table = options, vocabulary, substitution_table(device)

    def mask(self, tokens, first_real, mask_id, rate, random_high):
        """BERT masking: 80 % mask, 10 % random, 10 % kept. Returns (tokens, chosen positions)."""
        chosen = (torch.rand(tokens.shape, device=tokens.device) < rate) & first_real
        kind = torch.rand(tokens.shape, device=tokens.device)
        noise = torch.randint(random_high[0], random_high[1], tokens.shape, device=tokens.device)
        result = torch.where(chosen & (kind < 0.8), torch.full_like(tokens, mask_id), tokens)
        return torch.where(chosen & (kind >= 0.9), noise, result), chosen

    def __call__(self, protein, dna):
        """→ protein tokens, DNA tokens, targets of the masked positions (flat masks)."""
        b, device, clean = len(protein), protein.device, protein
        residue = (protein > 3) & (protein < 24)
        if self.o["noise"]:
            rate = torch.rand(b, 1, device=device) * self.o["noise"]
            hit = residue & (torch.rand(protein.shape, device=device) < rate)
            draw = torch.rand(protein.shape, device=device)
            new = torch.searchsorted(self.table[protein[hit]], draw[hit][:, None]).squeeze(1).clamp(max=19) + 4
            protein = protein.clone()
            protein[hit] = new
        # Some rows are masked for the token objective (all of them in pretraining), the rest a little.
        rows = torch.arange(b, device=device)[:, None] < (self.o["masked_rows"] * b if self.o["classify"] else b)
        rate = torch.where(rows, self.o["mask_rate"], self.o["light_mask"])
        masked_protein, at_protein = self.mask(protein, residue, PROTEIN_MASK, rate, (4, 24))
        masked_dna, at_dna = self.mask(dna, (dna > 4) & (dna != DNA_PAD), DNA_MASK, rate, (5, self.vocabulary))
        return masked_protein, masked_dna, (clean, at_protein & rows), (dna, at_dna & rows)


class Pool:
    """A pool of frames on the device; batches are drawn without replacement, viral and others as the pool has them."""

    def __init__(self, arrays, device):
        self.size = len(arrays["chunk"])
        self.protein = torch.from_numpy(arrays["protein"]).to(device)
        self.dna = torch.from_numpy(arrays["dna"]).to(device)
        self.category = torch.from_numpy(arrays["category"].astype(np.int64)).to(device)
        self.weight = torch.ones(self.size, device=device)

    def batches(self, size, generator):
        while True:
            order = torch.randperm(self.size, device=self.protein.device, generator=generator)
            for i in range(0, self.size - size + 1, size):
                at = order[i : i + size]
                yield self.protein[at].long(), self.dna[at].long(), self.category[at]


def losses(pair, step_pair, augment, batch, o):
    """Weighted sum of the objectives, and each of them for the log."""
    protein, dna, category = batch
    protein, dna, protein_target, dna_target = augment(protein, dna)
    hp, hd, vp, vd = step_pair(protein, dna, o["dropout"], o["encoder"])
    parts = [
        ("protein", hp, vp, protein_target, pair.esm_masked, pair.esm, pair.only_protein, pair.category_protein),
        ("dna", hd, vd, dna_target, pair.dna_masked, pair.dna, pair.only_dna, pair.category_dna),
    ]
    parts = [part for part in parts if part[1] is not None]
    total = torch.zeros((), device=category.device)
    log = {}
    label, smooth = (category == VIRAL).long(), o["label_smoothing"]
    for name, hidden, vector, (target, at), masked_head, encoder, label_head, category_head in parts:
        if o["masked"] or not o["classify"]:
            if o["classify"]:
                few = int(o["masked_rows"] * len(at))
                hidden, at, target = hidden[:few], at[:few], target[:few]
            logits = masked_head(hidden[at], encoder.embed_tokens).float()
            log[f"masked_{name}"] = F.cross_entropy(logits, target[at])
            total = total + (o["masked"] if o["classify"] else 1.0) * log[f"masked_{name}"]
        if o["classify"]:
            log[name] = F.cross_entropy(label_head(vector).float(), label, label_smoothing=smooth)
            log[f"category_{name}"] = F.cross_entropy(category_head(vector).float(), category, label_smoothing=smooth)
            total = total + o["only"] * log[name] + o["category"] * log[f"category_{name}"]
    if o["classify"] and len(parts) == 2 and o["both"]:
        drop = torch.rand(len(vp), 1, device=vp.device)
        both = torch.cat([vd * (drop < 1 - o["drop_modality"] / 2), vp * (drop > o["drop_modality"] / 2)], 1)
        log["both"] = F.cross_entropy(pair.both(both).float(), label, label_smoothing=smooth)
        total = total + o["both"] * log["both"]
    return total, log


def average_gradients(pair):
    """With several GPUs (torchrun): the mean of their gradients, in one transfer."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in pair.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat, op=dist.ReduceOp.AVG)
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=False):
        gradient.copy_(mean.view_as(gradient))


def run_stage(pair, step_pair, pool, evaluations, o, device, folder, name, state=None):
    """Train `pair` in place; writes the last and the best (first evaluation set) averaged weights."""
    rank = int(os.environ.get("RANK", 0))  # every GPU has its own batches and noise
    torch.manual_seed(o["seed"] + 1000 * rank)
    generator = torch.Generator(device=device).manual_seed(o["seed"] + 1000 * rank)
    cuda = device.type == "cuda"
    decay = [p for p in pair.parameters() if p.ndim > 1]
    plain = [p for p in pair.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": o["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=o["lr"],
        betas=(0.9, 0.98),
        fused=cuda,
    )
    first = 0
    average = {k: v.detach().clone() for k, v in pair.state_dict().items()}
    if state:
        optimizer.load_state_dict(state["optimizer"])
        first, average = state["step"], {k: v.to(device) for k, v in state["average"].items()}
    augment = Augment(o, pair.dna.config.vocabulary, device)
    batches = pool.batches(o["batch"], generator)
    pair.train()
    begin, sums, counted, best = time.time(), {}, 0, (0.0, 0, None)
    for step in range(first, o["steps"]):
        part = max(step / o["steps"], (time.time() - begin) / o["seconds"] if o["timed"] else 0.0)
        rate = min(1.0, (step + 1) / o["warmup"]) * (
            o["final_lr"] + (1 - o["final_lr"]) * 0.5 * (1 + math.cos(math.pi * part))
        )
        for group in optimizer.param_groups:
            group["lr"] = o["lr"] * rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cuda):
            loss, log = losses(pair, step_pair, augment, next(batches), o)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(pair)
        torch.nn.utils.clip_grad_norm_(pair.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            momentum = min(o["ema"], step / (step + 20))
            source = pair.state_dict()
            floats = [k for k in average if average[k].is_floating_point()]
            torch._foreach_lerp_([average[k] for k in floats], [source[k] for k in floats], 1 - momentum)
        for key, value in log.items():
            sums[key] = sums.get(key, 0) + value.detach()
        counted += 1
        last = step + 1 == o["steps"] or time.time() - begin > o["seconds"]
        if rank == 0 and ((step + 1) % 200 == 0 or last):
            text = " ".join(f"{k} {float(v) / max(counted, 1):.4f}" for k, v in sums.items())
            rows = (step + 1 - first) * o["batch"] / (time.time() - begin)
            print(f"{name} step {step + 1} {time.time() - begin:.0f} s {rows:.0f} rows/s {text}", flush=True)
            sums, counted = {}, 0
        if last or (o["evaluate_every"] and (step + 1) % o["evaluate_every"] == 0):
            if o["classify"] and rank == 0:
                kept = {k: v.clone() for k, v in pair.state_dict().items()}
                pair.load_state_dict(average)
                for number, (title, arrays) in enumerate(evaluations.items()):
                    auroc, text = report(pair, arrays, device, o["encoder"])
                    print(f"{name} step {step + 1} {title}: {text}", flush=True)
                    if number == 0 and auroc > best[0]:
                        best = auroc, step + 1, {k: v.clone() for k, v in average.items()}
                pair.load_state_dict(kept)
                pair.train()
        if last:
            break
    state = {
        "model": pair.state_dict(),
        "average": average,
        "best": best,
        "optimizer": optimizer.state_dict(),
        "step": step + 1,
        "options": o,
        "esm": vars(pair.esm.config),
        "dna": vars(pair.dna.config),
    }
    if rank == 0:
        torch.save(state, folder / f"{name}.pt")
    if dist.is_initialized():
        dist.barrier()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path, help='JSON: {"esm": {…}, "dna": {…}, "stages": [{"name": …, …}]}')
    parser.add_argument("folder", type=Path, help="checkpoints")
    parser.add_argument("--pool", type=Path, nargs="+", required=True, help='a stage picks one by its number, "pool"')
    parser.add_argument("--evaluate", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    plan = json.loads(args.plan.read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.cache_size_limit = 64
    torch._dynamo.config.specialize_float = True
    args.folder.mkdir(parents=True, exist_ok=True)
    pool, loaded, evaluations = None, None, {}
    pair = Pair(plan["esm"], plan["dna"], 10).to(device)
    step_pair = torch.compile(pair) if device.type == "cuda" else pair
    for stage in plan["stages"]:
        o = {**DEFAULT, **{k: v for k, v in stage.items() if k != "name"}}
        torch.manual_seed(plan.get("seed", 0))  # one initialisation for all stages of a plan
        pair.load_state_dict(Pair(plan["esm"], plan["dna"], 10).state_dict())
        for head in (pair.both, pair.only_dna, pair.only_protein, pair.category_dna, pair.category_protein):
            head[3].p = o["head_dropout"]
        state = None
        own = args.folder / f"{stage['name']}.pt"
        if o["resume"] and own.exists():
            state = torch.load(own, map_location=device)
            pair.load_state_dict(state["model"])
        elif o["start"]:
            previous = torch.load(args.folder / f"{o['start']}.pt", map_location=device)
            pair.load_state_dict(previous["average"])
        if loaded != o["pool"]:
            while not args.pool[o["pool"]].exists():  # another process is still making it
                time.sleep(1)
            loaded, pool = o["pool"], Pool(np.load(args.pool[o["pool"]]), device)
            evaluations = {p.stem: dict(np.load(p)) for p in args.evaluate if p.exists()}
            print(f"{pool.size} frames, {(pool.category == VIRAL).float().mean():.3f} viral")
        run_stage(pair, step_pair, pool, evaluations, o, device, args.folder, stage["name"], state)


if __name__ == "__main__":
    main()
