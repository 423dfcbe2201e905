"""How fast an encoder is on this machine: this project's way beside others' and the bound of its matrix products.

All in one process, on the same weights and sequences, and with the vectors compared: a speed whose output wasn't
checked is worth nothing. Without a checkpoint the weights are random, which proves speed and equivalence, not accuracy.
"""

from __future__ import annotations

import importlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro import installation
from virnucpro.check.reference import fair_esm
from virnucpro.encoders.accuracy import relative_l2, relative_l2_rest
from virnucpro.encoders.checkpoints import export_state
from virnucpro.encoders.embedder import Embedder, matmul_precision
from virnucpro.encoders.encoder import Encoder
from virnucpro.encoders.esm2 import ESM2, HF_ESM, tokenize
from virnucpro.encoders.loading import build_encoder, encoder_class, load_encoder
from virnucpro.encoders.original import embed_original
from virnucpro.encoders.precision import choose_precision
from virnucpro.encoders.spec import read_spec
from virnucpro.errors import ConfigError
from virnucpro.models.registry import ARCHITECTURES, PROTEIN, Architecture, Shape

logger = logging.getLogger(__name__)


COMPARED = 64  # sequences whose vectors are compared
AVERAGED = 4096  # sequences of which the mean length is taken
WAYS = ("original", "autocast", "transformers")


@dataclass(frozen=True)
class Plan:
    """What to measure: an encoder, sequences, and the ways of computing."""

    architecture: Architecture
    size: str = ""  # one of the architecture's shapes, where there is no checkpoint
    model: Path | None = None  # prepared file
    tokenizer: Path | None = None  # a byte-pair tokenizer.json, where there is no checkpoint
    lengths: tuple[int, int] = (166, 166)  # shortest and longest sequence, uniform between them
    precisions: tuple[str, ...] = ("auto",)
    attentions: tuple[str, ...] = ("auto",)
    compile: bool = False
    tokens_per_batch: int | str = "auto"
    others: tuple[str, ...] = WAYS
    seconds: float = 10.0  # about, for each row
    memory_limits: tuple[float, ...] = ()  # GB that this project's way may use, in further rows
    sequences: tuple[bytes, ...] = field(default=(), repr=False)  # instead of random ones


def run_benchmark(plan: Plan, device: str) -> dict[str, Any]:
    """Measure; returns ``{"setting": {...}, "rows": [...]}``, plain values, a row per way of computing.

    Raises ConfigError where the plan doesn't fit the device.
    """
    if plan.memory_limits and device == "cpu":
        raise ConfigError("a memory limit is for GPUs")
    if plan.model is not None:
        encoder = load_encoder(plan.model, device, torch.float32)
    else:
        encoder = random_encoder(plan.architecture.name, plan.architecture.shapes[plan.size], plan.tokenizer, device)
    draw = _sequences(plan)
    sample = draw(COMPARED)
    names = [str(i) for i in range(COMPARED)]
    flops, tokens_each = _flops(encoder, draw(AVERAGED))
    rows: list[dict[str, Any]] = []
    exact = encoder.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    reference = embed_original(exact, names, sample, device).vectors

    def add(way: str, precision: str, speed: float, vectors: np.ndarray | None, **more: Any) -> None:
        row = {"way": way, "precision": precision, "sequences_per_second": speed}
        row |= {"tokens_per_second": speed * tokens_each, "tflops": speed * flops / 1e12}
        if vectors is not None:
            row["relative_l2"] = float(relative_l2(vectors, reference).max())
            row["relative_l2_rest"] = float(np.sqrt(np.mean(relative_l2_rest(vectors, reference) ** 2)))
        rows.append(row | more)
        logger.info("%s in %s: %.4g sequences/s", way, precision, speed)

    for way, precision, speed, vectors in _measure_others(plan, exact, device, draw, names, sample):
        add(way, precision, speed, vectors)
    state = exact.cpu()
    for precision in plan.precisions:
        resolved = choose_precision(precision, device, plan.architecture)
        with matmul_precision(resolved):
            bound = _bound(state, resolved.dtype, device, plan)
        add("matrix products alone", resolved.name.replace("fp8", "fp16"), bound / tokens_each, None)
        for attention, compile, limit in product(
            plan.attentions, (False, True)[: 1 + plan.compile], (None, *plan.memory_limits)
        ):
            with _limited_memory(limit, device):
                own = _own(plan, state, precision, attention, compile, device, draw, names, sample)
            way, speed, vectors, statistics = own
            if limit is not None:
                way += f", {limit:g} GB"
            add(
                way, resolved.name, speed, vectors, **statistics, share_of_bound=statistics["tokens_per_second"] / bound
            )
    for row in rows:
        if rows[0]["way"].startswith("the original"):
            row["times_the_original"] = row["sequences_per_second"] / rows[0]["sequences_per_second"]
    if plan.model:
        spec = read_spec(plan.model)
        weights = f"{spec.name}, SHA-256 {spec.weights_sha256}"
    else:
        weights = f"random, of {plan.architecture.title} {plan.size}"
    setting = {
        "encoder": encoder.architecture,
        "weights": weights,
        "shape": vars(encoder.config),
        "sequences": "given"
        if plan.sequences
        else f"random, of natural composition, {plan.lengths[0]} to {plan.lengths[1]} letters",
        "tokens_per_sequence": tokens_each,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
    }
    return {"setting": setting, "rows": rows}


