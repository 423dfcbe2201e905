"""The device that an encoder computes on, as precision, kernels and batch sizes ask about it."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

KERNEL_CAPABILITY = (8, 0)  # of the oldest GPUs that the Triton kernels are compiled for and tested on


@dataclass(frozen=True)
class Device:
    """A CPU or a GPU; PyTorch is imported where the GPU itself has to be asked."""

    name: str  # as PyTorch calls it: cpu, cuda, cuda:1

    @classmethod
    def of(cls, device: str | torch.device | Device) -> Device:
        return device if isinstance(device, Device) else cls(str(device))

    @property
    def is_gpu(self) -> bool:
        return self.name.partition(":")[0] != "cpu"

    @property
    def model(self) -> str:
        """What kind of GPU it is, in messages."""
        import torch

        return torch.cuda.get_device_name(self.name) if self.is_gpu else "a CPU"

    @property
    def capability(self) -> tuple[int, int]:
        """CUDA's compute capability."""
        import torch

        return torch.cuda.get_device_capability(self.name)

    @property
    def has_bf16_products(self) -> bool:
        """Whether a CPU multiplies bf16 numbers by itself (AVX512-BF16, AMX), as PyTorch sees and uses it."""
        import torch

        if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
            return False
        found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch doesn't say
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))

    def free_memory(self) -> int:
        """Bytes that this process may still allocate on a GPU, a limit of its own included."""
        import torch

        free, total = torch.cuda.mem_get_info(self.name)
        allocated = torch.cuda.memory_allocated(self.name)
        unused = torch.cuda.memory_reserved(self.name) - allocated
        share = torch.cuda.get_per_process_memory_fraction(self.name)
        return min(free + unused, int(share * total) - allocated)

    def kernels_unavailable_reason(self) -> str | None:
        """Why the Triton kernels can't run here, or None where they can."""
        if not self.is_gpu:
            return "it needs a GPU"
        if importlib.util.find_spec("triton") is None:
            return "Triton isn't installed"
        if self.capability < KERNEL_CAPABILITY:
            return f"{self.model} is older than compute capability 8.0"
        return _compiler_unavailable_reason(self.name)


@functools.cache
def _compiler_unavailable_reason(device: str) -> str | None:
    """Why no kernel can be compiled and run, tried once: machines without a compiler have Triton, too."""
    import torch

    from virnucpro.encoders.kernels.pointwise import pool

    try:
        pool(torch.zeros(1, 16, device=device), torch.tensor([0, 1], dtype=torch.int32, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many types: no compiler, one that fails, no driver library, a cache it can't write
        reason = f"Triton can't compile its kernels ({error}); it needs gcc or clang, and Python's headers"
        logger.warning("%s. What PyTorch has instead is slower.", reason)
        return reason
    return None
