"""The canonical form of an encoder: one safetensors file that holds all a job needs.

Tensors carry this project's names; the metadata entry ``virnucpro`` is a JSON object with the family,
the configuration, the tokenizer and a digest of the content that doesn't depend on where the file lies.
Reading the specification takes the header only, and no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.errors import ModelError
from virnucpro.io import BLOCK_BYTES, atomic_file

if TYPE_CHECKING:
    import torch

    from virnucpro.encoders.dnabert import DNABERT
    from virnucpro.encoders.esm2 import ESM2

FORMAT = 1
FAMILIES = ("esm2", "dnabert_s")
GPU_READERS = 8  # threads that copy weights to a GPU: from memory, one manages 5 GB/s, eight 13
_MAX_HEADER = 100 * 2**20  # the limit of the safetensors format
_DTYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


@dataclass(frozen=True)
class EncoderSpec:
    """What a canonical file says of itself."""

    format: int
    family: str  # one of FAMILIES
    name: str
    config: dict[str, Any]  # the fields of ESM2Config or DNABERTConfig
    weights_sha256: str  # of tensors, configuration and tokenizer
    source: dict[str, Any]  # {"name": ..., "files": {file name: SHA-256}}
    pooling: str
    alphabet: list[str] | None = None  # ESM-2's tokens in order
    tokenizer: str | None = None  # DNABERT-S's tokenizer.json

    @property
    def width(self) -> int:
        return int(self.config["width"])


def write_canonical(
    encoder: ESM2 | DNABERT, path: str | Path, *, name: str, source: Mapping[str, Any] | None = None
) -> EncoderSpec:
    """Write the encoder with the dtype its weights have now. The same content gives the same bytes."""
    import torch
    from safetensors.torch import save_file

    from virnucpro.encoders.esm2 import ALPHABET

    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
    config = asdict(encoder.config)
    digest = _digest_start(encoder.family, config, encoder.tokenizer_json)
    for key, tensor in sorted(tensors.items()):
        if str(tensor.dtype) not in _DTYPES:
            raise ModelError(f"weights in {tensor.dtype} can't be stored; convert them to float32, float16 or bfloat16")
        _digest_tensor(digest, key, _DTYPES[str(tensor.dtype)], list(tensor.shape))
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    spec = EncoderSpec(
        format=FORMAT,
        family=encoder.family,
        name=name,
        config=config,
        weights_sha256=digest.hexdigest(),
        source=dict(source or {"name": name, "files": {}}),
        pooling=encoder.pooling,
        alphabet=ALPHABET if encoder.family == "esm2" else None,
        tokenizer=encoder.tokenizer_json,
    )
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"virnucpro": json.dumps(asdict(spec), sort_keys=True)})
    return spec


def read_spec(path: str | Path) -> EncoderSpec:
    """The specification in a canonical file; ModelError for any other file."""
    metadata, _, _ = read_header(path)
    try:
        entry = json.loads(metadata["virnucpro"])
        family = entry["family"]
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{path} is not a canonical encoder file; prepare it from the checkpoint first") from None
    if family not in FAMILIES:
        raise ModelError(f"{path} holds a {family}, not an encoder of {' or '.join(FAMILIES)}")
    if entry.get("format") != FORMAT or set(entry) != {field.name for field in fields(EncoderSpec)}:
        raise ModelError(f"{path} was written by another version (format {entry.get('format')}); prepare it again")
    return EncoderSpec(**entry)


def read_header(path: str | Path) -> tuple[dict[str, str], dict[str, dict[str, Any]], int]:
    """Metadata, tensor entries and the offset of the first tensor's bytes of a safetensors file."""
    path = Path(path)
    try:
        with path.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if not 2 <= size <= _MAX_HEADER:
                raise ValueError("no safetensors header")
            header = json.loads(handle.read(size))
        metadata = header.pop("__metadata__", {})
        data = 8 + size
        end = data + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} can't be read as a safetensors file ({error}); fetch or make it again") from error
    if path.stat().st_size != end:
        raise ModelError(f"{path} is {path.stat().st_size:,} bytes long but should have {end:,}; make it again")
    return metadata, header, data


def load_encoder(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> ESM2 | DNABERT:
    """The encoder, mapped from the file straight to the device; in the stored dtype unless one is given."""
    from safetensors import safe_open

    spec = read_spec(path)
    names = sorted(read_header(path)[1])
    readers = 1 if str(device) == "cpu" else GPU_READERS

    def read(first: int) -> dict[str, torch.Tensor]:
        with safe_open(path, framework="pt", device=str(device)) as handle:
            # Converted one by one: the GPU need not hold all of them twice.
            return {name: (t := handle.get_tensor(name)).to(dtype or t.dtype) for name in names[first::readers]}

    with ThreadPoolExecutor(readers, "weights") as pool:
        state = {name: tensor for part in pool.map(read, range(readers)) for name, tensor in part.items()}
    return build_encoder(spec.family, spec.config, state, spec.tokenizer, str(path)).eval()


def build_encoder(
    family: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], tokenizer: str | None, where: str
) -> ESM2 | DNABERT:
    """An encoder that owns the tensors of ``state``; ModelError if they don't fit its configuration."""
    from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
    from virnucpro.encoders.esm2 import ESM2, ESM2Config
    from virnucpro.skeleton import skeleton

    encoder: ESM2 | DNABERT
    with skeleton():
        try:
            encoder = ESM2(ESM2Config(**config)) if family == "esm2" else DNABERT(DNABERTConfig(**config), tokenizer)
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


def verify_canonical(path: str | Path) -> EncoderSpec:
    """Read the whole file and compare its content with the digest it carries."""
    spec = read_spec(path)
    _, tensors, data = read_header(path)
    digest = _digest_start(spec.family, spec.config, spec.tokenizer)
    with Path(path).open("rb") as handle:
        for key in sorted(tensors):
            _digest_tensor(digest, key, tensors[key]["dtype"], tensors[key]["shape"])
            start, stop = tensors[key]["data_offsets"]
            handle.seek(data + start)
            for at in range(start, stop, BLOCK_BYTES):
                digest.update(handle.read(min(BLOCK_BYTES, stop - at)))
    if digest.hexdigest() != spec.weights_sha256:
        raise ModelError(f"{path} is damaged: its content doesn't match its own SHA-256; prepare it again")
    return spec


def _digest_start(family: str, config: Mapping[str, Any], tokenizer: str | None) -> hashlib._Hash:
    head = json.dumps([FORMAT, family, dict(config), tokenizer], sort_keys=True)
    return hashlib.sha256(head.encode())


def _digest_tensor(digest: hashlib._Hash, key: str, dtype: str, shape: list[int]) -> None:
    digest.update(json.dumps([key, dtype, shape]).encode())
