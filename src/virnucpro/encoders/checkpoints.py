"""Users' checkpoints read safely and written once in canonical form.

Understood are fair-esm's ``.pt`` files, Hugging Face folders of ESM-2 and folders of DNABERT-S. Pickles
are read with PyTorch's restricted unpickler only, and none of the code that may lie in a model folder is
run. Layers, width and heads come from the checkpoint's own configuration and have to agree with its tensors.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from virnucpro.encoders.canonical import EncoderSpec, build_encoder, write_canonical
from virnucpro.encoders.prepare import WEIGHTS
from virnucpro.errors import ModelError
from virnucpro.io import sha256_file

State = dict[str, torch.Tensor]


class Layout(NamedTuple):
    """Where a format keeps our modules; several names are stacked in that order."""

    layer: str
    top: dict[str, str]
    block: dict[str, tuple[str, ...]]
    ignored: str  # pattern of what pooling the last layer doesn't need


FAIR_ESM = Layout(
    layer="layers.",
    top={"embed_tokens": "embed_tokens", "final_norm": "emb_layer_norm_after"},
    block={
        "attention_norm": ("self_attn_layer_norm",),
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "out": ("self_attn.out_proj",),
        "ffn_norm": ("final_layer_norm",),
        "fc1": ("fc1",),
        "fc2": ("fc2",),
    },
    ignored=r"lm_head\.|contact_head\.|.*\.inv_freq$",
)
HF_ESM = Layout(
    layer="encoder.layer.",
    top={"embed_tokens": "embeddings.word_embeddings", "final_norm": "encoder.emb_layer_norm_after"},
    block={
        "attention_norm": ("attention.LayerNorm",),
        "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "out": ("attention.output.dense",),
        "ffn_norm": ("LayerNorm",),
        "fc1": ("intermediate.dense",),
        "fc2": ("output.dense",),
    },
    # some published rotary checkpoints carry a position table that the model never reads
    ignored=r"lm_head\.|contact_head\.|pooler\.|embeddings\.position_|.*\.inv_freq$",
)
MOSAIC_BERT = Layout(
    layer="encoder.layer.",
    top={"embed_tokens": "embeddings.word_embeddings", "embed_norm": "embeddings.LayerNorm"},
    block={
        "qkv": ("attention.self.Wqkv",),
        "out": ("attention.output.dense",),
        "attention_norm": ("attention.output.LayerNorm",),
        "gated": ("mlp.gated_layers",),
        "down": ("mlp.wo",),
        "ffn_norm": ("mlp.layernorm",),
    },
    ignored=r"pooler\.|cls\.|embeddings\.position_ids|embeddings\.token_type_embeddings\.weight",
)


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


def convert_checkpoint(source: Path, family: str, output: Path) -> EncoderSpec:
    """Write a checkpoint that isn't canonical yet; see ``prepare.prepare_encoder``."""
    tokenizer = None
    if family == "dnabert_s":
        config, state, files, tokenizer = _dnabert_folder(source)
    else:
        config, state, files = _esm2_folder(source) if source.is_dir() else _fair_esm(source)
    stored = _narrowest(state)
    for key in state:
        state[key] = state[key].to(stored)
        if not state[key].isfinite().all():
            raise ModelError(f"{source}: {key} holds values that are not finite; fetch it again")
    encoder = build_encoder(family, config, state, tokenizer, str(source))
    resolved = source.resolve()
    name = resolved.stem if source.is_file() else resolved.name
    origin = {"name": resolved.name, "files": {path.name: sha256_file(path) for path in files}}
    return write_canonical(encoder, output, name=name, source=origin)


def _narrowest(state: State) -> torch.dtype:
    """The dtype of the weights, or fp16 if that holds every value of fp32 ones, as with ESM-2 3B and 15B.

    So they take half the room, and fair-esm's files, which are fp16, and Hugging Face's, which aren't, are one model.
    """
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    exact = dtype == torch.float32 and all(
        torch.equal(tensor.half().to(tensor.dtype), tensor) for tensor in state.values()
    )
    return torch.float16 if exact else dtype


def _fair_esm(path: Path) -> tuple[dict[str, Any], State, list[Path]]:
    content = _unpickle(path)
    keys = ("encoder_layers", "encoder_embed_dim", "encoder_attention_heads")
    try:
        settings, tensors = vars(content["cfg"]["model"]), content["model"]
        layers, width, heads = (int(settings[key]) for key in keys)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a fair-esm ESM-2 checkpoint ({error}); give esm2_*.pt or a Hugging Face folder"
        ) from error
    tensors = _tensors(tensors, path)
    for prefix in ("encoder.sentence_encoder.", "encoder."):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if any("embed_positions" in key or "emb_layer_norm_before" in key for key in tensors):
        raise ModelError(f"{path} has learned positions: it is an older ESM model; only ESM-2 (rotary) is supported")
    config = {"layers": layers, "width": width, "heads": heads, "ffn": 4 * width}
    config["token_dropout"] = bool(settings.get("token_dropout", True))
    return config, _translate(path, tensors, FAIR_ESM, config), [path]


