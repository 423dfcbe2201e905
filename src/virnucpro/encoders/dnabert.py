"""DNABERT-S on packed tokens: the DNA encoder.

Zhou et al. 2024 (https://arxiv.org/abs/2402.08777): the MosaicBERT architecture (post-norm blocks, gated
MLP, symmetric ALiBi instead of position embeddings) over byte-pair tokens of about five bases.
Shapes: T tokens, n sequences, d width, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from virnucpro.encoders import fused
from virnucpro.encoders.attention import Backend, alibi_slopes, choose_backend
from virnucpro.encoders.bpe import Tokenizer, TokenizerProcess
from virnucpro.encoders.packing import Pack
from virnucpro.encoders.stages import plain_stages
from virnucpro.errors import ModelError


@dataclass(frozen=True)
class DNABERTConfig:
    layers: int
    width: int
    heads: int
    ffn: int
    vocabulary: int = 4096

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class DNABERTBlock(nn.Module):
    """One post-norm block in two parts, around the attention that a backend computes."""

    def __init__(self, config: DNABERTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.gated = nn.Linear(config.width, 2 * config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=1e-12)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (T, d) -> q, k, v (T, H, D), views of one tensor."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        return q, k, v

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """x (T, d), attended (T, H, D) -> (T, d): all that follows the attention."""
        x = self.attention_norm(x + self.out(attended.flatten(1)))
        gate, value = self.gated(x).chunk(2, dim=-1)  # (T, ffn) each
        return self.ffn_norm(x + self.down(F.gelu(gate) * value))


class DNABERT(nn.Module):
    family = "dnabert_s"
    pooling = "mean of all tokens"

    def __init__(self, config: DNABERTConfig, tokenizer_json: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer_json = tokenizer_json
        self.tokenizer = Tokenizer(tokenizer_json, config.vocabulary) if tokenizer_json is not None else None
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.token_type = nn.Parameter(torch.zeros(config.width))  # of segment 0, the only one there is
        self.embed_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.layers = nn.ModuleList(DNABERTBlock(config) for _ in range(config.layers))
        self._slopes: torch.Tensor | None = None
        self.use("plain")
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def use(self, kind: str) -> None:
        """Compute the blocks "plain" as written here, "compiled", or with the "fused" kernels; see ``ESM2.use``."""
        self.stages = fused.stages(self) if kind == "fused" else plain_stages(self, DNABERTBlock, kind)

    def backend(self, name: str = "auto") -> Backend:
        weight = self.embed_tokens.weight
        return choose_backend(name, weight.device, weight.dtype, self.config.head_dim, alibi=True)

    def forward(self, tokens: torch.Tensor, pack: Pack, backend: Backend | None = None) -> torch.Tensor:
        """tokens (T,) integer -> hidden states (T, d) after the last block."""
        backend = backend or self.backend()
        stages = self.stages
        if self._slopes is None or self._slopes.device != pack.positions.device:  # kept: sending them waits for the GPU
            self._slopes = torch.tensor(alibi_slopes(self.config.heads), device=pack.positions.device)
        attend = backend.prepare(pack, slopes=self._slopes)
        x = stages.embed(self, tokens, pack)
        for layer in self.layers:
            q, k, v = stages.project(layer, x)
            x = stages.finish(layer, x, attend(q, k, v))
        return stages.final(self, x)

    def embed(self, tokens: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Token embeddings (T, d), normed."""
        return self.embed_norm(self.embed_tokens(tokens) + self.token_type)

    def final(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def pool(self, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
        """(T, d) -> (n, d) fp32: mean over all tokens, [CLS] and [SEP] included."""
        return self.stages.pool(self, hidden, pack)

    def pool_plain(self, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
        return pack.segment_sum(hidden.float()) / pack.lengths[:, None]

    def tokenize(self, sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Flat tokens (T,) int32 and token counts (n,) int64, specials included."""
        return self._own_tokenizer()(sequences, ids)

    def tokenizer_apart(self) -> TokenizerProcess:
        """The same in a process of its own, which starts now."""
        self._own_tokenizer()
        assert self.tokenizer_json is not None
        return TokenizerProcess(self.tokenizer_json, self.config.vocabulary)

    def _own_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ModelError("this DNABERT-S encoder was made without its tokenizer; prepare it again from its folder")
        return self.tokenizer
