"""Small random models, sequences and a tokenizer for the tests of the encoders."""

import json
import os
from pathlib import Path

import esm
import numpy as np
import pytest
import tokenizers
import torch
from transformers import EsmConfig, EsmModel

from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.esmc import ESMC, ESMCConfig
from virnucpro.encoders.packing import PackedBatch

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "data" / "parity"
RESIDUES = b"LAGVSERTIDPKQNFYMHWCXBUZO"


def proteins(lengths, seed=0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.choice(np.frombuffer(RESIDUES, np.uint8), n).tobytes() for n in lengths]


def dna(lengths, seed=0, letters=b"ACGT") -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.choice(np.frombuffer(letters, np.uint8), n).tobytes() for n in lengths]


def fair_esm(layers: int, width: int, heads: int) -> torch.nn.Module:
    torch.manual_seed(layers * width + heads)
    return randomised(esm.model.esm2.ESM2(layers, width, heads, "ESM-1b").eval())


def hugging_face_esm(layers: int, width: int, heads: int, **changes) -> EsmModel:
    torch.manual_seed(layers * width + heads)
    settings = {
        "vocab_size": 33,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "emb_layer_norm_before": False,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "mask_token_id": 32,
    }
    return randomised(EsmModel(EsmConfig(**{**settings, **changes}), add_pooling_layer=False).eval())


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases away from one and zero, where a wrong one would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def fair_esm_checkpoint(model: torch.nn.Module, path: Path, **settings) -> Path:
    """The file format of the published ``esm2_*.pt``."""
    from argparse import Namespace

    cfg = {
        "arch": "roberta_large",
        "encoder_layers": model.num_layers,
        "encoder_embed_dim": model.embed_dim,
        "encoder_attention_heads": model.attention_heads,
        "token_dropout": True,
    }
    state = {"encoder.sentence_encoder." + key: value for key, value in model.state_dict().items()}
    torch.save({"cfg": {"model": Namespace(**{**cfg, **settings})}, "model": state}, path)
    return path


def bpe_json(vocabulary: int = 256) -> str:
    """A byte-pair tokenizer trained on random DNA, with the traps of DNABERT-S's own file."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=specials, show_progress=False)
    bpe.train_from_iterator((s.decode() for s in dna([200] * 50, seed=9)), trainer)
    bpe.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    bpe.enable_truncation(2000)
    bpe.enable_padding(pad_id=3, pad_token="[PAD]", length=2000)
    return bpe.to_str()


def dnabert_tokenizer() -> str:
    """DNABERT-S's own tokenizer.json, which isn't part of this repository; skips without it."""
    beside = ROOT.parent / "shared" / "parity" / "dnabert_tiny" / "tokenizer.json"
    path = Path(os.environ.get("VIRNUCPRO_TEST_TOKENIZER", beside))
    if not path.is_file():
        pytest.skip("set VIRNUCPRO_TEST_TOKENIZER to DNABERT-S's tokenizer.json")
    return path.read_text()


def random_esm2(layers=2, width=32, heads=2) -> ESM2:
    torch.manual_seed(1)
    return spread(ESM2(ESM2Config(layers, width, heads, 4 * width)).eval())


def random_esmc(layers=2, width=48, heads=3) -> ESMC:
    torch.manual_seed(3)
    return spread(ESMC(ESMCConfig(layers, width, heads, 96)).eval())


def random_dnabert(layers=2, width=48, heads=3, ffn=64, tokenizer=None) -> DNABERT:
    torch.manual_seed(2)
    return spread(DNABERT(DNABERTConfig(layers, width, heads, ffn, 256), tokenizer).eval())


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough for attention that isn't uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return randomised(model)


def dnabert_folder(model: DNABERT, folder: Path, tokenizer: str | None, prefix: str = "") -> Path:
    """The file format of the published DNABERT-S, as a pickle."""
    folder.mkdir()
    names = {"qkv": "attention.self.Wqkv", "out": "attention.output.dense", "gated": "mlp.gated_layers"}
    names |= {"attention_norm": "attention.output.LayerNorm", "down": "mlp.wo", "ffn_norm": "mlp.layernorm"}
    state = {}
    for key, value in model.state_dict().items():
        if key == "token_type":
            state["embeddings.token_type_embeddings.weight"] = torch.stack([value, value + 1])
        elif key.startswith("layers."):
            _, index, module, kind = key.split(".")
            state[f"encoder.layer.{index}.{names[module]}.{kind}"] = value
        else:
            module = {"embed_tokens": "word_embeddings", "embed_norm": "LayerNorm"}[key.split(".")[0]]
            state[f"embeddings.{module}.{key.split('.')[1]}"] = value
    state["pooler.dense.weight"] = torch.zeros(2, 2)
    torch.save({prefix + key: value for key, value in state.items()}, folder / "pytorch_model.bin")
    config = model.config
    settings = {
        "model_type": "bert",
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "vocab_size": config.vocabulary,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(settings))
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def split(flat: torch.Tensor, lengths) -> list[torch.Tensor]:
    return list(flat.split([int(n) for n in lengths]))


def forward(model, sequences, backend=None) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Hidden states, pooled vectors and token counts of one pack."""
    tokens, lengths = model.tokenize(sequences)
    pack = PackedBatch.build(lengths, tokens=tokens)
    with torch.inference_mode():
        hidden = model(pack.tokens, pack, backend)
        return hidden, model.pool(hidden, pack), lengths


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
