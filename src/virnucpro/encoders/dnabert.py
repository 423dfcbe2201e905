"""DNABERT-S on packed tokens: the DNA encoder.

Zhou et al. 2024 (https://arxiv.org/abs/2402.08777): the MosaicBERT architecture (post-norm blocks, gated
MLP, symmetric ALiBi instead of position embeddings) over byte-pair tokens of about five bases.
Shapes: T tokens, n sequences, d width, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from virnucpro.encoders import checkpoints
from virnucpro.encoders.attention import Backend, alibi_slopes
from virnucpro.encoders.bpe import Tokenizer, TokenizerProcess
from virnucpro.encoders.checkpoints import Checkpoint, Layout
from virnucpro.encoders.encoder import Block, Encoder, EncoderConfig
from virnucpro.encoders.ops import Ops, compilable, gated_gelu, split_heads
from virnucpro.encoders.packing import PackedBatch
from virnucpro.errors import ModelError


@dataclass(frozen=True)
class DNABERTConfig(EncoderConfig):
    vocabulary: int = 4096


class DNABERTBlock(Block):
    """A post-norm block."""

    def __init__(self, config: DNABERTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.gated = nn.Linear(config.width, 2 * config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=1e-12)

    @compilable
    def project(self, ops: Ops, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (T, d) -> q, k, v (T, H, D), views of one tensor."""
        return split_heads(ops.linear(x, self.qkv), self.heads)

    @compilable
    def finish(self, ops: Ops, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = ops.norm(ops.add_linear(x, attended.flatten(1), self.out), self.attention_norm, overwrite=True)
        hidden = ops.gated(x, self.gated, gated_gelu)
        return ops.norm(ops.add_linear(x, hidden, self.down), self.ffn_norm, overwrite=True)


class DNABERT(Encoder):
    architecture = "dnabert_s"
    Config = DNABERTConfig
    pooling = "mean of all tokens"

    def __init__(self, config: DNABERTConfig, tokenizer_json: str | None = None) -> None:
        super().__init__(config, tokenizer_json)
        self.tokenizer = Tokenizer(tokenizer_json, config.vocabulary) if tokenizer_json is not None else None
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.token_type = nn.Parameter(torch.zeros(config.width))  # of segment 0, the only one there is
        self.embed_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.layers = nn.ModuleList(DNABERTBlock(config) for _ in range(config.layers))
        self._slopes: torch.Tensor | None = None
        self.init_weights()

    def forward(self, tokens: torch.Tensor, batch: PackedBatch, backend: Backend | None = None) -> torch.Tensor:
        """tokens (T,) integer -> hidden states (T, d) after the last block."""
        attend = (backend or self.backend()).prepare(batch, slopes=self.slopes())
        x = self.ops.norm(
            self.ops.add_bias(self.embed_tokens(tokens), self.token_type), self.embed_norm, overwrite=True
        )
        for layer in self.layers:
            x = layer(self.ops, x, attend)
        return x

    def slopes(self) -> torch.Tensor:
        """ALiBi's, (H,) fp32; kept, since sending them waits for the GPU."""
        device = self.embed_tokens.weight.device
        if self._slopes is None or self._slopes.device != device:
            with torch.inference_mode(False):  # training may use them, too
                self._slopes = torch.tensor(alibi_slopes(self.config.heads), device=device)
        return self._slopes

    def pool(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """(T, d) -> (n, d) fp32: mean over all tokens, [CLS] and [SEP] included."""
        return self.ops.mean(hidden, batch)

    def tokenize(self, sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Flat tokens (T,) int32 and token counts (n,) int64, specials included."""
        return self._own_tokenizer()(sequences, ids)

    def tokenizer_process(self) -> TokenizerProcess:
        self._own_tokenizer()
        assert self.tokenizer_json is not None
        return TokenizerProcess(self.tokenizer_json, self.config.vocabulary)

    def _own_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ModelError("this DNABERT-S encoder was made without its tokenizer; prepare it again from its folder")
        return self.tokenizer

    @staticmethod
    def read_checkpoint(source: Path) -> Checkpoint:
        """A Hugging Face folder with config.json, tokenizer.json and weights."""
        if not source.is_dir():
            raise ModelError(f"{source} is a file; DNABERT-S is a folder with config.json, tokenizer.json and weights")
        where, tokenizer = source / "config.json", source / "tokenizer.json"
        expected = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
        settings = expected | checkpoints.read_config(where, "bert")
        checkpoints.require(where, settings, expected)
        config = checkpoints.read_sizes(where, settings, vocabulary="vocab_size")
        if not tokenizer.is_file():
            raise ModelError(
                f"{tokenizer} is missing; copy it from the model's repository, DNABERT-S needs its own tokens"
            )
        tensors, files = checkpoints.read_weights(source, "bert.")
        if not any(key.endswith("attention.self.Wqkv.weight") for key in tensors):
            raise ModelError(f"{files[0]} has no fused Wqkv tensors: it is not DNABERT-S but another BERT")
        state = checkpoints.translate(files[0], tensors, MOSAIC_BERT, config)
        if (segment := tensors.get("embeddings.token_type_embeddings.weight")) is not None:
            state["token_type"] = segment[0].clone()
        return Checkpoint(config, state, [*files, where, tokenizer], tokenizer.read_text(encoding="utf-8"))


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
