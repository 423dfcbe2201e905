"""ESM-2 on packed tokens: the protein encoder.

The architecture of Lin et al. 2023 (https://doi.org/10.1126/science.ade2574), with fair-esm's
``esm.model.esm2.ESM2`` as the reference: pre-norm blocks, rotary positions, token dropout that
stays active at inference, last layer only. Shapes: T tokens, n sequences, d width, H heads, D head size.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from virnucpro.encoders import checkpoints
from virnucpro.encoders.attention import Backend, Tables
from virnucpro.encoders.checkpoints import Checkpoint, Layout
from virnucpro.encoders.encoder import Block, Encoder, EncoderConfig
from virnucpro.encoders.letters import LetterTokenizer
from virnucpro.encoders.ops import Ops, compilable, split_heads
from virnucpro.encoders.packing import PackedBatch
from virnucpro.errors import ModelError
from virnucpro.models.pickles import load_pickle

ALPHABET = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
POOLED_RESIDUES = 1024  # the original pools the first 1,024 residues of a protein
TRAINING_MASK_FRACTION = 0.15 * 0.8  # share of tokens that were <mask> while ESM-2 was trained

tokenize = LetterTokenizer("ESM-2", ALPHABET)


@dataclass(frozen=True)
class ESM2Config(EncoderConfig):
    token_dropout: bool = True


class ESM2Block(Block):
    """A pre-norm block."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.width)

    @compilable
    def project(self, ops: Ops, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (T, d) -> q, k, v (T, H, D), not rotated yet."""
        return split_heads(ops.norm_linear(x, self.attention_norm, self.qkv), self.heads)

    @compilable
    def finish(self, ops: Ops, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = ops.add_linear(x, attended.flatten(1), self.out)
        return ops.feed_forward(x, self.ffn_norm, self.fc1, self.fc2)


class ESM2(Encoder):
    architecture = "esm2"
    Config = ESM2Config
    pooling = f"mean of the first {POOLED_RESIDUES} residues"
    alphabet = ALPHABET
    _paired = False  # whether features that are rotated together are neighbours now

    def __init__(self, config: ESM2Config, tokenizer_json: str | None = None) -> None:
        super().__init__(config, tokenizer_json)
        self.embed_tokens = nn.Embedding(len(ALPHABET), config.width)
        self.layers = nn.ModuleList(ESM2Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.init_weights()

    def forward(self, tokens: torch.Tensor, batch: PackedBatch, backend: Backend | None = None) -> torch.Tensor:
        """tokens (T,) integer, no <mask> -> hidden states (T, d) fp32 after the last block and the final LayerNorm."""
        attend = (backend or self.backend()).prepare(batch, rotary=self.turns(batch.max_length))
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(self.ops, x, attend)
        return self.ops.norm(x, self.final_norm, dtype=torch.float32)

    def turns(self, length: int) -> Tables:
        """Rotary tables in the order that the features have now."""
        tables = self.rotary(length)
        return torch.complex(*tables) if self._paired else tables

    @contextmanager
    def paired_features(self) -> Iterator[None]:
        head = torch.arange(self.config.width).unflatten(0, (self.config.heads, 2, -1))
        paired = head.transpose(1, 2).flatten()
        self._reorder(paired)
        self._paired = True
        try:
            yield
        finally:
            self._reorder(paired.argsort())
            self._paired = False

    def _reorder(self, order: torch.Tensor) -> None:
        """Put the features (d,) of queries and keys into another order."""
        width = self.config.width
        rows = torch.cat((order, width + order, torch.arange(2 * width, 3 * width)))
        for block in self.layers:
            assert isinstance(block, ESM2Block)
            for parameter in (block.qkv.weight, block.qkv.bias):
                parameter.data = parameter.data[rows]

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token embeddings (T, d), as token dropout scales them where no token is <mask>: by 0.88."""
        weight = self.embed_tokens.weight
        return F.embedding(tokens, weight * (1 - TRAINING_MASK_FRACTION) if self.config.token_dropout else weight)

    def pool(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """(T, d) -> (n, d) fp32: mean over the first 1,024 residues, <cls> and <eos> left out."""
        return self.ops.mean(hidden, batch, skip=1, limit=POOLED_RESIDUES)

    tokenize = staticmethod(tokenize)  # type: ignore[assignment]

    @staticmethod
    def read_checkpoint(source: Path) -> Checkpoint:
        """fair-esm's ``esm2_*.pt``, or a Hugging Face folder."""
        return _hugging_face(source) if source.is_dir() else _fair_esm(source)


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


def _fair_esm(path: Path) -> Checkpoint:
    content = load_pickle(path, "a fair-esm checkpoint", [argparse.Namespace])
    keys = ("encoder_layers", "encoder_embed_dim", "encoder_attention_heads")
    try:
        settings, tensors = vars(content["cfg"]["model"]), content["model"]
        layers, width, heads = (int(settings[key]) for key in keys)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a fair-esm ESM-2 checkpoint ({error}); give esm2_*.pt or a Hugging Face folder"
        ) from error
    tensors = checkpoints.tensors_of(tensors, path)
    for prefix in ("encoder.sentence_encoder.", "encoder."):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if any("embed_positions" in key or "emb_layer_norm_before" in key for key in tensors):
        raise ModelError(f"{path} has learned positions: it is an older ESM model; only ESM-2 (rotary) is supported")
    config = {"layers": layers, "width": width, "heads": heads, "ffn": 4 * width}
    config["token_dropout"] = bool(settings.get("token_dropout", True))
    return Checkpoint(config, checkpoints.translate(path, tensors, FAIR_ESM, config), [path])


def _hugging_face(folder: Path) -> Checkpoint:
    where = folder / "config.json"
    settings = {"rope_theta": 10000.0, "hidden_act": "gelu", **checkpoints.read_config(where, "esm")}
    required = {"position_embedding_type": "rotary", "emb_layer_norm_before": False, "layer_norm_eps": 1e-5}
    checkpoints.require(where, settings, {**required, "rope_theta": 10000.0, "hidden_act": "gelu"})
    config = checkpoints.read_sizes(where, settings)
    tensors, files = checkpoints.read_weights(folder, "esm.")
    # the oldest and the newest transformers name the LayerNorm tensors gamma and beta
    tensors = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", k)): v for k, v in tensors.items()}
    state = checkpoints.translate(files[0], tensors, HF_ESM, config)
    return Checkpoint({**config, "token_dropout": bool(settings.get("token_dropout", False))}, state, [*files, where])
