"""ESM-2 on packed tokens: the protein encoder.

The architecture of Lin et al. 2023 (https://doi.org/10.1126/science.ade2574), with fair-esm's
``esm.model.esm2.ESM2`` as the reference: pre-norm blocks, rotary positions, token dropout that
stays active at inference, last layer only. Shapes: T tokens, n sequences, d width, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from virnucpro.encoders import fused
from virnucpro.encoders.attention import Backend, choose_backend
from virnucpro.encoders.packing import Pack
from virnucpro.encoders.stages import plain_stages
from virnucpro.errors import InputError

ALPHABET = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
CLS, EOS, MASK = 0, 2, 32
POOLED_RESIDUES = 1024  # the original pools the first 1,024 residues of a protein
TRAINING_MASK_FRACTION = 0.15 * 0.8  # share of tokens that were <mask> while ESM-2 was trained

_REFUSED = 255
_LETTERS = "".join(token for token in ALPHABET if len(token) == 1).encode()
_TABLE = bytearray([_REFUSED]) * 256  # and byte 0 is <cls>: it stands between the sequences while they are joined
for _letter in b"\0" + _LETTERS:
    _TABLE[_letter] = ALPHABET.index(chr(_letter)) if _letter else CLS


def tokenize(sequences: Sequence[bytes], ids: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """<cls> residues <eos> for each of n ≥ 1 proteins: flat tokens (T,) uint8 and token counts (n,) int64.

    Raises InputError for a letter that ESM-2 doesn't know; J, ``*`` and lower case are among them.
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)) + 2
    joined = b"\0" + b"\0\0".join(sequences) + b"\0"
    tokens = np.frombuffer(bytearray(joined.translate(_TABLE)), dtype=np.uint8)
    ends = np.cumsum(lengths)
    if lengths.min() == 2 or tokens.max() == _REFUSED or joined.count(0) != 2 * len(sequences):
        _refuse(sequences, ids)
    tokens[ends - 1] = EOS
    return tokens, lengths


def _refuse(sequences: Sequence[bytes], ids: Sequence[str] | None) -> None:
    for index, sequence in enumerate(sequences):
        name = ids[index] if ids is not None else f"number {index + 1}"
        if not sequence:
            raise InputError(f"protein {name} is empty: ESM-2 needs at least one residue")
        if unknown := sequence.translate(None, _LETTERS):
            position = sequence.index(unknown[:1]) + 1
            raise InputError(
                f"protein {name} has {unknown[:1]!r} at residue {position}, which ESM-2 has no token for; "
                f"allowed are {_LETTERS.decode()} in upper case (write X for an unknown residue)"
            )


@dataclass(frozen=True)
class ESM2Config:
    layers: int
    width: int
    heads: int
    ffn: int
    token_dropout: bool = True

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class ESM2Block(nn.Module):
    """One pre-norm block in two parts, around the attention that a backend computes."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.width)

    def project(
        self, x: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (T, d) -> q, k, v (T, H, D); q and k rotated unless cos is None. cos, sin: (T, D/2) fp32."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))  # (T, 3, H, D)
        q, k, v = qkv.unbind(1)
        if cos is None or sin is None:
            return q, k, v
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """x (T, d), attended (T, H, D) -> (T, d): all that follows the attention."""
        x = x + self.out(attended.flatten(1))
        return x + self.fc2(F.gelu(self.fc1(self.ffn_norm(x))))


class ESM2(nn.Module):
    family = "esm2"
    pooling = f"mean of the first {POOLED_RESIDUES} residues"
    tokenizer_json: str | None = None

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(len(ALPHABET), config.width)
        self.layers = nn.ModuleList(ESM2Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=1e-5)
        self._rotary: tuple[torch.Tensor, torch.Tensor] | None = None
        self.use("plain")
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def use(self, kind: str) -> None:
        """Compute the blocks "plain" as written here, "compiled", or with the "fused" kernels.

        Compiled are both parts of a block, once for all blocks and pack sizes. The fused ones hold what they derive
        from the weights, so this comes after the weights have their values, dtype and device.
        """
        self.stages = fused.stages(self) if kind == "fused" else plain_stages(self, ESM2Block, kind)

    def backend(self, name: str = "auto") -> Backend:
        weight = self.embed_tokens.weight
        return choose_backend(name, weight.device, weight.dtype, self.config.head_dim, alibi=False)

    def forward(self, tokens: torch.Tensor, pack: Pack, backend: Backend | None = None) -> torch.Tensor:
        """tokens (T,) integer -> hidden states (T, d) after the last block and the final LayerNorm."""
        backend = backend or self.backend()
        stages = self.stages
        cos = sin = rotary = None
        if backend.fuses_rotary:
            rotary = self._tables(pack.max_length)
        else:
            cos, sin = rotary_tables(pack.positions, self.config.head_dim)
        attend = backend.prepare(pack, rotary=rotary)
        x = stages.embed(self, tokens, pack)
        for layer in self.layers:
            q, k, v = stages.project(layer, x, cos, sin)
            x = stages.finish(layer, x, attend(q, k, v))
        return stages.final(self, x)

    def final(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_norm(x)

    def _tables(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary tables by position, for sequences of up to ``length`` tokens; kept, and made again for longer ones."""
        device = self.embed_tokens.weight.device
        if self._rotary is None or len(self._rotary[0]) < length or self._rotary[0].device != device:
            positions = torch.arange(max(1024, 2 * length), device=device)
            self._rotary = rotary_tables(positions, self.config.head_dim)
        return self._rotary

    def embed(self, tokens: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Token embeddings (T, d), <mask> zeroed, the rest scaled for the share of <mask>: by 0.88 if there is none."""
        x = self.embed_tokens(tokens)
        if not self.config.token_dropout:
            return x
        masked = tokens == MASK
        observed = pack.segment_sum(masked.float()) / pack.lengths
        scale = pack.per_token((1 - TRAINING_MASK_FRACTION) / (1 - observed)).masked_fill(masked, 0.0)
        return (x * scale[:, None]).to(x.dtype)

    def pool(self, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
        """(T, d) -> (n, d) fp32: mean over the first 1,024 residues, <cls> and <eos> left out."""
        return self.stages.pool(self, hidden, pack)

    def pool_plain(self, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
        residues = (pack.lengths - 2).clamp(max=POOLED_RESIDUES)
        inside = (pack.positions >= 1) & (pack.positions <= pack.per_token(residues))
        return pack.segment_sum(hidden.float() * inside[:, None]) / residues[:, None]

    tokenize = staticmethod(tokenize)

    def tokenizer_apart(self) -> None:
        """Letters are tokens, which takes no process of its own."""


def rotary_tables(positions: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, (T, head_dim/2) each, in fp32 whatever the model's dtype: halves round the angles."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.to(torch.float32)[:, None] * (1.0 / 10000.0**exponents)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021) in rotate-half order. x (T, H, D), cos and sin (T, D/2) fp32."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