def random_encoder(architecture: str, shape: Shape, tokenizer: Path | None = None, device: str = "cpu") -> Encoder:
    """An encoder of that architecture and shape in fp32, with random weights: the same ones for each call.

    Args:
        architecture, shape: what to make, and how large.
        tokenizer: tokenizer.json, where tokens are byte pairs; if None, the bundled small model's.
        device: where it is made.
    """
    torch.manual_seed(0)
    bundled = [
        installation.root() / "resources" / "models" / f"{name}.safetensors"
        for name in ARCHITECTURES[architecture].bundled
    ]
    text = tokenizer.read_text() if tokenizer else read_spec(bundled[0]).tokenizer if bundled else None
    kind = encoder_class(architecture)
    with torch.device(device):
        return kind(kind.Config(*shape), text)


def _sequences(plan: Plan) -> Callable[[int], list[bytes]]:
    """A function that gives so many sequences."""
    rng = np.random.default_rng(0)
    composition = plan.architecture.role.composition
    letters = np.frombuffer("".join(composition).encode(), np.uint8)
    weights = np.array(list(composition.values()), float)
    weights /= weights.sum()
    given = [
        plan.sequences[i] for i in rng.permutation(len(plan.sequences))
    ]  # a file may be sorted; each way sees alike

    def draw(count: int) -> list[bytes]:
        if given:
            return [given[i % len(given)] for i in range(count)]
        lengths = rng.integers(plan.lengths[0], plan.lengths[1] + 1, count)
        text = rng.choice(letters, int(lengths.sum()), p=weights).tobytes()
        ends = np.cumsum(lengths)
        return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    return draw


def _flops(encoder: Any, sample: Sequence[bytes]) -> tuple[float, float]:
    """Floating-point operations and tokens of a sequence, on average: two for each weight and token, and attention's."""
    _, lengths = encoder.tokenize(list(sample))
    weights = sum(p.numel() for layer in encoder.layers for name, p in layer.named_parameters() if p.ndim == 2)
    attention = 4 * encoder.config.width * encoder.config.layers * float((lengths.astype(float) ** 2).mean())
    return 2 * weights * float(lengths.mean()) + attention, float(lengths.mean())


def _measure_others(
    plan: Plan, exact: Any, device: str, draw: Callable, names: list[str], sample: list[bytes]
) -> list[tuple[str, str, float, np.ndarray]]:
    """(way, precision, sequences a second, vectors) of the other ways; what they hold on the device ends with this."""
    rows = []
    for way, precision, compute in _others(plan, exact, device):
        vectors, count = compute(names, sample), COMPARED
        while True:  # as many as it does in the time asked for
            sequences = draw(count)
            began = time.perf_counter()
            compute([str(i) for i in range(count)], sequences)
            seconds = time.perf_counter() - began
            if seconds > plan.seconds / 3 or count > 10**6:
                break
            count = max(2 * count, int(count * plan.seconds / 2 / seconds))
        rows.append((way, precision, count / seconds, vectors))
    return rows


def _others(plan: Plan, exact: Any, device: str) -> Iterator[tuple[str, str, Callable]]:
    """Other ways of computing the same vectors, as far as their packages are installed."""
    if "original" in plan.others:
        module = fair_esm(exact) if isinstance(exact, ESM2) else None
        padded = "padded" if plan.architecture.role is PROTEIN else "one a call"
        what = "fair-esm, 2,048 tokens a batch" if module else padded
        yield (
            f"the original's ({what})",
            "fp32",
            lambda n, s: embed_original(exact, n, s, device, hidden=module).vectors,
        )
    if not isinstance(exact, ESM2):
        return
    if "autocast" in plan.others and device == "cuda" and (module := fair_esm(exact)):
        yield "fair-esm, autocast, 97 a batch", "bf16", lambda n, s: _padded(module, s, device, 97)
    if "transformers" in plan.others and device == "cuda":
        try:
            hugging_face = _hugging_face(exact)
        except ImportError:
            return
        yield (
            "transformers' EsmModel, SDPA, 97 a batch",
            "fp16",
            lambda n, s: _padded(hugging_face, s, device, 97, None),
        )


