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

from virnucpro.encoders import fused
from virnucpro.encoders.accuracy import RELATIVE_L2, relative_l2_rest
from virnucpro.encoders.attention import Sdpa
from virnucpro.encoders.packing import Pack, gather_sequences, plan_packs
from virnucpro.encoders.stages import Stages
from virnucpro.errors import ConfigError

if TYPE_CHECKING:
    from virnucpro.encoders.esm2 import ESM2

SMALLEST = (8, 9)  # compute capability of the first GPUs with fp8 products
GATE_SEQUENCES = 64
GATE_TOKENS = 16384  # at a time
HALF_BLOCKS = 1  # the first ones, left in half precision: with random weights the first four make half of the error
CALIBRATION = (32, 166)  # proteins, residues
FREQUENCIES = {  # per thousand residues in UniProtKB/Swiss-Prot
    "L": 97, "A": 83, "G": 71, "V": 69, "E": 67, "S": 66, "I": 59, "K": 58, "R": 55, "D": 55,
    "T": 54, "P": 47, "N": 41, "Q": 39, "F": 39, "Y": 29, "M": 24, "H": 23, "C": 14, "W": 11,
}  # fmt: skip


def obstacle(device: torch.device) -> str | None:
    """Why fp8 can't be computed on a device, or None where it can."""
    if device.type != "cuda":
        return "a CPU has no arithmetic for it"
    if torch.cuda.get_device_capability(device) < SMALLEST:
        return f"{torch.cuda.get_device_name(device)} has no arithmetic for it (compute capability 8.9 has)"
    return None


class Fp8Linear(torch.nn.Module):
    """A linear layer whose weight is fp8 with a scale per output; takes fp8 rows with their scales."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        from virnucpro.encoders.kernels.pointwise import quantise

        super().__init__()
        self.weight, scales = quantise(linear.weight.detach())  # (out, in), (out, 1)
        self.scales = scales.t().contiguous()
        self.bias = linear.bias.detach().clone()

    def product(self, rows: torch.Tensor, scales: torch.Tensor, bias: bool) -> torch.Tensor:
        """rows (T, in) fp8, scales (T, 1) fp32 -> (T, out) of the bias's dtype."""
        return torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scales,
            scale_b=self.scales,
            bias=self.bias if bias else None,
            out_dtype=self.bias.dtype,
            use_fast_accum=True,
        )


def convert(model: ESM2, ids: Sequence[str], sequences: Sequence[bytes]) -> float:
    """Put an ESM-2 on a GPU, in half precision, into fp8 in place, and check it on some of the job's sequences.

    Returns the relative L2 between fp8 and half precision, of the sample's mean squares, without dominating
    dimensions. Raises ConfigError where that is more than fp8's gate.
    """
    sample = np.unique(np.linspace(0, len(sequences) - 1, min(len(sequences), GATE_SEQUENCES)).astype(int))
    model.stages = fused.stages(model)
    exact = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    _quantise(model)
    model.stages = Stages("fp8", fused.embed_esm2, _project, _finish, _final, fused.pool_esm2)
    found = _vectors(model, [ids[i] for i in sample], [sequences[i] for i in sample])
    errors = relative_l2_rest(found, exact) if len(sample) else np.zeros(1)
    error, gate = float(np.sqrt(np.mean(errors**2))), RELATIVE_L2["fp8"]
    if not error <= gate:
        raise ConfigError(
            f"precision: fp8 changes the vectors of {len(sample)} of these sequences by {error:.3g} (relative L2 without "
            f"dominating dimensions), more than the {gate} allowed. Use 'fp16' or 'auto' for this model."
        )
    return error


@torch.inference_mode()
def _vectors(model: Any, ids: list[str], sequences: list[bytes]) -> np.ndarray:
    vectors = np.empty((len(sequences), model.config.width), np.float32)
    tokens, lengths = model.tokenize(sequences, ids) if sequences else (np.empty(0, np.uint8), np.empty(0, np.int64))
    for rows in plan_packs(lengths, GATE_TOKENS):
        pack = Pack.build(lengths[rows], gather_sequences(tokens, lengths, rows)).to(model.embed_tokens.weight.device)
        vectors[rows] = model.pool(model(pack.tokens, pack), pack).cpu().numpy()
    return vectors


