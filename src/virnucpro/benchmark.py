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
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from virnucpro import installation
from virnucpro.encoders.accuracy import relative_l2, relative_l2_rest
from virnucpro.encoders.embedder import Embedder, matmul_precision
from virnucpro.encoders.encoder import Encoder
from virnucpro.encoders.loading import build_encoder, encoder_class, load_encoder
from virnucpro.encoders.ops import gelu_in_product
from virnucpro.encoders.original import embed_original
from virnucpro.encoders.precision import Precision, choose_precision
from virnucpro.encoders.spec import read_spec
from virnucpro.models.registry import ARCHITECTURES, Architecture, Shape

logger = logging.getLogger(__name__)

COMPARED_SEQUENCES = 64
AVERAGED_SEQUENCES = 4096  # of which the mean length is taken
KEPT_STATISTICS = (
    "backend", "kernels", "tokens_per_batch", "fill", "gpu_seconds", "peak_memory", "int8_error", "compiled_graphs",
    "graphs", "out_of_memory",
)  # fmt: skip


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
    seconds: float = 10.0  # about, for each row
    sequences: tuple[bytes, ...] = field(default=(), repr=False)  # instead of random ones


Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def torch_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(T, in) · (out, in) -> (T, out)."""
    return x @ weight.t()


def biased_product(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same and a bias (out,)."""
    return F.linear(x, weight, bias)


