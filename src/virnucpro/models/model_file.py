"""The file of a model, encoder or classifier: safetensors, and what it is as JSON in the metadata entry ``virnucpro``.

The entry holds the fields of a specification (a dataclass with a ``KIND``), ``kind`` and ``format``. Among the fields is
a digest of the content, which doesn't depend on where the file lies. Reading the entry needs no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from safetensors import SafetensorError, safe_open

from virnucpro.errors import ModelError
from virnucpro.io import atomic_file

ENTRY = "virnucpro"
FORMAT = 2
NUMPY_DTYPES = ("F64", "F32", "F16", "I64")  # those of models that NumPy has, too


class Spec(Protocol):
    """What a model's file says of it."""

    KIND: ClassVar[str]  # "encoder" or "classifier"
    REMEDY: ClassVar[str]  # how to get such a file
    __dataclass_fields__: ClassVar[dict[str, Any]]


AnySpec = TypeVar("AnySpec", bound=Spec)


def read_entry(path: str | Path) -> dict[str, Any] | None:
    """The metadata entry in today's form, None for a safetensors file of others; ModelError for any other file."""
    with open_tensors(path) as handle:
        try:
            entry = json.loads((handle.metadata() or {})[ENTRY])
            if "family" in entry:  # format 1 of encoders
                entry |= {"kind": "encoder", "architecture": entry.pop("family")}
            if entry.get("format") == 1:
                entry["format"] = FORMAT
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
    return entry


def read_spec(path: str | Path, kind: type[AnySpec]) -> AnySpec:
    """The specification in a model's file; ModelError if it's no file of this kind, or of another version."""
    entry = read_entry(path)
    if entry is None:
        raise ModelError(f"{path}: not a VirNucPro {kind.KIND} file. {kind.REMEDY}")
    if (found := entry.pop("kind", None)) != kind.KIND:
        raise ModelError(f"{path}: holds {found} weights, not {kind.KIND} weights. {kind.REMEDY}")
    version = entry.pop("format", None)
    known = {field.name: field.default is MISSING for field in fields(kind)}  # name → whether it must be there
    if (
        version != FORMAT
        or not known.keys() >= entry.keys()
        or any(known[name] and name not in entry for name in known)
    ):
        raise ModelError(f"{path}: was written by another version (format {version}). Make it again with this one.")
    return kind(**entry)


def write_model(path: str | Path, spec: Spec, tensors: Mapping[str, Any]) -> None:
    """Write all of NumPy's or all of PyTorch's tensors, contiguous ones. The same content gives the same bytes."""
    torch_tensors = any(hasattr(tensor, "detach") for tensor in tensors.values())
    save_file = import_module(f"safetensors.{'torch' if torch_tensors else 'numpy'}").save_file
    entry = {"format": FORMAT, "kind": spec.KIND, **asdict(spec)}  # type: ignore[call-overload]
    with atomic_file(path) as temporary:
        save_file(dict(tensors), temporary, metadata={ENTRY: json.dumps(entry, sort_keys=True)})


def content_digest(head: str, tensors: Iterable[tuple[str, Any]], dtypes: Mapping[str, str]) -> str:
    """SHA-256 of ``head`` and of the tensors' names, dtypes, shapes and bytes, in the order of the names.

    ``tensors`` are NumPy's or PyTorch's, sorted; ``dtypes`` is what is written for a dtype's name.
    """
    digest = hashlib.sha256(head.encode())
    for name, tensor in tensors:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in dtypes:
            raise ModelError(f"weights in {dtype} can't be stored; convert them to {', '.join(dtypes)}")
        digest.update(json.dumps([name, dtypes[dtype], list(tensor.shape)]).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Any) -> memoryview:
    if hasattr(tensor, "detach"):
        import torch

        tensor = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(tensor.reshape(-1)).cast("B") if tensor.size else memoryview(b"")


def stored_tensors(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Names and tensors, sorted, one in memory at a time: NumPy's, or PyTorch's where there is a dtype NumPy lacks."""
    with open_tensors(path) as handle:
        names = sorted(handle.keys())
        known = all(handle.get_slice(name).get_dtype() in NUMPY_DTYPES for name in names)
    with open_tensors(path, "np" if known else "pt") as handle:
        for name in names:
            yield name, handle.get_tensor(name)


@contextmanager
def open_tensors(path: str | Path, framework: str = "np", device: str = "cpu") -> Iterator[Any]:
    """safetensors' handle of a file, whose header it checks against the file's size; ModelError if it can't be read."""
    try:
        with safe_open(path, framework=framework, device=device) as handle:
            yield handle
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} can't be read as a safetensors file ({error}); fetch or make it again") from error
