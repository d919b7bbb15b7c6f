"""Stable Diffusion as a program: denoising U-Net, its controller, and the encoder from images to latents.

Source: R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022, version 1.5; the
controller is a copy of encoder and middle whose outputs, behind 1 x 1 convolutions, are added to the skips (L. Zhang et
al., "Adding Conditional Control to Text-to-Image Diffusion Models", ICCV 2023). All weights are frozen. Widths, depths
and the number of parameters are those of the published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.images import group_norm, upsample
from nmsat.algorithms.workloads.engine.products import conv2d, linear, matmul
from nmsat.algorithms.workloads.engine.transformer import merge, norm, split, turn

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True, kw_only=True)
class NetSize:
    """A network of levels, each half as large as the one before.

    widths: channels of the levels; attended: levels with transformers; blocks: residual blocks per level on the way
    down, one more on the way up; groups: of the normalisation; heads, text: of the transformers (width of the words).
    """

    widths: tuple[int, ...]
    blocks: int
    groups: int
    channels: int
    attended: int = 0
    heads: int = 1
    text: int = 0


class Net:
    """Layers by name, frozen, their weights with or without N:M."""

    def __init__(self, p: Program, name: str, size: NetSize, pattern: Pattern | None) -> None:
        self.p, self.name, self.size, self.pattern = p, name, size, pattern

    def conv(self, name: str, x: Tensor, n: int, kernel: int = 3, stride: int = 1) -> Tensor:
        """Return a convolution with bias; padding half the kernel."""
        name = f"{self.name}.{name}"
        pattern = self.pattern if x.shape[-1] >= 16 and n >= 16 else None
        w = self.p.weight(name, (kernel**2 * x.shape[-1], n), gain=1.0, ff=pattern, bp=pattern, frozen=True)
        return ops.add(conv2d(name, x, w, kernel, stride), self.p.vector(f"{name}.bias", (n,), frozen=True))

    def dense(self, name: str, x: Tensor, n: int, *, bias: bool = True) -> Tensor:
        """Return a linear layer."""
        name = f"{self.name}.{name}"
        w = self.p.weight(name, (x.shape[-1], n), gain=1.0, ff=self.pattern, bp=self.pattern, frozen=True)
        return linear(name, x, w, self.p.vector(f"{name}.bias", (n,), frozen=True) if bias else None)

    def normed(self, name: str, x: Tensor) -> Tensor:
        """Return x normalised by groups, with gain and bias."""
        gain, bias = (
            self.p.vector(f"{self.name}.{name}.{part}", x.shape[-1:], float(part == "gain"), frozen=True)
            for part in ("gain", "bias")
        )
        return group_norm(x, gain, bias, self.size.groups)

    def residual(self, name: str, x: Tensor, n: int, time: Tensor | None) -> Tensor:
        """Return a residual block; time: embedding [B, width], if it takes one."""
        y = self.conv(f"{name}.a", ops.silu(self.normed(f"{name}.norm1", x)), n)
        if time is not None:
            y = ops.add(y, ops.reshape(self.dense(f"{name}.time", ops.silu(time), n), (x.shape[0], 1, 1, n)))
        y = self.conv(f"{name}.b", ops.silu(self.normed(f"{name}.norm2", y)), n)
        return ops.add(y, x if x.shape[-1] == n else self.conv(f"{name}.skip", x, n, 1))

    def transformer(self, name: str, x: Tensor, words: Tensor) -> Tensor:
        """Return x through self-attention, attention to the words[B, T, text] and a gated feed-forward layer."""
        batch, height, width, n = x.shape
        h = ops.reshape(self.conv(f"{name}.in", self.normed(f"{name}.norm", x), n, 1), (batch, height * width, n))
        for kind in ("self", "cross"):
            label = f"{name}.{kind}"
            y = norm(self.p, f"{self.name}.{label}", h, frozen=True)
            h = ops.add(h, self.attention(label, y, words if kind == "cross" else y))
        y = self.dense(f"{name}.up", norm(self.p, f"{self.name}.{name}.ff", h, frozen=True), 8 * n)
        y = ops.mul(ops.part(y, -1, 0, 4 * n), ops.gelu(ops.part(y, -1, 4 * n, 8 * n)))
        h = ops.add(h, self.dense(f"{name}.down", y, n))
        return ops.add(x, self.conv(f"{name}.out", ops.reshape(h, x.shape), n, 1))

    def attention(self, label: str, x: Tensor, source: Tensor) -> Tensor:
        """Return what the rows of x[B, N, n] take from those of `source`."""
        n, heads = x.shape[-1], self.size.heads
        q, k, v = (
            split(self.dense(f"{label}.{part}", s, n, bias=False), heads)
            for part, s in (("q", x), ("k", source), ("v", source))
        )
        scores = ops.softmax(ops.scale(matmul(f"{self.name}.{label}.scores", q, turn(k)), (n // heads) ** -0.5))
        return self.dense(f"{label}.o", merge(matmul(f"{self.name}.{label}.mix", scores, v)), n)


def timed(net: Net, step: Tensor) -> Tensor:
    """Return the embedding of a time step from its sines and cosines [B, widths[0]]."""
    width = 4 * net.size.widths[0]
    return net.dense("time.b", ops.silu(net.dense("time.a", step, width)), width)


def down(net: Net, x: Tensor, time: Tensor, words: Tensor, hint: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """Return the skips and the middle of latents x; time: embedding; hint: added behind the first convolution."""
    size = net.size
    h = net.conv("in", x, size.widths[0])
    h = h if hint is None else ops.add(h, hint)
    skips = [h]
    for level, width in enumerate(size.widths):
        for block in range(size.blocks):
            h = net.residual(f"d{level}.{block}", h, width, time)
            h = net.transformer(f"d{level}.{block}.t", h, words) if level < size.attended else h
            skips.append(h)
        if level + 1 < len(size.widths):
            h = net.conv(f"d{level}.down", h, width, 3, 2)
            skips.append(h)
    h = net.residual("mid.0", h, size.widths[-1], time)
    h = net.residual("mid.1", net.transformer("mid.t", h, words), size.widths[-1], time)
    return skips, h


def control(net: Net, x: Tensor, step: Tensor, words: Tensor, hint: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return what the controller adds to skips and middle."""
    skips, middle = down(net, x, timed(net, step), words, hint)
    found = [net.conv(f"zero{i}", h, h.shape[-1], 1) for i, h in enumerate(skips)]
    return found, net.conv("zero.mid", middle, middle.shape[-1], 1)


