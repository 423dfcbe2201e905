"""The parts of an encoder around its attention with as little beside the matrix products as can be.

The products that end in the residual stream are accumulated into it in place, without their biases: these are the
same for every token, so their running sum, in fp32, is added where LayerNorm reads the stream. What remains is one
kernel for each LayerNorm and each activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from virnucpro.encoders.stages import Stages

if TYPE_CHECKING:
    from virnucpro.encoders.packing import Pack


def stages(model: Any) -> Stages:
    """The fused stages of an ESM-2 or DNABERT-S, on a GPU and with its final weights."""
    if model.family == "esm2":
        derive(model)
        return Stages("fused", embed_esm2, project_esm2, finish_esm2, _final_esm2, pool_esm2)
    model.shift = model.token_type.detach().float()
    for layer in model.layers:
        layer.shifts = (layer.out.bias.float(), layer.down.bias.float())
    return Stages("fused", _embed_dnabert, _project_dnabert, _finish_dnabert, _final_dnabert, _pool_dnabert)


def derive(model: Any) -> None:
    """What an ESM-2's stages use in place of some weights.

    Each block's sums of biases, (d,) fp32, that its two LayerNorms add to the stream, and the model's last; and the
    token embeddings as token dropout scales them, which is alike for all tokens: no letter stands for <mask>.
    """
    from virnucpro.encoders.esm2 import MASK, TRAINING_MASK_FRACTION

    weight = model.embed_tokens.weight.detach()
    scale = 1 - TRAINING_MASK_FRACTION if model.config.token_dropout else 1.0
    model.table = (weight.float() * scale).to(weight.dtype)
    model.table[MASK] = torch.nan  # would change the scale of all others: not to be overlooked
    shift = torch.zeros(model.config.width, device=model.embed_tokens.weight.device)
    for layer in model.layers:
        after_attention = shift + layer.out.bias.float()
        layer.shifts = (shift, after_attention)
        shift = after_attention + layer.fc2.bias.float()
    model.shift = shift


def embed_esm2(model: Any, tokens: torch.Tensor, pack: Pack) -> torch.Tensor:
    """tokens (T,) -> (T, d), as ``ESM2.embed``."""
    return torch.nn.functional.embedding(tokens, model.table)


def heads(layer: Any, qkv: torch.Tensor, cos: Any, sin: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """qkv (T, 3·d) -> q, k, v (T, H, D), rotated unless cos is None."""
    from virnucpro.encoders.esm2 import rotate

    q, k, v = qkv.unflatten(-1, (3, layer.heads, -1)).unbind(1)
    return (q, k, v) if cos is None else (rotate(q, cos, sin), rotate(k, cos, sin), v)


def project_esm2(layer: Any, x: torch.Tensor, cos: Any, sin: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (T, d) without the biases so far -> q, k, v (T, H, D); rotated unless cos is None."""
    from virnucpro.encoders.kernels.pointwise import norm

    return heads(layer, layer.qkv(norm(x, layer.attention_norm, shift=layer.shifts[0])), cos, sin)


def finish_esm2(layer: Any, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """x (T, d), which is changed, attended (T, H, D) -> (T, d) without the biases so far."""
    from virnucpro.encoders.kernels.pointwise import gelu_, norm

    x.addmm_(attended.flatten(1), layer.out.weight.t())
    hidden = gelu_(layer.fc1(norm(x, layer.ffn_norm, shift=layer.shifts[1])))
    return x.addmm_(hidden, layer.fc2.weight.t())


def _final_esm2(model: Any, x: torch.Tensor) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import norm

    return norm(x, model.final_norm, shift=model.shift, dtype=torch.float32)


def pool_esm2(model: Any, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
    """(T, d) -> (n, d) fp32, as ``ESM2.pool_plain``."""
    from virnucpro.encoders.esm2 import POOLED_RESIDUES
    from virnucpro.encoders.kernels.pointwise import pool

    return pool(hidden, pack.cu_seqlens, skip=1, most=POOLED_RESIDUES)


def _embed_dnabert(model: Any, tokens: torch.Tensor, pack: Pack) -> torch.Tensor:
    from virnucpro.encoders.kernels.pointwise import norm

    x = model.embed_tokens(tokens)
    return norm(x, model.embed_norm, shift=model.shift, out=x)


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
