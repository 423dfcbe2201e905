"""The encoders with their training heads, and a padded forward pass for GPUs.

The encoders are the library's own modules, so what is trained is what is saved; only the batching differs (rows
padded to one length instead of packed tokens), because frames of a chunk have nearly the same length.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from windows import MIXTURE

from virnucpro.encoders.attention import alibi_slopes
from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.loading import load_encoder
from virnucpro.encoders.ops import PYTORCH, rotary_tables, rotate

PROTEIN_PAD, PROTEIN_MASK = 1, 32
DNA_PAD, DNA_MASK = 3, 4


def attend(q, k, v, bias):
    """q, k, v (B·L, H, D), bias broadcastable to (B, H, L, L) → (B·L, H, D)."""
    b, length = bias.shape[0], bias.shape[-1]
    q, k, v = (x.view(b, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2).reshape(b * length, *out.shape[1:2], -1)


def esm_hidden(model: ESM2, tokens: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """tokens (B, L) padded → hidden states (B, L, d), as ESM2.forward gives them; dropout in training only.

    `dropout` drops attended vectors, and with the same rate whole layers for single sequences (stochastic depth).
    """
    b, length = tokens.shape
    real = tokens != PROTEIN_PAD
    masked = tokens == PROTEIN_MASK
    observed = masked.sum(1) / real.sum(1)
    scale = (0.88 / (1 - observed))[:, None].expand(b, length).masked_fill(masked, 0.0)
    x = (model.embed_tokens(tokens) * scale[..., None]).reshape(b * length, -1)
    cos, sin = rotary_tables(torch.arange(length, device=tokens.device), model.config.head_dim)
    cos, sin = cos.repeat(b, 1), sin.repeat(b, 1)
    bias = torch.zeros(b, 1, 1, length, device=tokens.device, dtype=torch.bfloat16 if tokens.is_cuda else x.dtype)
    bias = bias.masked_fill(~real[:, None, None], float("-inf")).expand(b, model.config.heads, length, length)
    for layer in model.layers:
        q, k, v = layer.project(PYTORCH, x)
        attended = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, bias.to(v.dtype))
        if dropout:
            new = layer.finish(PYTORCH, x, F.dropout(attended, dropout))
            keep = (torch.rand(b, 1, 1, device=x.device) >= dropout).to(new.dtype) / (1 - dropout)
            x = x + (keep * (new - x).view(b, length, -1)).view_as(x)
        else:
            x = layer.finish(PYTORCH, x, attended)
    return model.final_norm(x).view(b, length, -1)


def dna_hidden(model: DNABERT, tokens: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """tokens (B, L) padded → hidden states (B, L, d), as DNABERT.forward gives them."""
    b, length = tokens.shape
    real = tokens != DNA_PAD
    position = torch.arange(length, device=tokens.device)
    slopes = torch.tensor(alibi_slopes(model.config.heads), device=tokens.device)
    alibi = -(position[:, None] - position).abs() * slopes[:, None, None]  # (H, L, L)
    bias = alibi.to(torch.bfloat16 if tokens.is_cuda else torch.float32)[None]
    bias = bias.expand(b, -1, -1, -1).masked_fill(~real[:, None, None], float("-inf"))
    x = model.embed_norm(model.embed_tokens(tokens) + model.token_type).reshape(b * length, -1)
    for layer in model.layers:
        q, k, v = layer.project(PYTORCH, F.dropout(x, dropout) if dropout else x)
        attended = attend(q, k, v, bias.to(v.dtype))
        x = layer.finish(PYTORCH, x, F.dropout(attended, dropout) if dropout else attended)
    return x.view(b, length, -1)


def pool_protein(hidden, tokens):
    inside = (tokens > 2) & (tokens != PROTEIN_PAD)  # residues and masked residues, no cls, eos, pad
    return (hidden.float() * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)


def pool_dna(hidden, tokens):
    inside = tokens != DNA_PAD
    return (hidden.float() * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)


class MaskedHead(nn.Module):
    """Logits of the masked tokens, with the embedding matrix as output layer."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        n, d = embedding.weight.shape
        self.dense, self.norm, self.bias = nn.Linear(d, d), nn.LayerNorm(d), nn.Parameter(torch.zeros(n))

    def forward(self, hidden, embedding):
        return F.linear(self.norm(F.gelu(self.dense(hidden))), embedding.weight, self.bias)


def classifier(inputs: int, classes: int, hidden: int = 512, dropout: float = 0.5) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
    )


class Learner(nn.Module):
    """One encoder, its masked-token head, and heads on the pooled vector: viral or not, and the category."""

    def __init__(self, kind: str, config: dict, categories: int, dropout: float = 0.5, tokenizer: str | None = None):
        super().__init__()
        self.kind, self.config = kind, config
        if kind == "protein":
            self.encoder = ESM2(ESM2Config(**config))
        else:
            self.encoder = DNABERT(DNABERTConfig(**config), tokenizer)
        width = config["width"]
        self.masked = MaskedHead(self.encoder.embed_tokens)
        self.viral, self.category = classifier(width, 2, 256, dropout), classifier(width, categories, 256, dropout)

    def forward(self, tokens, dropout: float = 0.0):
        """(b, t) padded tokens → hidden states (b, t, width), pooled vectors (b, width)."""
        if self.kind == "protein":
            hidden = esm_hidden(self.encoder, tokens, dropout)
            return hidden, pool_protein(hidden, tokens)
        hidden = dna_hidden(self.encoder, tokens, dropout)
        return hidden, pool_dna(hidden, tokens)


HEADS = ("protein", "dna", "joint")
PREPARED = ("mini-esm2", "mini-dnabert-s")


class Pair(nn.Module):
    """Both encoders with their heads, and a head on both vectors, as a classifier is."""

    def __init__(self, plan: dict, dropout: float = 0.5, tokenizer: str | None = None):
        super().__init__()
        self.plan = plan
        self.protein = Learner("protein", plan["protein"], len(MIXTURE) + 1, dropout)
        self.dna = Learner("dna", plan["dna"], len(MIXTURE) + 1, dropout, tokenizer)
        self.joint = classifier(plan["protein"]["width"] + plan["dna"]["width"], 2, 512, dropout)

    def encoders(self) -> tuple[tuple[str, Learner], ...]:
        return ("protein", self.protein), ("dna", self.dna)

    def heads(self, vectors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Vectors of each encoder → logits (b, 2) of each of HEADS."""
        both = torch.cat([vectors["protein"], vectors["dna"]], 1)
        return {
            "protein": self.protein.viral(vectors["protein"]),
            "dna": self.dna.viral(vectors["dna"]),
            "joint": self.joint(both),
        }

    def start_from(self, path: Path) -> None:
        """Take a checkpoint's averaged weights, or the encoders of a folder of prepared files."""
        if path.is_dir():
            for name, (_, learner) in zip(PREPARED, self.encoders(), strict=True):
                prepared = load_encoder(path / f"{name}.safetensors")
                learner.encoder.load_state_dict({k: v.float() for k, v in prepared.state_dict().items()})
        else:
            self.load_state_dict(floats(torch.load(path, map_location="cpu")["model"]))

    @classmethod
    def read(cls, path: Path, device: torch.device, tokenizer: str | None = None) -> "Pair":
        """A checkpoint's pair, in eval mode."""
        state = torch.load(path, map_location="cpu")
        pair = cls(state["plan"], tokenizer=tokenizer)
        pair.load_state_dict(floats(state["model"]))
        return pair.to(device).eval()


def floats(state: dict) -> dict:
    """A checkpoint's tensors, halves as fp32."""
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