def calibration_proteins() -> list[bytes]:
    """Proteins of natural composition, the same ones everywhere: results must not depend on the shard."""
    rng, letters = np.random.default_rng(0), np.frombuffer("".join(FREQUENCIES).encode(), np.uint8)
    weights = np.array(list(FREQUENCIES.values())) / sum(FREQUENCIES.values())
    return [row.tobytes() for row in rng.choice(letters, CALIBRATION, p=weights)]


@torch.inference_mode()
def _quantise(model: Any) -> None:
    """Replace the feed-forward layers, block by block, while exact and rounded streams go through them side by side."""
    from virnucpro.encoders.esm2 import rotary_tables
    from virnucpro.encoders.kernels.pointwise import quantise

    tokens, lengths = model.tokenize(calibration_proteins())
    pack = Pack.build(lengths, tokens).to(model.embed_tokens.weight.device)
    attend = Sdpa().prepare(pack)
    cos, sin = rotary_tables(pack.positions, model.config.head_dim)
    exact = model.embed(pack.tokens, pack).float()
    for layer in model.layers[:HALF_BLOCKS]:
        x = exact.to(layer.qkv.weight.dtype)
        exact = layer.finish(x, attend(*layer.project(x, cos, sin))).float()
    found = exact
    for layer in model.layers[HALF_BLOCKS:]:
        streams = []
        for x in (exact, found):
            attended = attend(*layer.project(x.to(layer.qkv.weight.dtype), cos, sin))
            streams.append(x + layer.out(attended.flatten(1)).float())
        exact, found = streams
        right, rounded = (layer.ffn_norm(x.to(layer.qkv.weight.dtype)) for x in streams)
        first, second = Fp8Linear(layer.fc1), Fp8Linear(layer.fc2)
        right, rounded = layer.fc1(right), first.product(*quantise(rounded), bias=True)
        rounded = rounded + _correct(first, right, rounded)
        right, rounded = layer.fc2(F.gelu(right)), second.product(*quantise(rounded, gelu=True), bias=True)
        rounded = rounded + _correct(second, right, rounded)
        exact, found = exact + right.float(), found + rounded.float()
        layer.fc1, layer.fc2 = first, second
    fused.derive(model)


def _correct(layer: Fp8Linear, right: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    difference = (right.float() - rounded.float()).mean(0)
    layer.bias += difference.to(layer.bias.dtype)
    return difference.to(layer.bias.dtype)


# Behind a block in fp8 the stream is a pair: what is summed up so far, and a product that the next LayerNorm adds.


def _project(layer: Any, x: Any, cos: Any, sin: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from virnucpro.encoders.kernels.pointwise import norm

    x, added = x if isinstance(x, tuple) else (x, None)
    normed = norm(x, layer.attention_norm, shift=layer.shifts[0], added=added)
    return fused.heads(layer, layer.qkv(normed), cos, sin)


def _finish(layer: Any, x: Any, attended: torch.Tensor) -> Any:
    from virnucpro.encoders.kernels.pointwise import norm_fp8, quantise

    x = x[0] if isinstance(x, tuple) else x
    if not isinstance(layer.fc1, Fp8Linear):
        return fused.finish_esm2(layer, x, attended)
    x.addmm_(attended.flatten(1), layer.out.weight.t())
    hidden = layer.fc1.product(*norm_fp8(x, layer.ffn_norm, shift=layer.shifts[1]), bias=True)
    return x, layer.fc2.product(*quantise(hidden, gelu=True), bias=False)


def _final(model: Any, x: Any) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import norm

    x, added = x if isinstance(x, tuple) else (x, None)
    return norm(x, model.final_norm, shift=model.shift, added=added, dtype=torch.float32)
