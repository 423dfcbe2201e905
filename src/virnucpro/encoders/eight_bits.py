"""ESM-2 with products in 8 bits: fp8 or int8 rows and weights, each row and each output with a scale of its own.

Rounding the weights shifts every token's product alike, and a mean over tokens keeps just that. So each layer's biases
take back the mean difference that a fixed set of proteins shows between exact and rounded products (bias correction,
Nagel et al. 2019): with random weights the error of pooled vectors in fp8 falls from 6 to 2 %. The first block, whose error
all others carry on, stays in half precision. What that leaves is measured on the job's own sequences, at its start.

fp8 has 4 significant bits wherever a number lies: only the feed-forward products, two thirds of all arithmetic, keep the
error within the gate. int8 has steps of one size for a row. Rows of ordinary numbers lose half as much to them, all
products can be in int8; but a few large numbers would take the steps from all others. So rows and weights are rotated
first, 256 neighbours at a time, by a Hadamard matrix, which spreads large numbers and changes no product (QuaRot, Ashkboos et
al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from virnucpro.encoders.accuracy import relative_l2_rest
from virnucpro.encoders.attention import Sdpa
from virnucpro.encoders.ops import PYTORCH, Activation, Kernels, Stream, as_stream, scaled_product, split_heads
from virnucpro.encoders.packing import PackedBatch, gather_sequences, plan_batches
from virnucpro.encoders.precision import Precision
from virnucpro.errors import ConfigError
from virnucpro.models.registry import PROTEIN

if TYPE_CHECKING:
    from virnucpro.encoders.encoder import Encoder

GATE_SEQUENCES = 64
GATE_TOKENS = 16384  # at a time
HALF_BLOCKS = 1  # the first ones, left in half precision: with random weights the first four make half of the error
CALIBRATION_SHAPE = (32, 166)  # proteins, residues
ROTATED = 256  # neighbours in a row that are rotated together, where they divide its width


@dataclass(frozen=True)
class Format:
    """Numbers of 8 bits."""

    name: str
    dtype: torch.dtype
    largest: float
    layers: frozenset[str]  # of a block, whose products are in it
    gelu: str  # F.gelu's approximation that the kernels come near

    def rotates(self, width: int) -> bool:
        """Whether rows of that width are rotated before they are rounded."""
        return self.dtype == torch.int8 and width % ROTATED == 0


FP8 = Format("fp8", torch.float8_e4m3fn, 448.0, frozenset({"fc1", "fc2"}), "none")
INT8 = Format("int8", torch.int8, 127.0, frozenset({"qkv", "out", "fc1", "fc2"}), "tanh")
FORMATS = {each.name: each for each in (FP8, INT8)}


def rotate(x: torch.Tensor) -> torch.Tensor:
    """(T, d) fp32 -> each 256 neighbours times the orthonormal Hadamard matrix, in the order that the kernels leave."""
    sixteen = torch.ones(1, 1, device=x.device)
    for _ in range(4):
        sixteen = torch.cat((torch.cat((sixteen, sixteen), 1), torch.cat((sixteen, -sixteen), 1)))
    squares = x.reshape(-1, 16, 16)
    return (sixteen @ squares.transpose(1, 2) @ sixteen / 16).reshape(x.shape)


def round_rows(x: torch.Tensor, form: Format, gelu: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, d) -> rows of 8 bits, rotated if their format asks for it, and scales (T, 1) fp32; of GELU(x) if asked for."""
    if x.is_cuda:
        from virnucpro.encoders.kernels.pointwise import quantise

        return quantise(x, form, gelu)
    value = F.gelu(x.float()) if gelu else x.float()
    if form.rotates(x.shape[1]):
        value = rotate(value)
    scales = value.abs().amax(1, keepdim=True).clamp(min=1e-12) / form.largest
    value = value / scales
    return (value.round() if form.dtype == torch.int8 else value).to(form.dtype), scales


