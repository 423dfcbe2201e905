"""The parts of an encoder around its attention with as little beside the matrix products as can be.

The products that end in the residual stream are accumulated into it in place, without their biases: these are the
same for every token, so their running sum, in fp32, is added where LayerNorm reads the stream. What remains is one
kernel for each LayerNorm and each activation. In fp8 the products take rows and columns with scales of their own
(symmetric, by the largest magnitude), and the kernels round to fp8 as they write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from virnucpro.encoders.stages import Stages
from virnucpro.errors import ConfigError

if TYPE_CHECKING:
    from virnucpro.encoders.packing import Pack

KINDS = ("fused", "fp8")


def stages(model: Any, kind: str) -> Stages:
    """The fused stages of an ESM-2 or DNABERT-S; for "fp8" its matrices are replaced by fp8 ones."""
    if model.family == "esm2":
        _sum_biases(model)
        if kind == "fp8":
            for layer in model.layers:
                for name in ("qkv", "out", "fc1", "fc2"):
                    setattr(layer, name, Fp8Linear(getattr(layer, name)))
            return Stages(kind, _project_fp8, _finish_fp8, _final_fp8, _pool_esm2)
        return Stages(kind, _project_esm2, _finish_esm2, _final_esm2, _pool_esm2)
    if kind == "fp8":
        raise ConfigError("precision: fp8 is for ESM-2 only; DNABERT-S runs in fp16 beside it")
    for layer in model.layers:
        layer.shifts = (layer.out.bias.float(), layer.down.bias.float())
    return Stages(kind, _project_dnabert, _finish_dnabert, _final_dnabert, _pool_dnabert)


def _sum_biases(model: Any) -> None:
    shift = torch.zeros(model.config.width, device=model.embed_tokens.weight.device)
    for layer in model.layers:
        after_attention = shift + layer.out.bias.float()
        layer.shifts = (shift, after_attention)
        shift = after_attention + layer.fc2.bias.float()
    model.shift = shift


def _heads(layer: Any, qkv: torch.Tensor, cos: Any, sin: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from virnucpro.encoders.esm2 import rotate

    q, k, v = qkv.unflatten(-1, (3, layer.heads, -1)).unbind(1)
    return (q, k, v) if cos is None else (rotate(q, cos, sin), rotate(k, cos, sin), v)


def _project_esm2(layer: Any, x: torch.Tensor, cos: Any, sin: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from virnucpro.encoders.kernels.pointwise import norm

    return _heads(layer, layer.qkv(norm(x, layer.attention_norm, shift=layer.shifts[0])), cos, sin)


def _finish_esm2(layer: Any, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import gelu_, norm

    x.addmm_(attended.flatten(1), layer.out.weight.t())
    hidden = gelu_(layer.fc1(norm(x, layer.ffn_norm, shift=layer.shifts[1])))
    return x.addmm_(hidden, layer.fc2.weight.t())


def _final_esm2(model: Any, x: torch.Tensor) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import norm

    return norm(x, model.final_norm, shift=model.shift, dtype=torch.float32)


def _pool_esm2(model: Any, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
    from virnucpro.encoders.esm2 import POOLED_RESIDUES
    from virnucpro.encoders.kernels.pointwise import pool

    return pool(hidden, pack.cu_seqlens, skip=1, most=POOLED_RESIDUES)


class Fp8Linear(torch.nn.Module):
    """A linear layer whose weight is fp8 with a scale per output; takes fp8 rows with their scales."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        from virnucpro.encoders.kernels.pointwise import quantise

        super().__init__()
        self.weight, scales = quantise(linear.weight.detach())  # (out, in), (out, 1)
        self.scales = scales.t().contiguous()
        self.bias = linear.bias.detach()

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


# In fp8 the stream is a pair: what is summed up so far, and a product still to be added (by the next LayerNorm).


def _project_fp8(layer: Any, x: Any, cos: Any, sin: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from virnucpro.encoders.kernels.pointwise import FP8, norm

    x, added = x if isinstance(x, tuple) else (x, None)
    rows = norm(x, layer.attention_norm, shift=layer.shifts[0], added=added, dtype=FP8)
    return _heads(layer, layer.qkv.product(*rows, bias=True), cos, sin)


def _finish_fp8(layer: Any, x: Any, attended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from virnucpro.encoders.kernels.pointwise import FP8, norm, quantise

    x = x[0] if isinstance(x, tuple) else x
    product = layer.out.product(*quantise(attended.flatten(1)), bias=False)
    rows = norm(x, layer.ffn_norm, shift=layer.shifts[1], added=product, dtype=FP8)
    hidden = layer.fc1.product(*rows, bias=True)
    return x, layer.fc2.product(*quantise(hidden, gelu=True), bias=False)


def _final_fp8(model: Any, x: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import norm

    return norm(x[0], model.final_norm, shift=model.shift, added=x[1], dtype=torch.float32)


def _project_dnabert(layer: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return layer.project(x)


def _finish_dnabert(layer: Any, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import glu, norm

    x.addmm_(attended.flatten(1), layer.out.weight.t())
    norm(x, layer.attention_norm, shift=layer.shifts[0], out=x)
    x.addmm_(glu(layer.gated(x)), layer.down.weight.t())
    return norm(x, layer.ffn_norm, shift=layer.shifts[1], out=x)


def _final_dnabert(model: Any, x: torch.Tensor) -> torch.Tensor:
    return x


def _pool_dnabert(model: Any, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import pool

    return pool(hidden, pack.cu_seqlens)
