"""Import of the original's classifier, a pickle of a whole module, without running what it says.

A pickle is a program. This one may only describe data: every name that it may ask for is answered with
a stand-in made for this one file, nothing of PyTorch is reachable from it, and what comes out is a
dictionary of array descriptions whose bytes are then read from the archive. Any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from virnucpro.classifier.spec import ClassifierSpec, Encoder, check_fit, check_weights, read_classifier
from virnucpro.errors import ModelError
from virnucpro.io import atomic_file, sha256_file

if TYPE_CHECKING:
    from virnucpro.classifier.model import Classifier

_MAX_PROGRAM = 1 << 20  # bytes; the original's has 2,284
_MAX_ARRAYS = 20  # the original's has 9
_STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
_MODULES = {
    ("__main__", "MLPClassifier"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.nn.modules.batchnorm", "BatchNorm1d"),
    ("torch.nn.modules.dropout", "Dropout"),
    ("torch.nn.modules.activation", "ReLU"),
    ("torch.nn.modules.activation", "Softmax"),
}
# Objects built by other means than NEWOBJ and REDUCE, and the extension registry, aren't needed.
_REFUSED_OPCODES = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}


class _Array(NamedTuple):
    """Where an array's bytes lie; a tuple, so that a pickle can't change one."""

    entry: str
    dtype: str
    offset: int
    shape: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Answers the names that the original's module needs; each file gets stand-ins of its own."""

    def __init__(self, program: bytes, where: Path):
        super().__init__(io.BytesIO(program))
        self.where = where

        class Module:
            """Stands in for every nn.Module: keeps the state it is given and has no behaviour."""

            state: dict[str, Any]

            def __setstate__(self, state: Any) -> None:
                if type(state) is not dict:
                    raise pickle.UnpicklingError("a module's state must be a dictionary")
                self.state = state

        self.module = Module

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _MODULES:
            return self.module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        match module, name:  # functions made for this call, so that a pickle can't change one for the next
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda *arguments: _describe(*arguments)
            case "torch._utils", "_rebuild_parameter":
                return lambda data, *_: data
            case "collections", "OrderedDict":
                return lambda *_: {}
            case (("__builtin__" | "builtins"), "set"):
                return lambda *_: None
        raise ModelError(
            f"{self.where}: refused, since the pickle asks for {module}.{name}, which no VirNucPro classifier needs. "
            "It could run any program on this machine; get the file from a source that you trust."
        )

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        kind, dtype, entry, _location, count = pid  # the device it was saved on doesn't matter
        if kind != "storage" or dtype not in _STORAGES.values() or type(entry) is not str or type(count) is not int:
            raise pickle.UnpicklingError("unknown kind of storage")
        return entry, dtype, count


def import_original(path: str | Path) -> tuple[Classifier, ClassifierSpec]:
    """Read a ``.pth`` (zip format) that the original VirNucPro saved with ``torch.save(model)``.

    Returns the classifier in eval mode, and a specification with its widths and the file's SHA-256; the pickle
    holds neither the encoders' identity nor the chunk length. Raises ModelError if it isn't such a file, damaged,
    or a pickle that asks for anything else (which is named).
    """
    from virnucpro.classifier.model import build_classifier

    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise ValueError("PyTorch doesn't compress its files")
            if entries["data.pkl"].file_size > _MAX_PROGRAM:
                raise ValueError("its pickle is too long")
            if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
                raise ValueError("it was saved on a big-endian machine")
            program = archive.read(entries["data.pkl"])
            _check_opcodes(program)
            root = _Unpickler(program, path).load()
            arrays = dict(_arrays(root))
            if len(arrays) > _MAX_ARRAYS:
                raise ValueError("it has too many tensors")  # each may be a copy of the largest storage
            stored = {key: _read(archive, entries[f"data/{array.entry}"], array) for key, array in arrays.items()}
        eps = float(root.state["_modules"]["bn1"].state["eps"])
        if not 0 < eps < 1:
            raise ValueError("BatchNorm's epsilon is out of range")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file.") from None
    except ModelError:
        raise
    except Exception as error:  # a hostile program can make the pickle machine raise anything
        raise ModelError(
            f"{path}: not an original VirNucPro classifier, or damaged ({type(error).__name__}: {error}). Fetch it again, "
            "or give a classifier file (.safetensors)."
        ) from error
    model = build_classifier(check_weights(stored, path), eps)
    return model, ClassifierSpec(path.stem, model.width, model.hidden, source_sha256=sha256_file(path))


def prepare_classifier(
    source: str | Path,
    output: str | Path,
    *,
    dna_spec: Encoder,
    protein_spec: Encoder,
    chunk_length: int,
    warn: Callable[[str], object],
) -> ClassifierSpec:
    """Make the canonical file of a run's classifier, once it's known to fit the run's encoders and chunk length.

    ``source`` is a canonical classifier, which is copied, or an original ``.pth``; ``warn`` is called with what
    couldn't be checked. Raises ModelError: unreadable, unsafe, or made for other encoders or chunks.
    """
    model = None
    if Path(source).suffix == ".pth" or zipfile.is_zipfile(source):
        model, spec = import_original(source)
    else:
        _, spec = read_classifier(source)
    check_fit(spec, dna_spec, protein_spec, chunk_length, source)
    known = {
        "DNA encoder": spec.dna_encoder,
        "protein encoder": spec.protein_encoder,
        "chunk length": spec.chunk_length,
    }
    if unknown := [what for what, value in known.items() if value is None]:
        warn(
            f"{source}: doesn't say which {', '.join(unknown)} it was trained on. Only its width ({spec.width:,} = "
            f"{dna_spec.width:,} + {protein_spec.width:,}) could be checked against this run's "
            f"({dna_spec.name}, {protein_spec.name}, {chunk_length} bases)."
        )
    if model is not None:
        from virnucpro.classifier.model import write_classifier

        return write_classifier(output, model, spec)
    with atomic_file(output) as temporary:
        shutil.copyfile(source, temporary)
    return spec


def _describe(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Array:
    """PyTorch's ``_rebuild_tensor_v2``, as a description; a view that isn't contiguous is refused."""
    entry, dtype, count = storage
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride):
        raise pickle.UnpicklingError("a tensor's shape must be a tuple")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
        raise pickle.UnpicklingError("a tensor's shape must be whole numbers")
    step = 1
    for length, given in zip(reversed(shape), reversed(stride), strict=True):
        if length != 1 and given != step:
            raise pickle.UnpicklingError("a tensor isn't contiguous")
        step *= length
    if offset + math.prod(shape) > count:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return _Array(entry, dtype, offset, shape)


def _arrays(root: Any) -> Iterator[tuple[str, _Array]]:
    """(name, description) of every parameter and buffer of the pickled module's layers."""
    for layer, module in root.state["_modules"].items():
        for kind in ("_parameters", "_buffers"):
            for name, array in module.state[kind].items():
                if type(layer) is not str or type(name) is not str or type(array) is not _Array:
                    raise ValueError(f"{layer!r}.{name!r} isn't a tensor")
                yield f"{layer}.{name}", array


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, array: _Array) -> np.ndarray:
    values = np.frombuffer(archive.read(info), array.dtype)  # the archive checks its CRC
    return values[array.offset : array.offset + math.prod(array.shape)].reshape(array.shape).copy()


def _check_opcodes(program: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in _REFUSED_OPCODES:
            raise ValueError(f"its pickle uses {opcode.name}")
        # A memo index sizes a table, so a large one would exhaust memory.
        if opcode.name.endswith("PUT") and not 0 <= int(str(argument)) <= len(program):
            raise ValueError("its pickle's memo is out of range")
