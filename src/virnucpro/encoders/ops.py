"""The operations that encoders are written in, beside plain linear layers: in PyTorch, or as kernels on a GPU.

A model's forward pass is one text over these; which set computes it is chosen for each job. ``Ops`` is plain PyTorch: on
any device, differentiable, what torch.compile compiles. ``Kernels`` does the same with as little beside the matrix
products as can be: products that end in the residual stream are accumulated into it in place, without their biases. These
are the same for every token, so their running sum, in fp32, is added where LayerNorm reads the stream. What remains is
one Triton kernel for each LayerNorm and each activation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from virnucpro.encoders.packing import PackedBatch

Activation = Callable[[torch.Tensor], torch.Tensor]
Part = TypeVar("Part", bound=Callable)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """erf-GELU."""
    return F.gelu(x)


def gated_gelu(x: torch.Tensor) -> torch.Tensor:
    """(T, 2·f) -> (T, f): GELU of the first half times the second."""
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(gate) * value


def gated_silu(x: torch.Tensor) -> torch.Tensor:
    """(T, 2·f) -> (T, f): SiLU of the first half times the second, as in SwiGLU."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


@dataclass
class Stream:
    """The residual stream between kernels, which change it in place."""

    values: torch.Tensor  # (T, d)
    bias: torch.Tensor | None = None  # (d,) fp32, what every token still lacks


