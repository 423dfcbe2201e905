"""Encoders with their weights: from a prepared file or a published checkpoint, and into a prepared file."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from virnucpro.encoders.checkpoints import State
from virnucpro.encoders.encoder import Encoder
from virnucpro.encoders.spec import EncoderSpec, encoder_digest, read_spec
from virnucpro.errors import ModelError
from virnucpro.io import sha256_file
from virnucpro.models.empty_weights import init_empty_weights
from virnucpro.models.model_file import open_tensors, write_model
from virnucpro.models.registry import ARCHITECTURES

GPU_READERS = 8  # threads that copy weights to a GPU: from memory, one manages 5 GB/s, eight 13


def encoder_class(architecture: str) -> type[Encoder]:
    """The PyTorch module of a registered architecture."""
    entry = ARCHITECTURES[architecture]
    return getattr(import_module(entry.module), entry.encoder)


def load_encoder(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Encoder:
    """The encoder, mapped from the file straight to the device; in the stored dtype unless one is given."""
    spec = read_spec(path)
    with open_tensors(path) as handle:
        names = sorted(handle.keys())
    readers = 1 if str(device) == "cpu" else GPU_READERS

    def read(first: int) -> dict[str, torch.Tensor]:
        with open_tensors(path, "pt", str(device)) as handle:
            # Converted one by one: the GPU need not hold all of them twice.
            return {name: (t := handle.get_tensor(name)).to(dtype or t.dtype) for name in names[first::readers]}

    with ThreadPoolExecutor(readers, "weights") as pool:
        state = {name: tensor for part in pool.map(read, range(readers)) for name, tensor in part.items()}
    return build_encoder(spec.architecture, spec.config, state, spec.tokenizer, str(path)).eval()


def build_encoder(
    architecture: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], tokenizer: str | None, where: str
) -> Encoder:
    """An encoder that owns the tensors of ``state``; ModelError if they don't fit its configuration."""
    kind = encoder_class(architecture)
    with init_empty_weights():
        try:
            encoder = kind(kind.Config(**config), tokenizer)
        except TypeError as error:
            raise ModelError(f"{where}: unusable configuration ({error}); prepare it again") from error
    expected = {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if expected != found:
        key = min(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ModelError(
            f"{where}: weights and configuration disagree, first at {key}: shape {found.get(key, 'missing')} "
            f"where {expected.get(key, 'nothing')} belongs; fetch the checkpoint again"
        )
    encoder.load_state_dict(state, assign=True)
    return encoder


def convert_checkpoint(source: Path, architecture: str, output: Path) -> EncoderSpec:
    """Write a checkpoint that isn't prepared yet; see ``prepare.prepare_encoder``."""
    config, state, files, tokenizer = encoder_class(architecture).read_checkpoint(source)
    stored = _narrowest(state)
    for key in state:
        state[key] = state[key].to(stored)
        if not state[key].isfinite().all():
            raise ModelError(f"{source}: {key} holds values that are not finite; fetch it again")
    encoder = build_encoder(architecture, config, state, tokenizer, str(source))
    resolved = source.resolve()
    name = resolved.stem if source.is_file() else resolved.name
    origin = {"name": resolved.name, "files": {path.name: sha256_file(path) for path in files}}
    return write_encoder(encoder, output, name=name, source=origin)


def _narrowest(state: State) -> torch.dtype:
    """The dtype of the weights, or fp16 if that holds every value of fp32 ones, as with ESM-2 3B and 15B.

    So they take half the room, and fair-esm's files, which are fp16, and Hugging Face's, which aren't, are one model.
    """
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    exact = dtype == torch.float32 and all(
        torch.equal(tensor.half().to(tensor.dtype), tensor) for tensor in state.values()
    )
    return torch.float16 if exact else dtype


def write_encoder(
    encoder: Encoder, path: str | Path, *, name: str, source: Mapping[str, Any] | None = None
) -> EncoderSpec:
    """Write the encoder with the dtype its weights have now. The same content gives the same bytes."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
    config = asdict(encoder.config)
    spec = EncoderSpec(
        architecture=encoder.architecture,
        name=name,
        config=config,
        weights_sha256=encoder_digest(encoder.architecture, config, encoder.tokenizer_json, sorted(tensors.items())),
        source=dict(source or {"name": name, "files": {}}),
        pooling=encoder.pooling,
        alphabet=encoder.alphabet,
        tokenizer=encoder.tokenizer_json,
    )
    write_model(path, spec, tensors)
    return spec