def gelu_product(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """GELU of that."""
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)


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
            shape = plan.architecture.shapes[plan.size]
            encoder = random_encoder(plan.architecture.name, shape, plan.tokenizer, device)
        self.draw = _sequences(plan)
        self.sample = self.draw(COMPARED_SEQUENCES)
        self.ids = [str(number) for number in range(COMPARED_SEQUENCES)]
        self._flops, self._tokens_each = _flops(encoder, self.draw(AVERAGED_SEQUENCES))
        self.encoder = encoder.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self._reference = embed_original(self.encoder, self.ids, self.sample, device).vectors
        self.rows: list[dict[str, Any]] = []
        self._bounds: dict[
            str, tuple[float, float]
        ] = {}  # tokens a second, by precision: plain products, fastest calls

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
        plan, compiled = self.plan, (False, True)[: 1 + self.plan.compile]
        chosen = [  # all of them first: what there isn't is said before minutes of measuring
            (choose_precision(asked, self.device, plan.architecture, compile=compile), attention, compile)
            for asked, attention, compile in product(plan.precisions, plan.attentions, compiled)
        ]
        self.encoder.cpu()
        for precision, attention, compile in chosen:
            name = precision.name
            half = "fp16" if precision.job_gate is not None else name  # the bound is that of unrounded products
            if half not in self._bounds:
                with matmul_precision(precision):
                    self._bounds[half] = self._measure_bound(precision.product_dtype)
                ways = ("matrix products alone", "matrix products, the fastest call of each")
                for way, tokens in zip(ways, self._bounds[half], strict=True):
                    self.add(way, half, tokens / self._tokens_each, None)
            if self.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            speed, vectors, facts = self._measure_encoder(precision, attention, compile)
            way = f"this ({facts['backend']}, {facts['kernels']}){remark}"
            shares = [facts["tokens_per_second"] / bound for bound in self._bounds[half]]
            facts |= dict(zip(("share_of_bound", "share_of_fastest"), shares, strict=True))
            self.add(way, name, speed, vectors, **facts)

    def result(self) -> dict[str, Any]:
        """``{"setting": {...}, "rows": [...]}``, plain values."""
        plan = self.plan
        if plan.model:
            spec = read_spec(plan.model)
            weights = f"{spec.name}, SHA-256 {spec.weights_sha256}"
        else:
            weights = f"random, of {plan.size}"
        low, high = plan.lengths
        setting = {
            "encoder": self.encoder.architecture,
            "weights": weights,
            "shape": vars(self.encoder.config),
            "sequences": "given" if plan.sequences else f"random, of natural composition, {low} to {high} letters",
            "tokens_per_sequence": self._tokens_each,
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "CPU",
            "torch": torch.__version__,
        }
        return {"setting": setting, "rows": self.rows}

    def _measure_bound(self, dtype: torch.dtype) -> tuple[float, float]:
        """Tokens per second of the matrix products alone, in batches of 32,768 (2,048 on a CPU), for a while.

        First of plain products, then with the fastest call of each: some are faster with a bias, or with bias and GELU.
        """
        device, layers = self.device, self.encoder.get_submodule("layers").children()
        count = 32768 if device == "cuda" else 2048
        weights = [p.to(device, dtype) for layer in layers for p in layer.parameters() if p.ndim == 2]
        inputs = {width: torch.randn(count, width, device=device).to(dtype) for width in {w.shape[1] for w in weights}}

        def seconds_of(call: Call, products: Sequence[torch.Tensor], at_least: float) -> float:
            """Of the call once for each of the weights, on average."""
            for weight in products:
                call(inputs[weight.shape[1]], weight)
            began, passes = time.perf_counter(), 0
            while time.perf_counter() - began < at_least:
                for weight in products:
                    call(inputs[weight.shape[1]], weight)
                passes += 1
                if device == "cuda":
                    torch.cuda.synchronize()
            return (time.perf_counter() - began) / passes

        with torch.inference_mode():
            plain = seconds_of(torch_product, weights, self.plan.seconds / 2)
            fastest = 0.0
            for shape in {w.shape for w in weights}:
                same = [w for w in weights if w.shape == shape]
                bias = torch.zeros(shape[0], device=device, dtype=dtype)
                calls: list[Call] = [torch_product, partial(biased_product, bias)]
                if gelu_in_product(same[0]):
                    calls.append(partial(gelu_product, bias))
                fastest += min(seconds_of(call, same, self.plan.seconds / 20) for call in calls)
        return count / plain, count / min(plain, fastest)

    def _measure_encoder(
        self, precision: Precision, attention: str, compile: bool
    ) -> tuple[float, np.ndarray, dict[str, Any]]:
        """This project's way on a copy of the encoder: (sequences a second, vectors of the sample (n, d), what ran)."""

        def embedder(ids: list[str], sequences: list[bytes]) -> Embedder:
            return Embedder(
                encoder, ids, sequences, tokens_per_batch=self.plan.tokens_per_batch, attention=attention,
                precision=precision.name, device=self.device, compile=compile,
            )  # fmt: skip

        encoder = self._copy(precision.dtype)
        began = time.perf_counter()
        for _ in embedder(self.ids, self.sample).vectors():
            pass
        ready, count = time.perf_counter() - began, COMPARED_SEQUENCES
        while True:
            if precision.job_gate is not None:  # the former run has put its encoder into int8
                encoder = self._copy(precision.dtype)
            sequences, places = self.draw(count), np.linspace(0, count - 1, COMPARED_SEQUENCES).astype(int)
            for place, sequence in zip(places, self.sample, strict=True):  # what is compared is part of what is timed
                sequences[place] = sequence
            vectors = np.full((COMPARED_SEQUENCES, encoder.config.width), np.nan, np.float32)
            job = embedder([str(i) for i in range(count)], sequences)
            began = time.perf_counter()
            for first, rows in job.vectors():
                here = (places >= first) & (places < first + len(rows))
                vectors[here] = rows[places[here] - first]
            seconds = time.perf_counter() - began
            if seconds > 0.7 * self.plan.seconds or count > 10**7:
                break
            count = max(2 * count, int(count * min(20.0, self.plan.seconds / seconds)))
        ran = job.statistics()
        facts = {key: ran[key] for key in KEPT_STATISTICS if key in ran} | {"sequences": count, "seconds": seconds}
        facts["tokens_per_second"] = ran["tokens"] / seconds
        if "gpu_seconds" in facts:
            facts["gpu_share"] = facts["gpu_seconds"] / seconds
        return count / seconds, vectors, facts | {"ready_seconds": ready}

    def _copy(self, dtype: torch.dtype) -> Encoder:
        encoder = self.encoder
        weights = {key: value.to(self.device, dtype, copy=True) for key, value in encoder.state_dict().items()}
        config, tokenizer = vars(encoder.config), encoder.tokenizer_json
        return build_encoder(encoder.architecture, config, weights, tokenizer, "benchmark").eval()


def random_encoder(architecture: str, shape: Shape, tokenizer: Path | None = None, device: str = "cpu") -> Encoder:
    """An encoder of that architecture and shape in fp32, with random weights: the same ones for each call.

    Args:
        architecture, shape: what to make, and how large.
        tokenizer: tokenizer.json, where tokens are byte pairs; if None, the bundled small model's.
        device: where it is made.
    """
    folder = installation.root() / "resources" / "models"
    bundled = [read_spec(folder / f"{name}.safetensors") for name in ARCHITECTURES[architecture].bundled]
    text = bundled[0].tokenizer if bundled else None
    if tokenizer and text is not None:
        text = tokenizer.read_text(encoding="utf-8")
    kind = encoder_class(architecture)
    torch.manual_seed(0)
    with torch.device(device):
        return kind(kind.Config(*shape), text)


def _sequences(plan: Plan) -> Callable[[int], list[bytes]]:
    """A function that gives so many sequences."""
    rng = np.random.default_rng(0)
    composition = plan.architecture.role.composition
    letters = np.frombuffer("".join(composition).encode(), np.uint8)
    weights = np.array(list(composition.values()), float)
    weights /= weights.sum()
    given = [plan.sequences[i] for i in rng.permutation(len(plan.sequences))]  # a file may be sorted

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
