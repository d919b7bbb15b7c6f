"""The two networks of M3LEO: a U-Net and a masked autoencoder.

U-Net    at each level two 3 x 3 convolutions, borders reflected, batch norm, ReLU; halved by maximum pooling, doubled
         by bilinear up-sampling, joined with the level's own; 1 x 1 to the outputs
MAE      (He et al., CVPR 2022) patches embedded, a random quarter kept and read by an encoder, all places read by a
         decoder with one learnt token where nothing was kept; error of the pixels of the patches left out
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.images import reflect_pad, upsample
from nmsat.algorithms.workloads.engine.networks import normalised
from nmsat.algorithms.workloads.engine.products import conv2d, linear, matmul
from nmsat.algorithms.workloads.engine.transformer import merge, norm, split, turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True, kw_only=True)
class UNetSize:
    """widths: channels of the levels, from the largest image to the smallest; outputs: of the last layer."""

    batch: int
    side: int
    channels: int
    widths: tuple[int, ...]
    outputs: int


@dataclass(frozen=True, kw_only=True)
class MaeSize:
    """An autoencoder of images side x side x channels in patches of patch x patch.

    kept: share of the patches that the encoder reads; decoder, decoder_heads: width and heads of the decoder's layer.
    """

    batch: int
    side: int
    channels: int
    patch: int
    kept: float
    layers: int
    width: int
    heads: int
    hidden: int
    decoder: int
    decoder_heads: int

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def read(self) -> int:
        """Patches that the encoder reads."""
        return round(self.kept * self.patches)

    @property
    def pixels(self) -> int:
        """Values of a patch."""
        return self.patch**2 * self.channels


def unet(p: Program, name: str, size: UNetSize, x: Tensor, pattern: Pattern | None) -> Tensor:
    """Return the outputs [batch, side, side, outputs] of x[batch, side, side, channels]."""

    def double(at: str, h: Tensor, width: int) -> Tensor:
        for label in "ab":
            where = f"{name}.{at}.{label}"
            w = p.weight(where, (9 * h.shape[-1], width), ff=pattern, bp=pattern)
            h = ops.relu(normalised(p, where, conv2d(where, reflect_pad(h, 1), w, 3, padding=0)))
        return h

    levels = []
    for index, width in enumerate(size.widths):
        x = double(f"down{index}", x if not index else ops.max_pool(x, 2, 2), width)
        levels.append(x)
    for index in range(len(size.widths) - 2, -1, -1):
        x = ops.concat([levels[index], upsample(x, 2, bilinear=True)], 3)
        x = double(f"up{index}", x, size.widths[index])
    w = p.weight(f"{name}.out", (size.widths[0], size.outputs))
    return linear(f"{name}.out", x, w, p.vector(f"{name}.out.bias", (size.outputs,)))


def patches(images: NDArray, patch: int) -> NDArray:
    """Cut images[B, side, side, C] into patches[B, n, patch * patch * C], row by row."""
    batch, side, _, channels = images.shape
    n = side // patch
    cut = images.reshape(batch, n, patch, n, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(batch, n * n, patch * patch * channels)


def choose(rng: np.random.Generator, size: MaeSize) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the patches that are kept and those that are not, each [batch, ...] in ascending order."""
    order = np.stack([rng.permutation(size.patches) for _ in range(size.batch)])
    return np.sort(order[:, : size.read]), np.sort(order[:, size.read :])


def encode(p: Program, size: MaeSize, cut: Tensor, kept: NDArray[np.integer] | None, pattern: Pattern | None) -> Tensor:
    """Return the encoder's tokens [batch, 1 + read, width], the class token first; cut: [batch, patches, pixels]."""
    batch, count, read = size.batch, size.patches, size.read
    w = p.weight("mae.embed", (size.pixels, size.width), gain=1.0, ff=pattern, bp=pattern)
    h = linear("mae.embed", cut, w, p.vector("mae.embed.bias", (size.width,)))
    h = ops.add(h, p.input((1, count, size.width), lambda: places(count, size.width)[None]))
    index = None if kept is None else (kept + np.arange(batch)[:, None] * count).reshape(-1)
    h = ops.gather(ops.reshape(h, (batch * count, size.width)), index, batch * read)
    first = ops.expand(ops.reshape(p.vector("mae.class", (1, size.width)), (1, 1, size.width)), (batch, 1, size.width))
    h = ops.concat([first, ops.reshape(h, (batch, read, size.width))], 1)
    for layer in range(size.layers):
        h = block(p, f"mae.l{layer}", h, size.heads, size.hidden, pattern, batch * (1 + count))
    return norm(p, "mae.norm", h)


