"""MobileNetV3-small by hand (Howard et al., ICCV 2019, table 2): depthwise convolutions, squeeze and excitation."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

# Kernel, expanded channels, output channels, squeeze and excitation, hard swish, stride.
BLOCKS = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip


def unit(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = None) -> Any:
    """Return convolution, normalisation and activation."""
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), *([] if act is None else [act()]))


class Squeeze(nn.Module):
    """Channels scaled by what two 1 x 1 convolutions make of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, (channels // 4 + 4) // 8 * 8)
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.pool, self.relu, self.scale = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Any) -> Any:
        return x * self.scale(self.fc2(self.relu(self.fc1(self.pool(x)))))


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inner: int, kernel: int, wide: int, outer: int, se: bool, swish: bool, stride: int) -> None:
        super().__init__()
        act = nn.Hardswish if swish else nn.ReLU
        parts = [] if wide == inner else [unit(inner, wide, 1, act=act)]
        parts.append(unit(wide, wide, kernel, stride, wide, act))
        self.body = nn.Sequential(*parts, *([Squeeze(wide)] if se else []), unit(wide, outer, 1))
        self.residual = stride == 1 and inner == outer

    def forward(self, x: Any) -> Any:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet(depth: int = 11, classes: int = 1000) -> Any:
    """Return the network with its first `depth` blocks."""
    torch.manual_seed(0)
    blocks, inner = [], 16
    for kernel, wide, outer, se, swish, stride in BLOCKS[:depth]:
        blocks.append(Block(inner, kernel, wide, outer, se, swish, stride))
        inner = outer
    return nn.Sequential(
        unit(3, 16, 3, 2, act=nn.Hardswish), *blocks, unit(inner, 576, 1, act=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, classes),
    )  # fmt: skip
