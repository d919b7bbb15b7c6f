"""Small PyTorch models and helpers of the PyTorch tests."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core.nm import mask

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small products; threads of many workers wait for each other

if TYPE_CHECKING:
    from collections.abc import Callable


def mlp(width: int = 32) -> Any:
    """Return three linear layers."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
        torch.nn.Linear(width, 8),
    )  # fmt: skip


def kept(weight: Any, n: int = 2, m: int = 8) -> Any:
    """Return the forward mask of a linear weight [out, in] by the NumPy reference."""
    return mask(weight.detach().float().numpy(), n, m, axis=1)


def kept_backward(weight: Any, n: int = 2, m: int = 8) -> Any:
    """Return the backward mask of a linear weight [out, in] by the NumPy reference."""
    return mask(weight.detach().float().numpy(), n, m, axis=0)


def forward_mask(layer: Any) -> Any:
    """Return what the layer's own forward pass keeps, seen by its outputs alone."""
    width = layer.in_features
    with torch.no_grad():
        columns = layer(torch.eye(width)) - (0 if layer.bias is None else layer.bias)
    return columns.t().numpy() != 0


def train(model: Any, optimizer: Any, steps: int = 1, size: int = 16, micro: int = 1) -> None:
    """Run a few updates on random data, each of `micro` backward passes on the same samples."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        x = torch.randn(4, size, generator=generator)
        for _ in range(micro):
            (model(x).square().mean() / micro).backward()
        optimizer.step()


def same(left: Any, right: Any) -> bool:
    """Compare two modules' parameters to the bit."""
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def step_of(model: Any, x: Any) -> Callable[[], None]:
    """Return forward and backward of a model as a function."""
    return lambda: model(x).square().sum().backward()


def exact_gradients(layer: Any, x: Any, dy: Any, weight: Any, ff: Any, bp: Any) -> tuple[Any, Any, Any]:
    """Return y, dx and dw of a linear map by hand: y with ff, dx with bp, dw dense."""
    w = weight.detach()
    y = x @ torch.where(torch.from_numpy(ff), w, 0).t() + (0 if layer.bias is None else layer.bias.detach())
    dx = dy @ torch.where(torch.from_numpy(bp), w, 0)
    return y, dx, dy.flatten(0, -2).t() @ x.flatten(0, -2)


def close(left: Any, right: Any, tolerance: float = 1e-5) -> bool:
    """Compare two tensors."""
    return np.allclose(left.detach().numpy(), right.detach().numpy(), atol=tolerance, rtol=tolerance)
