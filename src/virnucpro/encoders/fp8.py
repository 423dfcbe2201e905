"""ESM-2 with its feed-forward products, two thirds of all arithmetic, in fp8: rows and columns with their own scales.

Rounding the weights shifts every token's product alike, and a mean over tokens keeps just that. So each layer's biases
take back the mean difference that a fixed set of proteins shows between exact and rounded products (bias correction,
Nagel et al. 2019): with random weights the error of pooled vectors falls from 6 to 2 %. The projections around the
attention stay in half precision, and so does the first block, whose error all others carry on: that keeps the rest of the error
within the gate. Whether it does is measured on the job's own sequences, at its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from virnucpro.encoders.accuracy import relative_l2_rest
from virnucpro.encoders.attention import Sdpa
from virnucpro.encoders.ops import PYTORCH, Activation, Kernels, Stream, as_stream, scaled_product
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


class Fp8Linear(torch.nn.Module):
    """A linear layer whose weight is fp8 with a scale per output; takes fp8 rows with their scales."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        from virnucpro.encoders.kernels.pointwise import quantise

        super().__init__()
        self.weight, scales = quantise(linear.weight.detach())  # (out, in), (out, 1)
        self.scales = scales.t().contiguous()
        self.bias = linear.bias.detach().clone()

    def product(self, quantised: tuple[torch.Tensor, torch.Tensor], bias: bool) -> torch.Tensor:
        """Rows (T, in) fp8 and their scales (T, 1) fp32 -> (T, out) of the bias's dtype."""
        rows, scales = quantised
        dtype, added = self.bias.dtype, self.bias if bias else None
        return scaled_product(rows, scales, self.weight, self.scales, added, dtype)


class Fp8Kernels(Kernels):
    """Kernels that give the layers in fp8 their rows; a product in fp8 can't be accumulated, so the next norm adds it."""

    name = "fp8"

    def norm_linear(self, x: Any, module: torch.nn.LayerNorm, linear: Any) -> torch.Tensor:
        if not isinstance(linear, Fp8Linear):
            return super().norm_linear(x, module, linear)
        x = as_stream(x)
        added, x.product = x.product, None
        return linear.product(self.kernels.norm_fp8(x.values, module, shift=x.bias, added=added), bias=True)

    def add_linear(
        self, x: Any, hidden: torch.Tensor, linear: Any, activation: Activation | None = None, scale: float = 1.0
    ) -> Stream:
        if not isinstance(linear, Fp8Linear):
            return super().add_linear(x, hidden, linear, activation, scale)
        x = as_stream(x)
        x.product = linear.product(self.kernels.quantise(hidden, gelu=activation is not None), bias=False)
        x.bias = self.running_bias(x.bias, linear)
        return x


def convert(model: Encoder, ids: Sequence[str], sequences: Sequence[bytes]) -> float:
    """Put an ESM-2 on a GPU, in half precision, into fp8 in place, and check it on some of the job's sequences.

    Returns the relative L2 between fp8 and half precision, of the sample's mean squares, without outlier dimensions.
    Raises ConfigError where that is more than fp8's gate.
    """
    sample = np.unique(np.linspace(0, len(sequences) - 1, min(len(sequences), GATE_SEQUENCES)).astype(int))
    model.ops = Kernels()
    exact = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    _quantise(model)
    model.ops = Fp8Kernels()
    found = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    errors = relative_l2_rest(found, exact) if len(sample) else np.zeros(1)
    error, gate = float(np.sqrt(np.mean(errors**2))), PRECISIONS["fp8"].gate.relative_l2
    if not error <= gate:
        raise ConfigError(
            f"precision: fp8 changes the vectors of {len(sample)} of these sequences by {error:.3g} (relative L2 without "
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
def _quantise(model: Any) -> None:
    """Replace the feed-forward layers, block by block, while exact and rounded streams go through them side by side."""
    from virnucpro.encoders.kernels.pointwise import quantise

    tokens, lengths = model.tokenize(calibration_proteins())
    batch = PackedBatch.build(lengths, tokens).to(model.embed_tokens.weight.device)
    attend = Sdpa().prepare(batch, rotary=model.rotary(batch.max_length))
    exact = model.embed(batch.tokens).float()
    for layer in model.layers[:HALF_BLOCKS]:
        x = exact.to(layer.qkv.weight.dtype)
        exact = layer(PYTORCH, x, attend).float()
    found = exact
    for layer in model.layers[HALF_BLOCKS:]:
        streams = []
        for x in (exact, found):
            attended = attend(*layer.project(PYTORCH, x.to(layer.qkv.weight.dtype)))
            streams.append(x + layer.out(attended.flatten(1)).float())
        exact, found = streams
        right, rounded = (layer.ffn_norm(x.to(layer.qkv.weight.dtype)) for x in streams)
        first, second = Fp8Linear(layer.fc1), Fp8Linear(layer.fc2)
        right, rounded = layer.fc1(right), first.product(quantise(rounded), bias=True)
        rounded = rounded + _correct(first, right, rounded)
        right, rounded = layer.fc2(F.gelu(right)), second.product(quantise(rounded, gelu=True), bias=True)
        rounded = rounded + _correct(second, right, rounded)
        exact, found = exact + right.float(), found + rounded.float()
        layer.fc1, layer.fc2 = first, second


def _correct(layer: Fp8Linear, right: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    difference = (right.float() - rounded.float()).mean(0)
    layer.bias += difference.to(layer.bias.dtype)
    return difference.to(layer.bias.dtype)
