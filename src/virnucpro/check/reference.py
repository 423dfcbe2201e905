"""fp32 vectors to compare with: fair-esm's own module where it is installed, else the plain padded forward pass."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from virnucpro.encoders.checkpoints import export_state
from virnucpro.encoders.esm2 import ESM2, FAIR_ESM
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.original import embed_original
from virnucpro.errors import ConfigError
from virnucpro.models.empty_weights import init_empty_weights

logger = logging.getLogger(__name__)

PLAIN = "plain fp32"


def reference_vectors(
    model: Path, ids: Sequence[str], sequences: Sequence[bytes], device: str
) -> tuple[np.ndarray, str]:
    """(n, d) float32 vectors of a prepared encoder and what computed them; on the CPU where the GPU is too small."""
    try:
        encoder = load_encoder(model, device, torch.float32)
        hidden = fair_esm(encoder) if isinstance(encoder, ESM2) else None
        vectors = embed_original(encoder, ids, sequences, device, hidden=hidden).vectors
    except (torch.OutOfMemoryError, ConfigError):
        if device == "cpu":
            raise
    else:
        return vectors, "fair-esm" if hidden else PLAIN
    logger.warning("%s in fp32 doesn't fit in the memory of %s: the reference runs on the CPU", model, device)
    torch.cuda.empty_cache()
    return reference_vectors(model, ids, sequences, "cpu")


def fair_esm(encoder: ESM2) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """fair-esm's ESM-2 with this one's weights: padded tokens (n, L) to hidden states (n, L, d).

    None without fair-esm (another package is also called ``esm``), or for a shape that it doesn't have.
    It isn't imported where it isn't needed: nothing but this comparison uses it.
    """
    config = encoder.config
    if config.ffn != 4 * config.width or not config.token_dropout:
        return None
    try:
        esm2 = importlib.import_module("esm.model.esm2")
        rotary = importlib.import_module("esm.rotary_embedding")
    except ImportError:
        return None
    with init_empty_weights():
        module = esm2.ESM2(config.layers, config.width, config.heads, "ESM-1b").eval()
    module.load_state_dict(export_state(encoder, FAIR_ESM), strict=False, assign=True)
    for layer in module.layers:  # its frequencies are a buffer that no checkpoint of ours holds
        layer.self_attn.rot_emb = rotary.RotaryEmbedding(dim=config.head_dim).to(encoder.embed_tokens.weight.device)
    module.lm_head = torch.nn.Identity()
    return lambda tokens: module(tokens, repr_layers=[config.layers])["representations"][config.layers]