def _esm2_folder(folder: Path) -> tuple[dict[str, Any], State, list[Path]]:
    where = folder / "config.json"
    settings = {"rope_theta": 10000.0, "hidden_act": "gelu", **_read_config(where, "esm")}
    required = {"position_embedding_type": "rotary", "emb_layer_norm_before": False, "layer_norm_eps": 1e-5}
    _require(where, settings, {**required, "rope_theta": 10000.0, "hidden_act": "gelu"})
    config = _sizes(where, settings)
    tensors, files = _folder_weights(folder, "esm.")
    # the oldest and the newest transformers name the LayerNorm tensors gamma and beta
    tensors = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", k)): v for k, v in tensors.items()}
    state = _translate(files[0], tensors, HF_ESM, config)
    return {**config, "token_dropout": bool(settings.get("token_dropout", False))}, state, [*files, where]


def _dnabert_folder(folder: Path) -> tuple[dict[str, Any], State, list[Path], str]:
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file; DNABERT-S is a folder with config.json, tokenizer.json and weights")
    where, tokenizer = folder / "config.json", folder / "tokenizer.json"
    expected = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
    settings = expected | _read_config(where, "bert")
    _require(where, settings, expected)
    config = _sizes(where, settings, vocabulary="vocab_size")
    if not tokenizer.is_file():
        raise ModelError(f"{tokenizer} is missing; copy it from the model's repository, DNABERT-S needs its own tokens")
    tensors, files = _folder_weights(folder, "bert.")
    if not any(key.endswith("attention.self.Wqkv.weight") for key in tensors):
        raise ModelError(f"{files[0]} has no fused Wqkv tensors: it is not DNABERT-S but another BERT")
    state = _translate(files[0], tensors, MOSAIC_BERT, config)
    if (segment := tensors.get("embeddings.token_type_embeddings.weight")) is not None:
        state["token_type"] = segment[0].clone()
    return config, state, [*files, where, tokenizer], tokenizer.read_text(encoding="utf-8")


def _translate(path: Path, tensors: State, layout: Layout, config: Mapping[str, int]) -> State:
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


def _read_config(path: Path, model_type: str) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; copy it from the model's repository") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read as JSON ({error}); fetch it again") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} is not a JSON object; fetch it again")
    _require(path, settings, {"model_type": model_type})
    return settings


def _require(path: Path, settings: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if (found := settings.get(key)) != value:
            raise ModelError(f"{path}: {key} is {found!r}, but this encoder needs {value!r}; is it the right model?")


def _sizes(path: Path, settings: Mapping[str, Any], **more: str) -> dict[str, int]:
    """Our configuration from Hugging Face's keys."""
    keys = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads"}
    sizes: dict[str, Any] = {}
    for ours, theirs in {**keys, "ffn": "intermediate_size", **more}.items():
        sizes[ours] = settings.get(theirs)
        if not isinstance(sizes[ours], int) or sizes[ours] < 1:
            raise ModelError(f"{path}: {theirs} should be a positive integer, not {sizes[ours]!r}; fetch it again")
    return sizes


def _folder_weights(folder: Path, prefix: str) -> tuple[State, list[Path]]:
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
        tensors.update(_weights(part))
    if any(key.startswith(prefix) for key in tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return tensors, files


def _weights(path: Path) -> State:
    if path.suffix != ".safetensors":
        return _tensors(_unpickle(path), path)
    try:
        with safe_open(path, framework="pt") as handle:
            return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} can't be read as a safetensors file ({error}); fetch it again") from error


def _tensors(content: Any, path: Path) -> State:
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError(f"{path} doesn't hold a plain table of tensors; give the published checkpoint")
    return dict(content)


def _unpickle(path: Path) -> Any:
    """torch.load that builds tensors and argparse.Namespace (fair-esm's settings), nothing else."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL\s+(\S+)", str(error)):
            raise ModelError(
                f"{path} is refused: its pickle wants to run {wanted[1]}, which weights don't need; "
                "take the checkpoint from its publisher, or a safetensors version of it"
            ) from error
        raise ModelError(f"{path} can't be read as a PyTorch checkpoint; fetch it again") from error
    except Exception as error:  # damaged bytes end in errors of any type
        raise ModelError(f"{path} can't be read as a PyTorch checkpoint ({error}); fetch it again") from error
