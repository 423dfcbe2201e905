"""PyTorch's pickled checkpoints, read without running what they ask for."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from virnucpro.errors import ModelError


def load_pickle(path: Path, what: str, allowed: list[Callable | tuple[Callable, str]]) -> Any:
    """What ``torch.load`` gives for a file that asks for nothing but tensors, plain containers and ``allowed``.

    Args:
        path: the file.
        what: what it should be, for messages.
        allowed: classes, or (stand-in, the name in the file that it answers).

    Raises:
        ModelError: it can't be read, or asks for more; names what.
    """
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file.") from None
    except Exception as error:  # damaged or hostile bytes end in errors of any type
        if isinstance(error, pickle.UnpicklingError) and (wanted := re.search(r"GLOBAL\s+(\S+)", str(error))):
            raise ModelError(
                f"{path} is refused: its pickle asks for {wanted[1]}, which {what} doesn't need and which could run any "
                "program on this machine. Get the file from a source that you trust."
            ) from error
        said = re.search(r"(?<=WeightsUnpickler error: ).+", str(error))  # within what PyTorch says around it
        reason = said[0].strip() if said else re.split(r"\n|\. ", str(error))[0] or type(error).__name__
        raise ModelError(f"{path}: not {what}, or damaged: it can't be read ({reason}). Fetch it again.") from error
