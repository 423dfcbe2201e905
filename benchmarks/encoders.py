"""An encoder's speed beside other programs' on the same weights and sequences, and within less GPU memory.

usage: encoders.py [options of `virnucpro benchmark`] [--others original,autocast,transformers] [--memory-limit GB,GB]

`original` is VirNucPro's way: fair-esm where it is installed, else the same batches by this project's modules, for DNABERT-S a
call for each sequence. `autocast` is fair-esm in padded batches of 97 under autocast, `transformers` its EsmModel in
fp16 with SDPA; both are for ESM-2 on a GPU, as far as the packages are installed. With a memory limit this project's way is measured
once more as on a GPU that has no more. The vectors of every way are compared with fp32 (relative_l2_rest).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import numpy as np
import torch
import transformers

from virnucpro.benchmark import Benchmark
from virnucpro.check.reference import fair_esm
from virnucpro.cli.benchmark import benchmark, planned, show
from virnucpro.encoders.checkpoints import export_state
from virnucpro.encoders.esm2 import ESM2, HF_ESM, tokenize
from virnucpro.encoders.original import embed_original
from virnucpro.models.registry import PROTEIN

Compute = Callable[[list[str], list[bytes]], np.ndarray]
BATCH = 97  # sequences


@click.command(params=benchmark.params)
@click.option("--others", default="original,autocast,transformers", show_default=True)
@click.option("--memory-limit", default="", metavar="GB[,GB…]", help="Measure within so much GPU memory, too: 16,24.")
def main(output: str | None, others: str, memory_limit: str, **given: Any) -> None:
    """Compare an encoder's speed with other programs'."""
    limits = [float(limit) for limit in memory_limit.split(",") if limit]
    with planned(**given) as prepared:
        if limits and prepared.device == "cpu":
            raise click.UsageError("a memory limit is for GPUs")
        for way, precision, compute in ways(prepared, others.split(",")):
            prepared.add(way, precision, *measure(prepared, compute))
        prepared.measure()
        for limit in limits:
            with limited_memory(limit):
                prepared.measure(remark=f", {limit:g} GB")
        rows = prepared.rows
        if rows[0]["way"].startswith("the original"):
            for row in rows:
                row["times_the_original"] = row["sequences_per_second"] / rows[0]["sequences_per_second"]
        show(prepared.result(), output)


def measure(prepared: Benchmark, compute: Compute) -> tuple[float, np.ndarray]:
    """Sequences a second, of as many as it does in the time asked for, and the vectors of the sample."""
    vectors, count = compute(prepared.ids, prepared.sample), len(prepared.sample)
    while True:
        sequences = prepared.draw(count)
        began = time.perf_counter()
        compute([str(number) for number in range(count)], sequences)
        seconds = time.perf_counter() - began
        if seconds > prepared.plan.seconds / 3 or count > 10**6:
            return count / seconds, vectors
        count = max(2 * count, int(count * prepared.plan.seconds / 2 / seconds))


def ways(prepared: Benchmark, names: Sequence[str]) -> Iterator[tuple[str, str, Compute]]:
    """(way, precision, function) of the other ways that ``names`` asks for and this encoder and machine have."""
    exact, device = prepared.encoder, prepared.device
    if "original" in names:
        module = fair_esm(exact) if isinstance(exact, ESM2) else None
        own = "padded" if prepared.plan.architecture.role is PROTEIN else "one a call"
        what = "fair-esm, 2,048 tokens a batch" if module else own
        yield (
            f"the original's ({what})",
            "fp32",
            lambda ids, sequences: embed_original(exact, ids, sequences, device, hidden=module).vectors,
        )
    if not isinstance(exact, ESM2) or device != "cuda":
        return
    if "autocast" in names and (module := fair_esm(exact)):
        way = f"fair-esm, autocast, {BATCH} a batch"
        yield way, "bf16", lambda _, sequences: padded(module, sequences, device, torch.bfloat16)
    if "transformers" in names:
        model = hugging_face(exact)
        way = f"transformers' EsmModel, SDPA, {BATCH} a batch"
        yield way, "fp16", lambda _, sequences: padded(model, sequences, device, None)


def hugging_face(exact: ESM2) -> Callable[[torch.Tensor], torch.Tensor]:
    """transformers' EsmModel of this shape in fp16, its weights this one's: padded tokens to hidden states."""
    c = exact.config
    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=c.width, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        intermediate_size=c.ffn, position_embedding_type="rotary", token_dropout=c.token_dropout, layer_norm_eps=1e-5,
        emb_layer_norm_before=False, pad_token_id=1, mask_token_id=32, attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.EsmModel(config, add_pooling_layer=False).eval()
    loaded = model.load_state_dict(export_state(exact, HF_ESM), strict=False)
    missing = [name for name in loaded.missing_keys if not re.search("position|inv_freq|contact_head", name)]
    assert not missing, f"transformers' EsmModel has parameters that this encoder lacks: {missing[:5]}"
    model = model.to(exact.embed_tokens.weight.device, torch.float16)
    return lambda tokens: model(tokens, attention_mask=(tokens != 1).long()).last_hidden_state


def padded(module: Callable, sequences: Sequence[bytes], device: str, autocast: torch.dtype | None) -> np.ndarray:
    """Vectors (n, d) from padded batches of sequences sorted by length."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    vectors: list[Any] = [None] * len(sequences)
    with torch.inference_mode(), torch.autocast("cuda", autocast, enabled=autocast is not None):
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            flat, lengths = tokenize([sequences[i] for i in rows])
            tokens = np.ones((len(rows), lengths.max()), np.int64)
            tokens[np.arange(lengths.max()) < lengths[:, None]] = flat
            hidden = module(torch.from_numpy(tokens).to(device)).float()
            inside = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None] - 1).to(device)
            inside[:, 0] = False
            pooled = (hidden * inside[:, :, None]).sum(1) / inside.sum(1)[:, None]
            for row, vector in zip(rows, pooled.cpu().numpy(), strict=True):
                vectors[row] = vector
    return np.stack(vectors)


@contextmanager
def limited_memory(gigabytes: float) -> Iterator[None]:
    """As on a GPU with so much memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    main()
