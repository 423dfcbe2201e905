"""The precisions that vectors can be computed in: what each is, what it needs, and how far it may be from fp32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from virnucpro.encoders.device import Device
from virnucpro.errors import ConfigError
from virnucpro.models.registry import Architecture

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Gate:
    """The most that vectors and scores may differ from fp32's: by frame, the worst one counts."""

    relative_l2: float  # of a vector without its outlier dimensions
    score: float


@dataclass(frozen=True)
class Precision:
    """One way to compute."""

    name: str
    dtype_name: str  # of weights and activations, as PyTorch calls it
    gate: Gate
    tf32: bool = False  # products of fp32 numbers rounded to 10 bits of mantissa
    job_gate: float | None = None  # of int8: relative L2 from half precision, mean square of a job's sample
    capability: tuple[int, int] = (0, 0)  # CUDA's, of the first GPUs with arithmetic for it
    product_dtype_name: str | None = None  # of what layers multiply, where it is another

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations, for loading them in it."""
        import torch

        return getattr(torch, self.dtype_name)

    @property
    def product_dtype(self) -> torch.dtype:
        """Of the numbers that layers multiply."""
        import torch

        return getattr(torch, self.product_dtype_name or self.dtype_name)

    def unavailable_reason(self, device: Device) -> str | None:
        """Why a GPU can't compute it, or None where it can."""
        if self.capability == (0, 0) or (device.is_gpu and device.capability >= self.capability):
            return None
        needed = ".".join(map(str, self.capability))
        return f"{device.model} has no arithmetic for it (compute capability {needed} has)"


PRECISIONS = {
    each.name: each
    for each in (
        Precision("fp32", "float32", Gate(1e-5, 1e-4)),
        Precision("tf32", "float32", Gate(2e-3, 0.01), tf32=True),
        Precision("fp16", "float16", Gate(2e-3, 0.01)),
        Precision("bf16", "bfloat16", Gate(2e-2, 0.02)),
        Precision("int8", "float16", Gate(2e-2, 0.02), job_gate=1.5e-2, capability=(8, 0)),
    )
}

CPU_PRECISIONS = {
    "fp32": PRECISIONS["fp32"],
    "bf16": replace(PRECISIONS["bf16"], dtype_name="float32", product_dtype_name="bfloat16"),
}
"""What a CPU may have; bf16 there is products, attention and GELU in bf16, and the sum that layers add to in fp32."""


def choose_precision(
    name: str, device: str | torch.device | Device, architecture: Architecture | None = None, *, compile: bool = False
) -> Precision:
    """The precision of that name: ``auto`` is fp16 on a GPU, on a CPU bf16 where it has products in it, else fp32.

    For an ``architecture`` that isn't computed in int8 that is fp16. What a CPU computes with ``compile`` is in fp32.
    ConfigError for a name that there isn't, and for what a CPU can't do; what a GPU can't do is asked with
    ``unavailable_reason``, once there is one.
    """
    device = Device.of(device)
    if name not in ("auto", *PRECISIONS):
        raise ConfigError(f"precision: {name!r} is not one of auto, {', '.join(PRECISIONS)}")
    if not device.is_gpu:
        return _choose_on_cpu(name, device, compile)
    if name == "auto":
        name = "fp16"
    if PRECISIONS[name].job_gate is not None and architecture is not None and not architecture.int8:
        name = "fp16"
    return PRECISIONS[name]


def _choose_on_cpu(name: str, device: Device, compile: bool) -> Precision:
    if name == "auto":
        name = "bf16" if not compile and device.has_bf16_products else "fp32"
    if name not in CPU_PRECISIONS:
        raise ConfigError(f"precision: {name} needs a GPU, a CPU has no fast arithmetic for it; use 'fp32' or 'auto'")
    if name == "bf16" and not device.has_bf16_products:
        raise ConfigError(
            "precision: bf16 needs a GPU or a CPU that multiplies bf16 numbers (AVX512-BF16, AMX); use 'fp32' or 'auto'"
        )
    if name == "bf16" and compile:
        raise ConfigError("precision: bf16 isn't compiled on a CPU; set compile to false, or use 'fp32' or 'auto'")
    return CPU_PRECISIONS[name]