def predicted_noise(
    net: Net, x: Tensor, step: Tensor, words: Tensor, added: tuple[list[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the noise in latents x[B, H, W, channels]; added: by a controller."""
    size = net.size
    time = timed(net, step)
    skips, h = down(net, x, time, words)
    if added is not None:
        skips = [ops.add(s, a) for s, a in zip(skips, added[0], strict=True)]
        h = ops.add(h, added[1])
    for level in reversed(range(len(size.widths))):
        width = size.widths[level]
        for block in range(size.blocks + 1):
            h = net.residual(f"u{level}.{block}", ops.concat([h, skips.pop()], -1), width, time)
            h = net.transformer(f"u{level}.{block}.t", h, words) if level < size.attended else h
        if level:
            h = net.conv(f"u{level}.up", upsample(h, 2), width)
    return net.conv("out", ops.silu(net.normed("out.norm", h)), size.channels)


def latents(net: Net, image: Tensor) -> Tensor:
    """Return the mean latents [B, H / 2^(levels - 1), W / 2^(levels - 1), channels] of an image."""
    size = net.size
    h = net.conv("in", image, size.widths[0])
    for level, width in enumerate(size.widths):
        for block in range(size.blocks):
            h = net.residual(f"d{level}.{block}", h, width, None)
        if level + 1 < len(size.widths):
            h = net.conv(f"d{level}.down", h, width, 3, 2)
    h = net.residual("mid.0", h, size.widths[-1], None)
    h = ops.add(h, _places(net, h))
    h = net.residual("mid.1", h, size.widths[-1], None)
    h = net.conv("out", ops.silu(net.normed("out.norm", h)), 2 * size.channels)
    return ops.part(net.conv("quant", h, 2 * size.channels, 1), -1, 0, size.channels)


def _places(net: Net, x: Tensor) -> Tensor:
    """Return the attention of one head between all places of x[B, H, W, n]."""
    batch, height, width, n = x.shape
    h = ops.reshape(net.normed("mid.t.norm", x), (batch, height * width, n))
    q, k, v = (net.dense(f"mid.t.{part}", h, n) for part in "qkv")
    scores = ops.softmax(ops.scale(matmul(f"{net.name}.mid.t.scores", q, turn(k)), n**-0.5))
    mixed = net.dense("mid.t.o", matmul(f"{net.name}.mid.t.mix", scores, v), n)
    return ops.reshape(mixed, x.shape)
