"""Import of the original's classifier, a pickle of a whole module, without running what it says.

A pickle is a program. This one is read by PyTorch's restricted unpickler, which answers each class that it may name with
a stand-in without behaviour; what comes out is a table of tensors. Any other name is refused.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.classifier.spec import ClassifierSpec, Encoder, check_fit, check_weights, read_classifier
from virnucpro.errors import ModelError
from virnucpro.io import atomic_file, sha256_file

if TYPE_CHECKING:
    from virnucpro.classifier.model import Classifier

_MODULES = (
    "__main__.MLPClassifier",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.Softmax",
)


class _Module:
    """Stands in for every nn.Module: keeps the state it is given and has no behaviour."""

    state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict:
            raise ValueError("a module's state must be a dictionary")
        self.state = state


def import_original(path: str | Path) -> tuple[Classifier, ClassifierSpec]:
    """Read a ``.pth`` that the original VirNucPro saved with ``torch.save(model)``.

    Returns the classifier in eval mode, and a specification with its widths and the file's SHA-256; the pickle
    holds neither the encoders' identity nor the chunk length. Raises ModelError if it isn't such a file, damaged,
    or a pickle that asks for anything else (which is named).
    """
    import torch

    from virnucpro.classifier.model import build_classifier
    from virnucpro.models.pickles import load_pickle

    path = Path(path)
    what = "an original VirNucPro classifier"
    root = load_pickle(path, what, [(_Module, name) for name in _MODULES])
    try:
        tensors: dict[str, torch.Tensor] = {
            f"{layer}.{name}": tensor.detach()
            for layer, module in root.state["_modules"].items()
            for kind in ("_parameters", "_buffers")
            for name, tensor in module.state[kind].items()
        }
        if sum(tensor.nbytes for tensor in tensors.values()) > path.stat().st_size:
            raise ValueError("its tensors are larger than the file")  # views that repeat a part of it
        eps = float(root.state["_modules"]["bn1"].state["eps"])
        if not 0 < eps < 1:
            raise ValueError("BatchNorm's epsilon is out of range")
        weights = check_weights({name: tensor.numpy() for name, tensor in tensors.items()}, path)
    except ModelError:
        raise
    except Exception as error:  # what the pickle describes may be anything
        raise ModelError(
            f"{path}: not {what}, or damaged ({type(error).__name__}: {error}). Fetch it again, or give a classifier file "
            "(.safetensors)."
        ) from error
    model = build_classifier(weights, eps)
    return model, ClassifierSpec(path.stem, model.width, model.units, source_sha256=sha256_file(path))


def prepare_classifier(
    source: str | Path,
    output: str | Path,
    *,
    dna_spec: Encoder,
    protein_spec: Encoder,
    chunk_length: int,
    warn: Callable[[str], object],
) -> ClassifierSpec:
    """Make the file of a run's classifier, once it's known to fit the run's encoders and chunk length.

    ``source`` is a classifier's file, which is copied, or an original ``.pth``; ``warn`` is called with what
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