def restore(p: Program, size: MaeSize, h: Tensor, kept: NDArray[np.integer] | None, pattern: Pattern | None) -> Tensor:
    """Return the pixels [batch, 1 + patches, pixels] that the decoder says of all places, the class token's first."""
    batch, count, width = size.batch, size.patches, size.decoder
    w = p.weight("mae.narrow", (size.width, width), gain=1.0, ff=pattern, bp=pattern)
    h = ops.reshape(linear("mae.narrow", h, w, p.vector("mae.narrow.bias", (width,))), (batch * (1 + size.read), width))
    rows = batch * (1 + count)
    index = missing = None
    if kept is not None:
        with_class = np.concatenate([np.zeros((batch, 1), np.int64), kept + 1], axis=1)
        index = (with_class + np.arange(batch)[:, None] * (1 + count)).reshape(-1)
        missing = np.ones((rows, 1))
        missing[index] = 0
    token = ops.mul(p.input((rows, 1), missing), p.vector("mae.token", (1, width), 0.02))
    h = ops.reshape(ops.add(ops.scatter_add(h, index, rows), token), (batch, 1 + count, width))
    h = ops.add(h, p.input((1, 1 + count, width), lambda: places(1 + count, width)[None]))
    h = norm(p, "mae.norm2", block(p, "mae.decoder", h, size.decoder_heads, 4 * width, pattern, rows))
    w = p.weight("mae.pixels", (width, size.pixels), gain=1.0, ff=pattern, bp=pattern)
    return linear("mae.pixels", h, w, p.vector("mae.pixels.bias", (size.pixels,)))


def error(size: MaeSize, found: Tensor, cut: Tensor, lost: NDArray[np.integer] | None) -> Tensor:
    """Return the mean squared error of the patches left out; lost: their numbers, [batch, patches - read]."""
    batch, count, rest = size.batch, size.patches, size.batch * (size.patches - size.read)
    row = np.arange(batch)[:, None]
    at = None if lost is None else (lost + 1 + row * (1 + count)).reshape(-1)
    source = None if lost is None else (lost + row * count).reshape(-1)
    said = ops.gather(ops.reshape(found, (batch * (1 + count), size.pixels)), at, rest)
    return ops.squared_error(said, ops.gather(ops.reshape(cut, (batch * count, size.pixels)), source, rest))


def block(p: Program, name: str, x: Tensor, heads: int, hidden: int, pattern: Pattern | None, rows: int) -> Tensor:
    """Return a pre-norm layer of a vision transformer; rows: tokens of the batch before some were left out."""
    width = x.shape[-1]

    def layer(label: str, value: Tensor, n: int) -> Tensor:
        k = value.shape[-1]
        w = p.weight(f"{name}.{label}", (k, n), gain=1.0, ff=pattern, bp=pattern)
        gathered = Gathered("rows", (rows, k, n)) if value.size // k < rows else None
        return linear(f"{name}.{label}", value, w, p.vector(f"{name}.{label}.bias", (n,)), gathered=gathered)

    both = layer("qkv", norm(p, f"{name}.norm1", x), 3 * width)
    q, k, v = (split(ops.part(both, 2, i * width, (i + 1) * width), heads) for i in range(3))
    scores = ops.scale(matmul(f"{name}.qk", q, turn(k)), (width // heads) ** -0.5)
    x = ops.add(x, layer("o", merge(matmul(f"{name}.av", ops.softmax(scores), v)), width))
    return ops.add(x, layer("down", ops.gelu(layer("up", norm(p, f"{name}.norm2", x), hidden)), width))


def places(count: int, width: int) -> NDArray[np.float64]:
    """Return sines and cosines of the numbers of the places, [count, width]."""
    angle = np.arange(count)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, :width]
