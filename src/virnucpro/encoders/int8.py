"""ESM-2 with products in int8: rows and weights of 8 bits, each row and each output with a scale of its own.

A row's steps are all of one size, so a few large numbers would take them from all others. Rows and weights are therefore
rotated first, 256 neighbours at a time, by a Hadamard matrix, which spreads large numbers and changes no product (QuaRot,
Ashkboos et al. 2024).

Rounding the weights shifts every token's product alike, and a mean over tokens keeps just that. So each layer's biases
take back the mean difference that a fixed set of proteins shows between exact and rounded products (bias correction,
Nagel et al. 2019). The first block, whose error all others carry on, stays in half precision. What that leaves is measured
on the job's own sequences, at its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from virnucpro.encoders.accuracy import relative_l2_rest
from virnucpro.encoders.attention import Sdpa
from virnucpro.encoders.ops import PYTORCH, Activation, Kernels, Stream, as_stream, split_heads
from virnucpro.encoders.packing import PackedBatch, gather_sequences, plan_batches
from virnucpro.encoders.precision import PRECISIONS
from virnucpro.errors import ConfigError
from virnucpro.models.registry import PROTEIN

if TYPE_CHECKING:
    from virnucpro.encoders.encoder import Encoder

GATE_SEQUENCES = 64
GATE_TOKENS = 16384  # at a time
HALF_BLOCKS = 1  # the first ones, left in half precision: with random weights the first four make half of the error
CALIBRATION_SHAPE = (32, 166)  # proteins, residues
ROTATED = 256  # neighbours in a row that are rotated together, where they divide its width
DIVISOR = 32  # of widths: what the smallest product on tensor cores sums up at a time


def rotates(width: int) -> bool:
    """Whether rows of that width are rotated before they are rounded."""
    return width % ROTATED == 0


def rotate(x: torch.Tensor) -> torch.Tensor:
    """(T, d) fp32 -> each 256 neighbours times the orthonormal Hadamard matrix, in the order that the kernels leave."""
    sixteen = torch.ones(1, 1, device=x.device)
    for _ in range(4):
        sixteen = torch.cat((torch.cat((sixteen, sixteen), 1), torch.cat((sixteen, -sixteen), 1)))
    squares = x.reshape(-1, 16, 16)
    return (sixteen @ squares.transpose(1, 2) @ sixteen / 16).reshape(x.shape)


def round_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, d) -> rows in int8, rotated where their width allows it, and scales (T, 1) fp32."""
    if x.is_cuda:
        from virnucpro.encoders.kernels.pointwise import quantise

        return quantise(x, rotates(x.shape[1]))
    value = rotate(x.float()) if rotates(x.shape[1]) else x.float()
    scales = value.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (value / scales).round().to(torch.int8), scales


