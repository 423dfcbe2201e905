"""PyTorch modules built without values, which a file then gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_RANDOM = {"kaiming_uniform_", "normal_", "uniform_"}  # of tensors and of torch.nn.init


@contextmanager
def init_empty_weights() -> Iterator[None]:
    """Modules that are made in the block have shapes and dtypes but no memory: assign a state dict to them."""
    with torch.device("meta"), _NoRandomNumbers():
        yield


class _NoRandomNumbers(TorchFunctionMode):
    """Skips random initialisation: for a tensor without memory PyTorch would load its compiler, 2 s of each job."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.__name__ in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