class RoundedLinear(torch.nn.Module):
    """A linear layer whose weight is in 8 bits with a scale per output; for rows in 8 bits, or any that it rounds first."""

    def __init__(self, linear: torch.nn.Linear, form: Format) -> None:
        super().__init__()
        self.form = form
        self.weight, scales = round_rows(linear.weight.detach(), form)  # (out, in), (out, 1)
        self.scales = scales.t().contiguous()
        self.bias = linear.bias.detach().clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, in) -> (T, out)."""
        rounded = round_rows(x, self.form)
        if x.is_cuda and self.form is INT8:
            return self.int8_product(rounded, bias=True)
        return self.product(rounded, bias=True)

    def product(self, rounded: tuple[torch.Tensor, torch.Tensor], bias: bool) -> torch.Tensor:
        """Rows (T, in) of 8 bits and their scales (T, 1) fp32 -> (T, out) of the bias's dtype; int8 on a CPU alone."""
        rows, scales = rounded
        return scaled_product(rows, scales, self.weight, self.scales, self.bias if bias else None, self.bias.dtype)

    def int8_product(
        self,
        rounded: tuple[torch.Tensor, torch.Tensor],
        bias: bool,
        gelu: bool = False,
        into: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The same by a kernel, with GELU at its end, or added to ``into`` (T, out) in place."""
        from virnucpro.encoders.kernels import products

        rows, scales = rounded
        added = self.bias if bias else None
        return products.int8_product(rows, scales, self.weight, self.scales, added, self.bias.dtype, gelu, into)


class EightBitKernels(Kernels):
    """Kernels that give the layers in 8 bits their rows.

    A product in int8 is accumulated into the stream; one in fp8 can't be, so the next norm adds it.
    """

    def __init__(self, form: Format) -> None:
        super().__init__()
        self.form, self.name = form, form.name

    def norm_rounded(self, x: Any, module: torch.nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """LayerNorm of the stream as rows of 8 bits with their scales."""
        x = as_stream(x)
        added, x.product = x.product, None
        return self.kernels.norm_quantised(x.values, module, self.form, shift=x.bias, added=added)

    def norm_linear(self, x: Any, module: torch.nn.LayerNorm, linear: Any) -> torch.Tensor:
        if not isinstance(linear, RoundedLinear):
            return super().norm_linear(x, module, linear)
        rows = self.norm_rounded(x, module)
        return linear.int8_product(rows, bias=True) if self.form is INT8 else linear.product(rows, bias=True)

    def add_linear(
        self, x: Any, hidden: torch.Tensor, linear: Any, activation: Activation | None = None, scale: float = 1.0
    ) -> Stream:
        if not isinstance(linear, RoundedLinear):
            return super().add_linear(x, hidden, linear, activation, scale)
        x = as_stream(x)
        rows = self.kernels.quantise(hidden, self.form, gelu=activation is not None)
        if self.form is INT8:
            linear.int8_product(rows, bias=False, into=x.values)
        else:
            x.product = linear.product(rows, bias=False)
        x.bias = self.running_bias(x.bias, linear)
        return x

    def feed_forward(self, x: Any, norm: torch.nn.LayerNorm, first: Any, second: Any) -> Stream:
        if self.form is not INT8 or not isinstance(first, RoundedLinear):
            return super().feed_forward(x, norm, first, second)
        x = as_stream(x)
        return self.add_linear(x, first.int8_product(self.norm_rounded(x, norm), bias=True, gelu=True), second)


def convert(model: Encoder, ids: Sequence[str], sequences: Sequence[bytes], precision: Precision) -> float:
    """Put an ESM-2 on a GPU, in half precision, into 8 bits in place, and check it on some of the job's sequences.

    Returns the relative L2 between both, of the sample's mean squares, without outlier dimensions. Raises ConfigError
    where that is more than the precision allows a job.
    """
    form, gate = FORMATS[precision.name], precision.job_gate
    assert gate is not None
    sample = np.unique(np.linspace(0, len(sequences) - 1, min(len(sequences), GATE_SEQUENCES)).astype(int))
    model.ops = Kernels()
    exact = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    round_layers(model, form)
    model.ops = EightBitKernels(form)
    found = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    errors = relative_l2_rest(found, exact) if len(sample) else np.zeros(1)
    error = float(np.sqrt(np.mean(errors**2)))
    if not error <= gate:
        raise ConfigError(
            f"precision: {form.name} changes the vectors of {len(sample)} of these sequences by {error:.3g} (relative L2 "
            f"without outlier dimensions), more than the {gate} allowed. Use 'fp16' or 'auto' for this model."
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
def round_layers(model: Any, form: Format) -> None:
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
        streams = (attend(*split_heads(qkv, layer.heads)) for qkv in _round_layer(layer, "qkv", form, *streams))
        right, rounded = _round_layer(layer, "out", form, *(attended.flatten(1) for attended in streams))
        exact, found = exact + right.float(), found + rounded.float()
        streams = (layer.ffn_norm(x.to(dtype)) for x in (exact, found))
        right, rounded = _round_layer(layer, "fc1", form, *streams)
        right, rounded = _round_layer(layer, "fc2", form, F.gelu(right), F.gelu(rounded, approximate=form.gelu))
        exact, found = exact + right.float(), found + rounded.float()


def _round_layer(
    layer: torch.nn.Module, name: str, form: Format, exact: torch.Tensor, found: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a block's layer into 8 bits, if its format does, with a bias that makes up for the mean difference.

    Takes its inputs (T, in) as they were and as they are, gives its outputs (T, out).
    """
    linear = getattr(layer, name)
    right = linear(exact)
    if name not in form.layers:
        return right, linear(found)
    rounded = RoundedLinear(linear, form)
    setattr(layer, name, rounded)
    out = rounded(found)
    difference = (right.float() - out.float()).mean(0).to(out.dtype)
    rounded.bias += difference
    return right, out + difference
