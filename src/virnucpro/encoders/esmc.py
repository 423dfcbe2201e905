"""ESM C (ESM Cambrian) on packed tokens: another protein encoder.

The reference is ``transformers.models.esmc``: pre-norm blocks as in ESM-2, but queries and keys are normed before they are
rotated, the MLP is a SwiGLU, no product has a bias, and what a block adds to the stream is scaled by √(36 / layers).
Shapes: T tokens, n sequences, d width, H heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from virnucpro.encoders import checkpoints
from virnucpro.encoders.attention import Backend
from virnucpro.encoders.checkpoints import Checkpoint, Layout
from virnucpro.encoders.encoder import Block, Encoder, EncoderConfig
from virnucpro.encoders.letters import LetterTokenizer
from virnucpro.encoders.ops import Ops, compilable, gated_silu
from virnucpro.encoders.packing import PackedBatch
from virnucpro.errors import ModelError

ALPHABET = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "|", "<mask>"]

tokenize = LetterTokenizer("ESM C", ALPHABET)


@dataclass(frozen=True)
class ESMCConfig(EncoderConfig):
    vocabulary: int = 64  # rows of the embedding, more than there are tokens


class ESMCBlock(Block):
    """A pre-norm block."""

    def __init__(self, config: ESMCConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads, math.sqrt(36 / config.layers)
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_norm = nn.LayerNorm(config.width, bias=False)
        self.k_norm = nn.LayerNorm(config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.gated = nn.Linear(config.width, 2 * config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.width, bias=False)

    @compilable
    def project(self, ops: Ops, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (T, d) -> q, k, v (T, H, D), normed and not rotated yet."""
        q, k, v = ops.norm_linear(x, self.attention_norm, self.qkv).chunk(3, dim=-1)  # (T, d) each
        q, k = ops.norm(q, self.q_norm, overwrite=True), ops.norm(k, self.k_norm, overwrite=True)
        size = (self.heads, -1)
        return q.unflatten(-1, size), k.unflatten(-1, size), v.unflatten(-1, size)

    @compilable
    def finish(self, ops: Ops, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = ops.add_linear(x, attended.flatten(1), self.out, scale=self.scale)
        hidden = ops.gated(ops.norm(x, self.ffn_norm), self.gated, gated_silu)
        return ops.add_linear(x, hidden, self.down, scale=self.scale)


class ESMC(Encoder):
    architecture = "esmc"
    Config = ESMCConfig
    pooling = "mean of all residues"  # ESM-2's limit of 1,024 is the original VirNucPro's, which had no ESM C
    alphabet = ALPHABET

    def __init__(self, config: ESMCConfig, tokenizer_json: str | None = None) -> None:
        super().__init__(config, tokenizer_json)
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(ESMCBlock(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, bias=False)
        self.init_weights()

    def forward(self, tokens: torch.Tensor, batch: PackedBatch, backend: Backend | None = None) -> torch.Tensor:
        """tokens (T,) integer -> hidden states (T, d) fp32 after the last block and the final LayerNorm."""
        attend = (backend or self.backend()).prepare(batch, rotary=self.rotary(batch.max_length))
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(self.ops, x, attend)
        return self.ops.norm(x, self.final_norm, dtype=torch.float32)

    def pool(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """(T, d) -> (n, d) fp32: mean over the residues, <cls> and <eos> left out."""
        return self.ops.mean(hidden, batch, skip=1)

    tokenize = staticmethod(tokenize)  # type: ignore[assignment]

    @staticmethod
    def read_checkpoint(source: Path) -> Checkpoint:
        """A Hugging Face folder."""
        if not source.is_dir():
            raise ModelError(
                f"{source} is a file; ESM C is read from a Hugging Face folder with config.json and weights"
            )
        where = source / "config.json"
        settings = {
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            **checkpoints.read_config(where, "esmc"),
        }
        config = checkpoints.read_sizes(where, settings, vocabulary="vocab_size")
        rope = {"rope_type": "default", "rope_theta": 10000.0, **(settings.get("rope_parameters") or {})}
        derived = {"head_dim": config["width"] // config["heads"], "num_key_value_heads": config["heads"]}
        given = {key: settings.get(key) or value for key, value in derived.items()}
        fixed = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
        checkpoints.require(
            where, settings | rope | given, {**fixed, **derived, "rope_type": "default", "rope_theta": 10000.0}
        )
        tensors, files = checkpoints.read_weights(source, "esmc.")
        return Checkpoint(config, checkpoints.translate(files[0], tensors, HF_ESMC, config), [*files, where])


HF_ESMC = Layout(
    layer="layers.",
    top={"embed_tokens": "embed_tokens", "final_norm": "norm"},
    block={
        "attention_norm": ("input_layernorm",),
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "q_norm": ("self_attn.q_norm",),
        "k_norm": ("self_attn.k_norm",),
        "out": ("self_attn.o_proj",),
        "ffn_norm": ("post_attention_layernorm",),
        "gated": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    },
    ignored=r"lm_head\.|.*inv_freq$",
)
