"""Patterns of single layers, and MVUE in binary16. Left out where PyTorch is not installed: it is an optional extra."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import pytest

from nmsat.algorithms.methods import gradients as reference

torch = pytest.importorskip("torch")

from nmsat.algorithms.pytorch import nm_layers, sparsify  # noqa: E402 # after importorskip
from nmsat.algorithms.pytorch.selection import mvue, mvue_scale, nm_mask  # noqa: E402


def small():  # a PyTorch module, whose type the checker does not know
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 64, 10),
    )


def test_equal_large_gradients_of_binary16_stay_finite() -> None:
    for value, want in ((30_000.0, 0.5), (60_000.0, 0.25), (16_000.0, 1.0)):
        dy = torch.full((8, 3), value, dtype=torch.float16)
        scale = mvue_scale(dy, 2, 8)
        assert scale is not None
        assert float(scale) == want == 2.0 ** -reference.mvue_shift(dy.numpy(), 2, 8)
        found = mvue(dy, 2, 8, scale=scale)
        assert found.isfinite().all()
        assert torch.equal((found.double() / scale).sum(dim=0), torch.full((3,), 8 * value, dtype=torch.float64))
    assert mvue_scale(dy.float(), 2, 8) is None


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_a_step_in_binary16_does_not_lose_large_gradients(layer: str) -> None:
    convolution = layer == "convolution"
    module = torch.nn.Conv2d(1, 16, 1, bias=False) if convolution else torch.nn.Linear(1, 16, bias=False)
    model = sparsify(torch.nn.Sequential(module.half()), "mvue", dense=[], show=False)
    x = torch.full((8, 1, 1, 1) if convolution else (8, 1), 2.0**-6, dtype=torch.float16)
    y = model(x)
    y.backward(torch.full_like(y, 30_000.0))
    grad = module.weight.grad
    assert grad is not None
    assert grad.flatten().tolist() == [8 * 30_000 / 64] * 16


def test_layers_have_patterns_of_their_own() -> None:
    model = sparsify(small(), "bdwp", patterns="2@2:4~2:16", show=False)
    layer = nm_layers(model)["2"]
    slot = layer.nm["weight"]
    weight = slot.dense(layer).detach()
    ff, bp = slot.masks(layer, slot.dense(layer))
    assert torch.equal(ff, nm_mask(weight.permute(0, 2, 3, 1), 2, 4, 3).permute(0, 3, 1, 2))
    assert torch.equal(bp, nm_mask(weight, 2, 16, 0))
    same = sparsify(small(), "bdwp", patterns="rest@2:8", show=False)
    plain = sparsify(small(), "bdwp", show=False)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(same(x), plain(x))
    assert {name: layer.nm["weight"].rule.dense for name, layer in nm_layers(same).items()} == {
        name: layer.nm["weight"].rule.dense for name, layer in nm_layers(plain).items()
    }
    dense = sparsify(small(), "bdwp", patterns="rest@dense", show=False)
    assert all(layer.nm["weight"].rule.dense for layer in nm_layers(dense).values())
    for patterns, method, words in (
        ("9@2:4", "bdwp", "patterns names layer '9'"),
        ("2@2:4", "sdgp", "cannot have patterns of single layers"),
        ("2", "bdwp", "has the part '2'"),
    ):
        with pytest.raises(ValueError, match=words):
            sparsify(small(), method, patterns=patterns, show=False)