class Int8Linear(torch.nn.Module):
    """A linear layer whose weight is in int8 with a scale per output."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, scales = round_rows(linear.weight.detach())  # (out, in), (out, 1)
        self.scales = scales.t().contiguous()
        self.bias = linear.bias.detach().clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, in) -> (T, out); the rows are rounded first."""
        rows, scales = round_rows(x)
        if x.is_cuda:
            return self.product((rows, scales))
        product = (rows.float() @ self.weight.float().t()) * scales * self.scales
        return (product + self.bias.float()).to(self.bias.dtype)

    def product(
        self, rounded: tuple[torch.Tensor, torch.Tensor], gelu: bool = False, into: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rows (T, in) int8 and their scales (T, 1) fp32 -> (T, out) of the bias's dtype, by a kernel.

        With GELU at its end if asked for; or without its bias, added to ``into`` (T, out) in place.
        """
        from virnucpro.encoders.kernels.products import int8_product

        bias = self.bias if into is None else None
        return int8_product(*rounded, self.weight, self.scales, bias, self.bias.dtype, gelu, into)


class Int8Kernels(Kernels):
    """Kernels that give layers in int8 their rows, and accumulate what these layers add to the stream into it."""

    name = "int8"

    def norm_rounded(self, x: Any, module: torch.nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """LayerNorm of the stream as rows in int8 with their scales."""
        x = as_stream(x)
        return self.kernels.norm_quantised(x.values, module, rotates(x.values.shape[1]), shift=x.bias)

    def norm_linear(self, x: Any, module: torch.nn.LayerNorm, linear: Any) -> torch.Tensor:
        if not isinstance(linear, Int8Linear):
            return super().norm_linear(x, module, linear)
        return linear.product(self.norm_rounded(x, module))

    def add_linear(
        self, x: Any, hidden: torch.Tensor, linear: Any, activation: Activation | None = None, scale: float = 1.0
    ) -> Stream:
        if not isinstance(linear, Int8Linear):
            return super().add_linear(x, hidden, linear, activation, scale)
        assert activation is None and scale == 1.0, "ESM-2 has neither here"
        x = as_stream(x)
        linear.product(self.kernels.quantise(hidden, rotates(hidden.shape[1])), into=x.values)
        x.bias = self.running_bias(x.bias, linear)
        return x

    def feed_forward(self, x: Any, norm: torch.nn.LayerNorm, first: Any, second: Any) -> Stream:
        if not isinstance(first, Int8Linear):
            return super().feed_forward(x, norm, first, second)
        x = as_stream(x)
        return self.add_linear(x, first.product(self.norm_rounded(x, norm), gelu=True), second)


def convert(model: Encoder, ids: Sequence[str], sequences: Sequence[bytes]) -> float:
    """Put an ESM-2 on a GPU, in half precision, into int8 in place, and check it on some of the job's sequences.

    Returns the relative L2 between both, of the sample's mean squares, without outlier dimensions. Raises ConfigError
    where that is more than a job is allowed, and for widths that have no such products.
    """
    gate = PRECISIONS["int8"].job_gate
    assert gate is not None
    for name in ("width", "ffn"):
        if (size := getattr(model.config, name)) % DIVISOR:
            raise ConfigError(
                f"precision: int8 needs layers whose widths are multiples of {DIVISOR}; this model's {name} is {size}. "
                "Use 'fp16' or 'auto'."
            )
    sample = np.unique(np.linspace(0, len(sequences) - 1, min(len(sequences), GATE_SEQUENCES)).astype(int))
    model.ops = Kernels()
    exact = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    round_layers(model)
    model.ops = Int8Kernels()
    found = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    errors = relative_l2_rest(found, exact) if len(sample) else np.zeros(1)
    error = float(np.sqrt(np.mean(errors**2)))
    if not error <= gate:
        raise ConfigError(
            f"precision: int8 changes the vectors of {len(sample)} of these sequences by {error:.3g} (relative L2 without "
            f"outlier dimensions), more than the {gate} allowed. Use 'fp16' or 'auto' for this model."
        )
    return error


@torch.inference_mode()
def _vectors(model: Encoder, ids: list[str], sequences: list[bytes]) -> np.ndarray:
    vectors = np.empty((len(sequences), model.config.width), np.float32)
    tokens, lengths = model.tokenize(sequences, ids) if sequences else (np.empty(0, np.uint8), np.empty(0, np.int64))
    for rows in plan_batches(lengths, GATE_TOKENS):
        batch = PackedBatch.build(lengths[rows], gather_sequences(tokens, lengths, rows))
        vectors[rows] = model.vectors(batch.to(model.embed_tokens.weight.device)).cpu().numpy()
    return vectors


def calibration_proteins() -> list[bytes]:
    """Proteins of natural composition, the same ones everywhere: results must not depend on the shard."""
    letters = np.frombuffer("".join(PROTEIN.composition).encode(), np.uint8)
    weights = np.array(list(PROTEIN.composition.values())) / sum(PROTEIN.composition.values())
    return [row.tobytes() for row in np.random.default_rng(0).choice(letters, CALIBRATION_SHAPE, p=weights)]


@torch.inference_mode()
def round_layers(model: Any) -> None:
    """Replace an ESM-2's layers, block by block, while exact and rounded streams go through them side by side."""
    tokens, lengths = model.tokenize(calibration_proteins())
    batch = PackedBatch.build(lengths, tokens).to(model.embed_tokens.weight.device)
    attend = Sdpa().prepare(batch, rotary=model.rotary(batch.max_length))
    dtype = model.embed_tokens.weight.dtype
    exact = model.embed(batch.tokens).float()
    for layer in model.layers[:HALF_BLOCKS]:
        exact = layer(PYTORCH, exact.to(dtype), attend).float()
    found = exact
    for layer in model.layers[HALF_BLOCKS:]:
        streams = (layer.attention_norm(x.to(dtype)) for x in (exact, found))
        streams = (attend(*split_heads(qkv, layer.heads)) for qkv in _round_layer(layer, "qkv", *streams))
        right, rounded = _round_layer(layer, "out", *(attended.flatten(1) for attended in streams))
        exact, found = exact + right.float(), found + rounded.float()
        streams = (layer.ffn_norm(x.to(dtype)) for x in (exact, found))
        right, rounded = _round_layer(layer, "fc1", *streams)
        right, rounded = _round_layer(layer, "fc2", F.gelu(right), F.gelu(rounded, approximate="tanh"))
        exact, found = exact + right.float(), found + rounded.float()


def _round_layer(
    layer: torch.nn.Module, name: str, exact: torch.Tensor, found: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a block's layer into int8, with a bias that makes up for the mean difference.

    Takes its inputs (T, in) as they were and as they are, gives its outputs (T, out).
    """
    linear = getattr(layer, name)
    right, rounded = linear(exact), Int8Linear(linear)
    setattr(layer, name, rounded)
    out = rounded(found)
    difference = (right.float() - out.float()).mean(0).to(out.dtype)
    rounded.bias += difference
    return right, out + difference