def _hugging_face(exact: ESM2) -> Callable[[torch.Tensor], torch.Tensor]:
    """transformers' EsmModel of this shape in fp16, its weights this one's: padded tokens to hidden states."""
    transformers = importlib.import_module("transformers")
    c = exact.config
    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=c.width, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        intermediate_size=c.ffn, position_embedding_type="rotary", token_dropout=c.token_dropout, layer_norm_eps=1e-5,
        emb_layer_norm_before=False, pad_token_id=1, mask_token_id=32, attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.EsmModel(config, add_pooling_layer=False).eval()
    loaded = model.load_state_dict(export_state(exact, HF_ESM), strict=False)
    if missing := [name for name in loaded.missing_keys if not re.search("position|inv_freq|contact_head", name)]:
        raise ConfigError(f"transformers' EsmModel has parameters that this encoder lacks: {missing[:5]}")
    model = model.to(exact.embed_tokens.weight.device, torch.float16)
    return lambda tokens: model(tokens, attention_mask=(tokens != 1).long()).last_hidden_state


def _padded(
    module: Callable, sequences: Sequence[bytes], device: str, batch: int, autocast: Any = torch.bfloat16
) -> np.ndarray:
    """Vectors (n, d) from padded batches of sequences sorted by length."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    vectors: list[Any] = [None] * len(sequences)
    with torch.inference_mode(), torch.autocast("cuda", autocast, enabled=autocast is not None):
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
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
def _limited_memory(limit: float | None, device: str) -> Iterator[None]:
    """As on a GPU with ``limit`` GB."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if limit is None:
        yield
        return
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit * 1e9 / torch.cuda.get_device_properties(0).total_memory))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _bound(encoder: Any, dtype: torch.dtype, device: str, plan: Plan) -> float:
    """Tokens per second of the matrix products alone, in packs of 32,768 (2,048 on a CPU), for a while."""
    count = 32768 if device == "cuda" else 2048
    weights = [p.to(device, dtype) for layer in encoder.layers for p in layer.parameters() if p.ndim == 2]
    inputs = {width: torch.randn(count, width, device=device).to(dtype) for width in {w.shape[1] for w in weights}}

    def once() -> None:
        for weight in weights:
            inputs[weight.shape[1]] @ weight.t()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        for _ in range(3):
            once()
        wait()
        began, passes = time.perf_counter(), 0
        while time.perf_counter() - began < plan.seconds / 2:
            once()
            wait()
            passes += 1
        return passes * count / (time.perf_counter() - began)


def _own(
    plan: Plan, state: Any, precision: str, attention: str, compile: bool, device: str, draw: Callable, names: list[str],
    sample: list[bytes],
) -> tuple[str, float, np.ndarray, dict[str, Any]]:  # fmt: skip
    """This project's way on a copy of the encoder: (way, sequences a second, vectors, what ran)."""
    settings: dict[str, Any] = {"tokens_per_batch": plan.tokens_per_batch, "attention": attention}
    settings |= {"precision": precision, "device": device, "compile": compile}
    resolved = choose_precision(precision, device, plan.architecture)
    encoder = _copy(state, resolved.dtype, device)
    began = time.perf_counter()
    for _ in Embedder(encoder, names, sample, **settings).vectors():
        pass
    ready, count = time.perf_counter() - began, COMPARED
    if resolved.name == "fp8":  # is in fp8 already
        encoder = _copy(state, resolved.dtype, device)
    while True:
        sequences, places = draw(count), np.linspace(0, count - 1, COMPARED).astype(int)
        for place, sequence in zip(places, sample, strict=True):  # what is compared is part of what is timed
            sequences[place] = sequence
        vectors = np.full((COMPARED, encoder.config.width), np.nan, np.float32)
        job = Embedder(encoder, [str(i) for i in range(count)], sequences, **settings)
        began = time.perf_counter()
        for first, rows in job.vectors():
            here = (places >= first) & (places < first + len(rows))
            vectors[here] = rows[places[here] - first]
        seconds = time.perf_counter() - began
        if seconds > 0.7 * plan.seconds or count > 10**7:
            break
        count = max(2 * count, int(count * min(20.0, plan.seconds / seconds)))
        if resolved.name == "fp8":
            encoder = _copy(state, resolved.dtype, device)
    facts = job.statistics()
    kept = (
        "backend",
        "kernels",
        "tokens_per_batch",
        "fill",
        "gpu_seconds",
        "peak_memory",
        "fp8_error",
        "compiled_graphs",
        "graphs",
        "out_of_memory",
    )
    statistics = {key: facts[key] for key in kept if key in facts} | {"sequences": count, "seconds": seconds}
    statistics["tokens_per_second"] = facts["tokens"] / seconds
    if "gpu_seconds" in statistics:
        statistics["gpu_share"] = statistics["gpu_seconds"] / seconds
    statistics["ready_seconds"] = ready
    return f"this ({facts['backend']}, {facts['kernels']})", count / seconds, vectors, statistics


def _copy(encoder: Any, dtype: torch.dtype, device: str) -> Any:
    weights = {key: value.to(device, dtype, copy=True) for key, value in encoder.state_dict().items()}
    return build_encoder(
        encoder.architecture, vars(encoder.config), weights, encoder.tokenizer_json, "benchmark"
    ).eval()
