"""How fast an encoder is on this machine, beside the bound of its matrix products.

All in one process, on the same weights and sequences, and with the vectors compared with fp32: a speed whose output wasn't
checked is worth nothing. Without a checkpoint the weights are random, which proves speed, not accuracy.
``benchmarks/encoders.py`` compares with other programs, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from virnucpro import installation
from virnucpro.encoders.accuracy import relative_l2, relative_l2_rest
from virnucpro.encoders.canonical import build_encoder, load_encoder, read_spec
from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.embed import compute_dtype, resolve_precision, start
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.fp8 import FREQUENCIES
from virnucpro.encoders.job import matmul_precision
from virnucpro.encoders.original import embed_original

logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """What makes an encoder large."""

    layers: int
    width: int
    heads: int


ESM2_SHAPES = {
    "8M": Shape(6, 320, 20), "35M": Shape(12, 480, 20), "150M": Shape(30, 640, 20),
    "650M": Shape(33, 1280, 20), "3B": Shape(36, 2560, 40), "15B": Shape(48, 5120, 40),
}  # fmt: skip
DNABERT_S = Shape(12, 768, 12)
COMPARED_SEQUENCES = 64
AVERAGED_SEQUENCES = 4096
"""Of which the mean length is taken."""
COMPOSITION = {"esm2": FREQUENCIES, "dnabert_s": dict.fromkeys("ACGT", 1)}


@dataclass(frozen=True)
class Plan:
    """What to measure: an encoder, sequences, and the ways of computing."""

    family: str
    size: str = "650M"  # of ESM-2, where there is no checkpoint
    model: Path | None = None  # canonical file
    tokenizer: Path | None = None  # tokenizer.json of DNABERT-S, where there is no checkpoint
    lengths: tuple[int, int] = (166, 166)  # shortest and longest sequence, uniform between them
    precisions: tuple[str, ...] = ("auto",)
    attentions: tuple[str, ...] = ("auto",)
    compile: bool = False
    tokens_per_batch: int | str = "auto"
    seconds: float = 10.0  # about, for each row
    sequences: tuple[bytes, ...] = field(default=(), repr=False)  # instead of random ones


class Benchmark:
    """An encoder, sequences, and a row for each way of computing that was measured.

    Attributes:
        encoder: in fp32, for inference, on the device.
        ids, sample: the sequences whose vectors are compared.
        rows: plain values.
    """

    def __init__(self, plan: Plan, device: str):
        self.plan, self.device = plan, device
        if plan.model is not None:
            encoder = load_encoder(plan.model, device, torch.float32)
        else:
            shape = ESM2_SHAPES[plan.size] if plan.family == "esm2" else DNABERT_S
            encoder = random_encoder(plan.family, shape, plan.tokenizer, device)
        self.draw = _sequences(plan)
        self.sample = self.draw(COMPARED_SEQUENCES)
        self.ids = [str(number) for number in range(COMPARED_SEQUENCES)]
        self._flops, self._tokens_each = _flops(encoder, self.draw(AVERAGED_SEQUENCES))
        self.encoder = encoder.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self._reference = embed_original(self.encoder, self.ids, self.sample, device).vectors
        self.rows: list[dict[str, Any]] = []
        self._bounds: dict[str, float] = {}  # tokens a second, by precision

    def add(self, way: str, precision: str, speed: float, vectors: np.ndarray | None, **more: Any) -> None:
        """A row: sequences a second, and how far the sample's vectors (n, d) are from fp32."""
        row = {"way": way, "precision": precision, "sequences_per_second": speed}
        row |= {"tokens_per_second": speed * self._tokens_each, "tflops": speed * self._flops / 1e12}
        if vectors is not None:
            row["relative_l2"] = float(relative_l2(vectors, self._reference).max())
            row["relative_l2_rest"] = float(np.sqrt(np.mean(relative_l2_rest(vectors, self._reference) ** 2)))
        self.rows.append(row | more)
        logger.info("%s in %s: %.4g sequences/s", way, precision, speed)

    def measure(self, remark: str = "") -> None:
        """Rows for this project's way in each precision and attention, the first time after its bound."""
        plan, state, device = self.plan, self.encoder.cpu(), self.device
        for precision in plan.precisions:
            resolved = resolve_precision(precision, device, state.family)
            if resolved not in self._bounds:
                with matmul_precision(resolved):
                    bound = self._bounds[resolved] = _bound(state, compute_dtype(resolved), device, plan)
                self.add("matrix products alone", resolved.replace("fp8", "fp16"), bound / self._tokens_each, None)
            bound = self._bounds[resolved]
            for attention, compile in product(plan.attentions, (False, True)[: 1 + plan.compile]):
                if device == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                way, speed, vectors, facts = _own(
                    plan, state, precision, attention, compile, device, self.draw, self.ids, self.sample
                )
                share = facts["tokens_per_second"] / bound
                self.add(way + remark, resolved, speed, vectors, **facts, share_of_bound=share)

    def result(self) -> dict[str, Any]:
        """``{"setting": {...}, "rows": [...]}``, plain values."""
        plan = self.plan
        if plan.model:
            spec = read_spec(plan.model)
            weights = f"{spec.name}, SHA-256 {spec.weights_sha256}"
        else:
            weights = f"random, of {plan.size if plan.family == 'esm2' else 'DNABERT-S'}"
        low, high = plan.lengths
        setting = {
            "encoder": self.encoder.family,
            "weights": weights,
            "shape": vars(self.encoder.config),
            "sequences": "given" if plan.sequences else f"random, of natural composition, {low} to {high} letters",
            "tokens_per_sequence": self._tokens_each,
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "CPU",
            "torch": torch.__version__,
        }
        return {"setting": setting, "rows": self.rows}


