"""Published checkpoints, read safely: what their converters have in common.

Pickles are read with PyTorch's restricted unpickler only, and none of the code that may lie in a model folder is run.
Layers, width and heads come from the checkpoint's own configuration and have to agree with its tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from virnucpro.encoders.prepare import WEIGHTS
from virnucpro.errors import ModelError
from virnucpro.models.model_file import open_tensors
from virnucpro.models.pickles import load_pickle

State = dict[str, torch.Tensor]


class Checkpoint(NamedTuple):
    """What a converter reads: an encoder's configuration and weights, and the files they came from."""

    config: dict[str, Any]
    state: State
    files: list[Path]
    tokenizer: str | None = None


class Layout(NamedTuple):
    """Where a format keeps our modules; several names are stacked in that order."""

    layer: str
    top: dict[str, str]
    block: dict[str, tuple[str, ...]]
    ignored: str  # pattern of what pooling the last layer doesn't need


def export_state(encoder: torch.nn.Module, layout: Layout) -> State:
    """An encoder's weights under a format's names, as views."""
    state = {}
    for name, tensor in encoder.state_dict().items():
        *where, kind = name.split(".")
        block = where[0] == "layers"
        parts = layout.block[where[2]] if block else (layout.top[where[0]],)
        prefix = f"{layout.layer}{where[1]}." if block else ""
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
            state[f"{prefix}{part}.{kind}"] = piece
    return state


def translate(path: Path, tensors: State, layout: Layout, config: Mapping[str, int]) -> State:
    """Our names for the format's tensors; ModelError for one that belongs to neither, or to another configuration."""
    layers, width, heads = config["layers"], config["width"], config["heads"]
    present = {int(m[1]) for key in tensors if (m := re.match(re.escape(layout.layer) + r"(\d+)\.", key))}
    if present != set(range(layers)):
        raise ModelError(f"{path} has {len(present)} layers but its configuration says {layers}; fetch both again")
    if heads < 1 or width % heads or width // heads % 2:
        raise ModelError(f"{path}: {heads} heads don't divide a width of {width}; fetch the configuration again")
    for key, tensor in tensors.items():
        if key.endswith("inv_freq") and (size := tensor.numel() * 2) != width // heads:
            said = f"its configuration says {heads} heads of {width // heads}"
            raise ModelError(f"{path} has heads of {size}, but {said}; fetch both again")
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in layout.top.items()}
    for index in range(layers):
        for ours, block in layout.block.items():
            names[f"layers.{index}.{ours}"] = tuple(f"{layout.layer}{index}.{theirs}" for theirs in block)
    state, used = {}, set()
    for ours, parts in names.items():
        for kind in ("weight", "bias"):
            keys = [f"{part}.{kind}" for part in parts]
            found = [tensors[key] for key in keys if key in tensors]
            if len(found) == len(keys):
                state[f"{ours}.{kind}"] = found[0] if len(found) == 1 else torch.cat(found)
                used.update(keys)
            elif found:
                missing = next(key for key in keys if key not in tensors)
                raise ModelError(f"{path} has no {missing}; the checkpoint is incomplete, fetch it again")
    unknown = sorted(key for key in tensors if key not in used and not re.match(layout.ignored, key))
    if unknown:
        raise ModelError(f"{path} holds {unknown[0]}, which this architecture doesn't have; is it the right model?")
    return state


def read_config(path: Path, model_type: str) -> dict[str, Any]:
    """config.json of a model of that type."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; copy it from the model's repository") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read as JSON ({error}); fetch it again") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} is not a JSON object; fetch it again")
    require(path, settings, {"model_type": model_type})
    return settings


def require(path: Path, settings: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """ModelError if a setting has another value than this project computes with."""
    for key, value in expected.items():
        if (found := settings.get(key)) != value:
            raise ModelError(f"{path}: {key} is {found!r}, but this encoder needs {value!r}; is it the right model?")


def read_sizes(path: Path, settings: Mapping[str, Any], **more: str) -> dict[str, int]:
    """Our configuration from Hugging Face's keys."""
    keys = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads"}
    sizes: dict[str, Any] = {}
    for ours, theirs in {**keys, "ffn": "intermediate_size", **more}.items():
        sizes[ours] = settings.get(theirs)
        if not isinstance(sizes[ours], int) or sizes[ours] < 1:
            raise ModelError(f"{path}: {theirs} should be a positive integer, not {sizes[ours]!r}; fetch it again")
    return sizes


def read_weights(folder: Path, prefix: str) -> tuple[State, list[Path]]:
    """All tensors of a model folder and the files that they came from; safetensors are preferred.

    ``prefix`` is what models with a head put before the encoder; it is taken off, and that head left out.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(f"{folder} has no weights; it needs one of {', '.join(WEIGHTS)}")
    files = [path]
    if path.suffix == ".json":
        try:
            listed = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            files = [folder / Path(name).name for name in listed]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{path} can't be read as an index of weights ({error}); fetch it again") from error
    tensors: State = {}
    for part in files:
        if not part.is_file():
            raise ModelError(f"{part} is missing, though {path.name} lists it; fetch it")
        tensors.update(_load(part))
    if any(key.startswith(prefix) for key in tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return tensors, files


def _load(path: Path) -> State:
    if path.suffix != ".safetensors":
        return tensors_of(load_pickle(path, "a PyTorch checkpoint", []), path)
    with open_tensors(path, "pt") as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118


def tensors_of(content: Any, path: Path) -> State:
    """The content of a pickle, if it is a plain table of tensors; else ModelError."""
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError(f"{path} doesn't hold a plain table of tensors; give the published checkpoint")
    return dict(content)
