"""Layers of a detector by name: convolutions with batch normalisation, a residual pyramid, linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.images import upsample
from nmsat.algorithms.workloads.engine.products import conv2d, linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True)
class Branch:
    """Makes layers whose names begin with `name`; frozen: nothing of it learns."""

    p: Program
    name: str
    pattern: Pattern | None = None
    frozen: bool = False

    def weight(self, name: str, shape: tuple[int, ...]) -> Parameter:
        """Return the matrix of a layer; N:M where both sides hold 16 or more."""
        pattern = self.pattern if min(shape[-2:]) >= 16 else None
        return self.p.weight(f"{self.name}.{name}", shape, ff=pattern, bp=pattern, frozen=self.frozen)

    def vector(self, name: str, width: int, fill: float = 0.0) -> Tensor:
        """Return a bias or gain."""
        return self.p.vector(f"{self.name}.{name}", (width,), fill, frozen=self.frozen)

    def dense(self, name: str, x: Tensor, n: int, fill: float = 0.0) -> Tensor:
        """Return a linear layer with bias; fill: what the bias begins with."""
        w = self.weight(name, (x.shape[-1], n))
        return linear(w.name, x, w, self.vector(f"{name}.bias", n, fill))

    def conv(self, name: str, x: Tensor, n: int, kernel: int = 3, stride: int = 1) -> Tensor:
        """Return a convolution without bias."""
        w = self.weight(name, (kernel**2 * x.shape[-1], n))
        return conv2d(w.name, x, w, kernel, stride)

    def normed(self, name: str, x: Tensor) -> Tensor:
        """Return x behind batch normalisation."""
        width = x.shape[-1]
        return ops.batch_norm(x, self.vector(f"{name}.gain", width, 1.0), self.vector(f"{name}.shift", width))

    def unit(self, name: str, x: Tensor, n: int, kernel: int = 3, stride: int = 1) -> Tensor:
        """Return convolution, batch normalisation, ReLU."""
        return ops.relu(self.normed(name, self.conv(name, x, n, kernel, stride)))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        """Return layer normalisation over the last axis."""
        width = x.shape[-1]
        return ops.layer_norm(x, self.vector(f"{name}.gain", width, 1.0), self.vector(f"{name}.shift", width))

    def hidden(self, name: str, x: Tensor, n: int, out: int, fill: float = 0.0) -> Tensor:
        """Return two linear layers with ReLU between them; fill: what the last bias begins with."""
        return self.dense(f"{name}.b", ops.relu(self.dense(f"{name}.a", x, n)), out, fill)


def residual_levels(net: Branch, x: Tensor, widths: Sequence[int], blocks: Sequence[int], stem: int) -> list[Tensor]:
    """Return the results of the stages of a residual network of bottlenecks (4 x width), or with stem = 3 of a small
    one of plain blocks.

    stem: kernel of the first convolution; 7 is followed by a maximum over 3 x 3, both with stride 2.
    """
    wide = stem == 7
    h = net.unit("stem", x, widths[0], stem, 2)
    h = ops.max_pool(h, 3, 2, 1) if wide else h
    found = []
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            name, stride = f"s{stage}.{block}", 2 if stage and not block else 1
            out = 4 * width if wide else width
            if wide:
                y = net.unit(f"{name}.b", net.unit(f"{name}.a", h, width, 1), width, 3, stride)
                y = net.normed(f"{name}.c", net.conv(f"{name}.c", y, out, 1))
            else:
                y = net.unit(f"{name}.a", h, width, 3, stride)
                y = net.normed(f"{name}.b", net.conv(f"{name}.b", y, out))
            if h.shape[-1] != out or stride != 1:
                h = net.normed(f"{name}.skip", net.conv(f"{name}.skip", h, out, 1, stride))
            h = ops.relu(ops.add(h, y))
        found.append(h)
    return found


def pyramid(net: Branch, levels: Sequence[Tensor], width: int) -> list[Tensor]:
    """Return the levels of a feature pyramid: 1 x 1, what is above doubled and added, 3 x 3."""
    above = None
    found = []
    for index in reversed(range(len(levels))):
        h = net.conv(f"lateral{index}", levels[index], width, 1)
        h = h if above is None else ops.add(h, upsample(above, 2))
        above = h
        found.append(net.conv(f"level{index}", h, width))
    return found[::-1]
