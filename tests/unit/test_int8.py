"""ESM-2's products in int8, as PyTorch computes them on a CPU: their error, what it is measured on, what is refused."""

import copy

import numpy as np
import pytest
import torch

from tests.unit.encoder_fixtures import forward, proteins, random_esm2, relative
from virnucpro.encoders import int8
from virnucpro.encoders.accuracy import relative_l2_rest
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from virnucpro.encoders.precision import PRECISIONS
from virnucpro.errors import ConfigError

LENGTHS = [1, 2, 3, 17, 64, 166, 166, 166, 300, 1021, 1022, 1024, 1025, 1100, 166, 17]


def test_rotation_is_a_symmetric_orthonormal_matrix_of_one_size():
    matrix = int8.rotate(torch.eye(256))
    assert torch.equal(matrix.abs(), torch.full((256, 256), 1 / 16))
    assert torch.allclose(matrix @ matrix.t(), torch.eye(256), atol=1e-6)
    x = torch.randn(3, 512)
    assert torch.allclose(int8.rotate(x)[:, :256], x[:, :256] @ matrix, atol=1e-5)


def error_of(model: ESM2) -> float:
    """Of a model's pooled vectors, once its layers are in int8."""
    texts = proteins([166] * 12, seed=5)
    exact = forward(model, texts)[1]
    int8.round_layers(model)
    errors = relative_l2_rest(forward(model, texts)[1].numpy(), exact.numpy())
    return float(np.sqrt(np.mean(errors**2)))


@pytest.mark.parametrize("channels", ["ordinary", "outliers"])
def test_error(channels, monkeypatch):
    """Within the gate of a job, also if a channel is 20 times as large as the others, which without rotation is too much."""
    monkeypatch.setattr(int8, "CALIBRATION_SHAPE", (12, 166))
    torch.manual_seed(0)
    model = ESM2(ESM2Config(3, 256, 4, 512)).eval()
    if channels == "outliers":
        with torch.no_grad():
            for layer in model.layers:
                for norm, linear in ((layer.attention_norm, layer.qkv), (layer.ffn_norm, layer.fc1)):
                    large = torch.randperm(256)[:1]
                    norm.weight[large] *= 20
                    linear.weight[:, large] /= 20
    found = error_of(copy.deepcopy(model))
    monkeypatch.setattr(int8, "rotates", lambda width: False)
    plain = error_of(model)
    gate = PRECISIONS["int8"].job_gate
    assert 1e-4 < found < 0.9 * gate
    assert plain < gate if channels == "ordinary" else plain > 1.2 * gate


def test_widths_that_have_no_such_products_are_refused(monkeypatch):
    monkeypatch.setattr(int8, "Kernels", lambda: pytest.fail("refused before anything is computed"))
    with pytest.raises(
        ConfigError, match=r"int8 needs .* multiples of 32; this model's width is 48\. Use 'fp16' or 'auto'"
    ):
        int8.convert(random_esm2(width=48), ["a"], [b"MKV"])


def test_what_int8_is_measured_on_goes_in_packs(monkeypatch):
    model, sequences = random_esm2(), proteins(LENGTHS)
    totals = []
    forward_batch = model.forward

    def watched(tokens, batch, backend=None):
        totals.append(batch.total)
        return forward_batch(tokens, batch, backend)

    monkeypatch.setattr(model, "forward", watched)
    monkeypatch.setattr(int8, "GATE_TOKENS", 400)
    found = int8._vectors(model, [str(i) for i in range(len(sequences))], sequences)
    assert len(totals) > 1 and sum(totals) == sum(LENGTHS) + 2 * len(LENGTHS)
    assert max(totals) <= max(400, max(LENGTHS) + 2)
    assert relative(torch.from_numpy(found), forward(model, sequences)[1]) < 1e-5
    assert int8._vectors(model, [], []).shape == (0, 32)
