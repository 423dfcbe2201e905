"""Attention backends that need a GPU, as far as a CPU can tell: which can run, and what they are called with."""

import functools
import importlib.util
import sys
import types
from itertools import pairwise

import numpy as np
import pytest
import torch

from virnucpro.encoders import device
from virnucpro.encoders.attention import FlashAttention, Sdpa, alibi_slopes, choose_backend, unavailable_reason
from virnucpro.encoders.packing import PackedBatch
from virnucpro.errors import ConfigError

LENGTHS = [9, 9, 5, 1]


def stand_in(q, k, v, cu_q, cu_k, longest_q, longest_k, *, alibi_slopes=None):
    """What flash-attn computes, by the plain formula."""
    assert cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k) and longest_q == longest_k == 9
    outputs = []
    for start, end in pairwise(cu_q.tolist()):
        scores = torch.einsum("ihd,jhd->hij", q[start:end], k[start:end]) / q.shape[2] ** 0.5
        if alibi_slopes is not None:
            at = torch.arange(end - start)
            scores = scores - alibi_slopes[:, None, None] * (at[:, None] - at).abs()
        outputs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[start:end]))
    return torch.cat(outputs)


@pytest.mark.parametrize("alibi", [True, False])
def test_flash_attention(alibi, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_varlen_func=stand_in))
    torch.manual_seed(0)
    q, k, v = torch.randn(sum(LENGTHS), 3, 4, 16).unbind(1)
    pack = PackedBatch.build(np.array(LENGTHS))
    slopes = torch.tensor(alibi_slopes(4)) if alibi else None
    found = FlashAttention().prepare(pack, slopes=slopes)(q, k, v)
    assert torch.allclose(found, Sdpa().prepare(pack, slopes=slopes)(q, k, v), atol=1e-6)


def cuda(monkeypatch, capability=(9, 0)) -> torch.device:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla V100")
    monkeypatch.setattr(device, "_compiler_unavailable_reason", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else object())
    return torch.device("cuda")


missing: set[str] = set()


def test_what_can_run_on_a_gpu(monkeypatch):
    missing.clear()
    gpu = cuda(monkeypatch)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert choose_backend("auto", gpu, dtype, 64, alibi=True).name == "triton"
    assert choose_backend("flash-attn", gpu, torch.float16, 64, alibi=True).name == "flash-attn"
    for name, dtype, head_dim, alibi, why in (
        ("flash-attn", torch.float32, 64, False, "half precision only"),
        ("triton", torch.float16, 160, False, "at most 128, not 160"),
        ("triton", torch.float16, 15, True, "an even size of at most 128, not 15"),
    ):
        with pytest.raises(ConfigError, match=f"attention: '{name}' is not available: .*{why}"):
            choose_backend(name, gpu, dtype, head_dim, alibi)
    with pytest.raises(ConfigError, match="'varlen' is not one of auto, triton, flash-attn, sdpa"):
        choose_backend("varlen", gpu, torch.float16, 64, alibi=False)
    missing.update(("triton", "flash_attn"))
    assert choose_backend("auto", gpu, torch.float16, 64, alibi=True).name == "sdpa"
    assert "isn't installed" in str(unavailable_reason("flash-attn", gpu, torch.float16, 64, alibi=True))


def test_an_old_gpu_has_sdpa(monkeypatch):
    missing.clear()
    gpu = cuda(monkeypatch, (7, 0))
    assert choose_backend("auto", gpu, torch.float16, 64, alibi=False).name == "sdpa"
    with pytest.raises(ConfigError, match=r"Tesla V100 is older than compute capability 8\.0"):
        choose_backend("triton", gpu, torch.float16, 64, alibi=False)


def test_a_machine_where_triton_cannot_compile_has_sdpa(monkeypatch, caplog):
    pointwise = pytest.importorskip("virnucpro.encoders.kernels.pointwise", exc_type=ImportError)
    missing.clear()
    trial = functools.cache(device._compiler_unavailable_reason.__wrapped__)
    gpu = cuda(monkeypatch)
    monkeypatch.setattr(device, "_compiler_unavailable_reason", trial)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: torch.empty(shape))
    monkeypatch.setattr(torch, "tensor", lambda values, dtype, device: torch.empty(len(values), dtype=dtype))

    def no_compiler(*given):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(pointwise, "pool", no_compiler)
    for _ in range(2):
        assert choose_backend("auto", gpu, torch.float16, 64, alibi=False).name == "sdpa"
    assert caplog.text.count("Triton can't compile its kernels (Failed to find C compiler)") == 1
    with pytest.raises(ConfigError, match="it needs gcc or clang"):
        choose_backend("triton", gpu, torch.float16, 64, alibi=False)