class Ops:
    """Plain PyTorch. ``x`` is the residual stream, (T, d), between the operations that take it."""

    name = "pytorch"

    def part(self, part: Callable) -> Callable:
        """How a part of a block marked ``compilable`` is called."""
        return part

    def norm(
        self, x: Any, module: nn.LayerNorm, *, overwrite: bool = False, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """LayerNorm of the stream, in ``dtype`` if given; with ``overwrite`` nobody reads x again, which may be a view."""
        return module(x) if dtype is None else module(x).to(dtype)

    def linear(self, x: torch.Tensor, linear: Any) -> torch.Tensor:
        """linear(x), (T, in) -> (T, out)."""
        return linear(x)

    def norm_linear(self, x: Any, module: nn.LayerNorm, linear: nn.Module) -> torch.Tensor:
        """linear(LayerNorm(x)), (T, out)."""
        return self.linear(self.norm(x, module), linear)

    def gated(self, x: torch.Tensor, linear: Any, activation: Activation) -> torch.Tensor:
        """activation(linear(x)), (T, in) -> (T, out/2), of a layer without bias that gives gates and values."""
        return activation(linear(x))

    def add_bias(self, x: Any, bias: torch.Tensor) -> Any:
        """The stream, and a vector (d,) for every token."""
        return x + bias

    def add_linear(
        self, x: Any, hidden: torch.Tensor, linear: Any, activation: Activation | None = None, scale: float = 1.0
    ) -> Any:
        """x + scale · linear(activation(hidden)); hidden (T, f) isn't read again. Only layers without bias are scaled."""
        product = linear(activation(hidden) if activation else hidden)
        return x + (product if scale == 1.0 else product * scale)

    def feed_forward(self, x: Any, norm: nn.LayerNorm, first: nn.Module, second: nn.Module) -> Any:
        """x + second(GELU(first(LayerNorm(x)))), both layers with biases."""
        return self.add_linear(x, self.norm_linear(x, norm, first), second, gelu)

    def mean(self, hidden: torch.Tensor, batch: PackedBatch, skip: int = 0, limit: int = 0) -> torch.Tensor:
        """(T, d) -> (n, d) fp32: mean of each sequence's tokens without ``skip`` at either end, of the first ``limit``."""
        counts = batch.lengths - 2 * skip
        if limit:
            counts = counts.clamp(max=limit)
        at = batch.positions - skip
        inside = (at >= 0) & (at < batch.per_token(counts))
        return batch.segment_sum(hidden.float() * inside[:, None]) / counts[:, None]


class CompiledOps(Ops):
    """Plain PyTorch, compiled between one attention and the next. One for a process, or it would be compiled anew."""

    name = "compiled"

    def __init__(self) -> None:
        self.part = functools.cache(functools.partial(torch.compile, dynamic=True))  # type: ignore[method-assign]


class Kernels(Ops):
    """Triton kernels, for inference on a GPU. One for each job: it remembers what it derives from the weights."""

    name = "triton"

    def __init__(self) -> None:
        from virnucpro.encoders.kernels import pointwise, products

        self.kernels, self.products = pointwise, products
        gated = functools.partial(pointwise.glu, silu=True)
        self._activations: dict[Any, Activation] = {gelu: pointwise.gelu_, gated_gelu: pointwise.glu, gated_silu: gated}
        self._biases: dict[nn.Module, torch.Tensor | None] = {}
        self._interleaved: dict[nn.Module, torch.Tensor] = {}

    def norm(
        self, x: Any, module: nn.LayerNorm, *, overwrite: bool = False, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        x = as_stream(x)
        out = x.values if overwrite else None
        return self.kernels.norm(x.values, module, shift=x.bias, out=out, dtype=dtype)

    def gated(self, x: torch.Tensor, linear: Any, activation: Activation) -> torch.Tensor:
        if not self.products.gate_pays(x, linear.weight):
            return self._activations[activation](linear(x))
        if linear not in self._interleaved:  # a gate and its value side by side
            self._interleaved[linear] = linear.weight.detach().unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        return self.products.gated_product(x, self._interleaved[linear], silu=activation is gated_silu)

    def add_bias(self, x: Any, bias: torch.Tensor) -> Stream:
        return Stream(x, bias.float())

    def add_linear(
        self, x: Any, hidden: torch.Tensor, linear: Any, activation: Activation | None = None, scale: float = 1.0
    ) -> Stream:
        x = as_stream(x)
        hidden = self._activations[activation](hidden) if activation else hidden
        x.values.addmm_(hidden, linear.weight.t(), alpha=scale)
        x.bias = self.running_bias(x.bias, linear)
        return x

    def feed_forward(self, x: Any, norm: nn.LayerNorm, first: nn.Module, second: nn.Module) -> Stream:
        if not (isinstance(first, nn.Linear) and gelu_in_product(first.weight)):
            return super().feed_forward(x, norm, first, second)
        x = as_stream(x)
        return self.add_linear(x, linear_gelu(self.norm(x, norm), first), second)

    def running_bias(self, before: torch.Tensor | None, linear: Any) -> torch.Tensor | None:
        """The stream's bias behind a layer; summed up once, since a model's layers come in one order."""
        if linear.bias is None:
            return before
        if linear not in self._biases:
            bias = linear.bias.detach().float()
            self._biases[linear] = bias if before is None else before + bias
        return self._biases[linear]

    def mean(self, hidden: torch.Tensor, batch: PackedBatch, skip: int = 0, limit: int = 0) -> torch.Tensor:
        return self.kernels.pool(hidden, batch.cu_seqlens, skip, limit)


def gelu_in_product(weight: torch.Tensor) -> bool:
    """Whether the product with a layer's weight can end in its bias and GELU, by tanh: on GPUs, in half precision.

    There tanh for erf changes ESM-2's pooled vectors by 3e-4, a third of what half precision does. PyTorch's operator has
    no public form; on a CPU it would be no faster, and in fp32 the difference would count.
    """
    return weight.is_cuda and weight.dtype != torch.float32 and hasattr(torch, "_addmm_activation")


def linear_gelu(x: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
    """GELU by tanh of linear(x), (T, in) -> (T, out), by cuBLASLt in one call."""
    return torch._addmm_activation(linear.bias, x, linear.weight.t(), use_gelu=True)


def as_stream(x: torch.Tensor | Stream) -> Stream:
    """What a model's first layers give is a tensor."""
    return x if isinstance(x, Stream) else Stream(x)


PYTORCH, COMPILED = Ops(), CompiledOps()


def compilable(part: Part) -> Part:
    """A part of a block, ``part(block, ops, ...)``, that ``CompiledOps`` compiles once for all blocks and batches."""

    @functools.wraps(part)
    def run(block: nn.Module, ops: Ops, *inputs: Any) -> Any:
        return ops.part(part)(block, ops, *inputs)

    return run  # type: ignore[return-value]


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process; more than a few mean that it compiled again and again."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def split_heads(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(T, 3·d) -> q, k, v (T, H, D), views of it."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(1)
    return q, k, v


def rotary_tables(positions: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, (T, head_dim/2) each, in fp32 whatever the model's dtype: halves round the angles."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.to(torch.float32)[:, None] * (1.0 / 10000.0**exponents)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021) in rotate-half order. x (T, H, D), cos and sin (T, D/2) fp32."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
