"""What all encoders have in common beside their forward pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from virnucpro.encoders.attention import Attend, Backend, Tables, choose_backend
from virnucpro.encoders.bpe import TokenizerProcess
from virnucpro.encoders.checkpoints import Checkpoint
from virnucpro.encoders.ops import PYTORCH, Ops, rotary_tables
from virnucpro.encoders.packing import PackedBatch
from virnucpro.models.registry import ARCHITECTURES


@dataclass(frozen=True)
class EncoderConfig:
    """What makes an encoder large."""

    layers: int
    width: int
    heads: int
    ffn: int

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Block(nn.Module):
    """One block in two parts, around the attention that a backend computes."""

    def forward(self, ops: Ops, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        return self.finish(ops, x, attend(*self.project(ops, x)))

    @abstractmethod
    def project(self, ops: Ops, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (T, d) -> q, k, v (T, H, D)."""

    @abstractmethod
    def finish(self, ops: Ops, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """x (T, d), attended (T, H, D) -> (T, d): all that follows the attention."""


class Encoder(nn.Module):
    """Packed tokens in, hidden states out. Shapes: T tokens, n sequences, d width, H heads, D head size."""

    architecture: ClassVar[str]  # its name in the registry
    Config: ClassVar[type[EncoderConfig]]
    pooling: ClassVar[str]  # in words
    alphabet: ClassVar[list[str] | None] = None  # tokens in order, where each is a letter
    embed_tokens: nn.Embedding

    def __init__(self, config: Any, tokenizer_json: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer_json = tokenizer_json
        self.ops: Ops = PYTORCH  # chosen once the weights have their values, dtype and device
        self._rotary: Tables | None = None

    def init_weights(self) -> None:
        """Random ones, for training; matrices of normal distribution, biases 0."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @abstractmethod
    def forward(self, tokens: torch.Tensor, batch: PackedBatch, backend: Backend | None = None) -> torch.Tensor:
        """tokens (T,) integer -> hidden states (T, d) after the last block."""

    @abstractmethod
    def pool(self, hidden: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """(T, d) -> (n, d) fp32."""

    def vectors(self, batch: PackedBatch, backend: Backend | None = None) -> torch.Tensor:
        """Pooled vectors, (n, d) fp32, of a batch that holds its tokens."""
        assert batch.tokens is not None
        return self.pool(self(batch.tokens, batch, backend), batch)

    @abstractmethod
    def tokenize(self, sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Flat tokens (T,) and token counts (n,) int64, specials included; InputError names what can't be read."""

    def tokenizer_process(self) -> TokenizerProcess | None:
        """The same in a subprocess that starts now; None where tokenizing is a byte lookup."""
        return None

    @staticmethod
    @abstractmethod
    def read_checkpoint(source: Path) -> Checkpoint:
        """A published checkpoint's configuration and weights under this encoder's names."""

    def paired_features(self) -> AbstractContextManager[None]:
        """As long as it lasts, the features that a rotary position turns together are neighbours, where that is known.

        Queries and keys are then pairs of real numbers and can be turned in place as complex ones; their products stay.
        """
        return nullcontext()

    def backend(self, name: str = "auto") -> Backend:
        """The attention backend of that name for this encoder's device, dtype and heads."""
        weight, alibi = self.embed_tokens.weight, ARCHITECTURES[self.architecture].alibi
        return choose_backend(name, weight.device, weight.dtype, self.config.head_dim, alibi)

    def rotary(self, length: int) -> Tables:
        """Rotary tables by position, for sequences of up to ``length`` tokens; kept, and made again for longer ones."""
        device = self.embed_tokens.weight.device
        if self._rotary is None or len(self._rotary[0]) < length or self._rotary[0].device != device:
            with torch.inference_mode(False):  # training may use them, too
                positions = torch.arange(max(1024, 2 * length), device=device)
                self._rotary = rotary_tables(positions, self.config.head_dim)
        return self._rotary