def random_encoder(family: str, shape: Shape, tokenizer: Path | None = None, device: str = "cpu") -> ESM2 | DNABERT:
    """An encoder of that family and shape in fp32, with random weights: the same ones for each call.

    Args:
        family, shape: what to make: ``esm2`` or ``dnabert_s``, and how large.
        tokenizer: tokenizer.json of DNABERT-S; if None, the bundled small model's.
        device: where it is made.
    """
    layers, width, heads = shape
    torch.manual_seed(0)
    with torch.device(device):
        if family == "esm2":
            return ESM2(ESM2Config(layers, width, heads, 4 * width))
        bundled = installation.root() / "resources" / "models" / "mini-dnabert-s.safetensors"
        text = tokenizer.read_text() if tokenizer else read_spec(bundled).tokenizer
        return DNABERT(DNABERTConfig(layers, width, heads, 4 * width), text)


def _sequences(plan: Plan) -> Callable[[int], list[bytes]]:
    """A function that gives so many sequences."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer("".join(COMPOSITION[plan.family]).encode(), np.uint8)
    weights = np.array(list(COMPOSITION[plan.family].values()), float)
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
    resolved = resolve_precision(precision, device, state.family)
    encoder = _copy(state, compute_dtype(resolved), device)
    began = time.perf_counter()
    for _ in start(encoder, names, sample, **settings).windows():
        pass
    ready, count = time.perf_counter() - began, COMPARED_SEQUENCES
    if resolved == "fp8":  # is in fp8 already
        encoder = _copy(state, compute_dtype(resolved), device)
    while True:
        sequences, places = draw(count), np.linspace(0, count - 1, COMPARED_SEQUENCES).astype(int)
        for place, sequence in zip(places, sample, strict=True):  # what is compared is part of what is timed
            sequences[place] = sequence
        vectors = np.full((COMPARED_SEQUENCES, encoder.config.width), np.nan, np.float32)
        job = start(encoder, [str(i) for i in range(count)], sequences, **settings)
        began = time.perf_counter()
        for first, rows in job.windows():
            here = (places >= first) & (places < first + len(rows))
            vectors[here] = rows[places[here] - first]
        seconds = time.perf_counter() - began
        if seconds > 0.7 * plan.seconds or count > 10**7:
            break
        count = max(2 * count, int(count * min(20.0, plan.seconds / seconds)))
        if resolved == "fp8":
            encoder = _copy(state, compute_dtype(resolved), device)
    facts = job.statistics()
    kept = (
        "backend",
        "stages",
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
    return f"this ({facts['backend']}, {facts['stages']})", count / seconds, vectors, statistics


def _copy(encoder: Any, dtype: torch.dtype, device: str) -> Any:
    weights = {key: value.to(device, dtype, copy=True) for key, value in encoder.state_dict().items()}
    return build_encoder(encoder.family, vars(encoder.config), weights, encoder.tokenizer_json, "benchmark").eval()
