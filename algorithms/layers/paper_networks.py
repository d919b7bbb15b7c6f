"""The paper's five networks at their own size, in colour: ResNet9, ViT-S/4, VGG19, ResNet18, ResNet50.

Layers, sizes and names are those of `dataflow.network.models`, which schedules these networks; the tests compare both.
What of them is known and what is a guess stands there. The first layer and the classifier stay dense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.layers.attention import Attention, Positions
from nmsat.algorithms.layers.base import Layer, Residual, Sequential
from nmsat.algorithms.layers.norm import BatchNorm, LayerNorm
from nmsat.algorithms.layers.parameter import Parameter
from nmsat.algorithms.layers.pointwise import Gelu, ReLU
from nmsat.algorithms.layers.pooling import Flatten, GlobalAveragePool, GlobalMaxPool, MaxPool2d, OverlappingMaxPool
from nmsat.algorithms.layers.products import Conv2d, Linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.layers.base import Context
    from nmsat.algorithms.layers.sample import Sample

LOGIT_SCALE: Final = 0.2
"""ResNet9 multiplies its logits by this (SDGP's code)."""

VGG19_CHANNELS: Final = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)
"""Output channels of VGG19's convolutions; 0 is a 2 x 2 max pooling."""

VIT_PATCH, VIT_WIDTH, VIT_DEPTH, VIT_HEADS = 4, 384, 12, 6


class Scale(Layer):
    """x times a constant, on the host, rounded once."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        ctx.host("scale", "Mul", Stage.FF, x, 1)
        return ctx.arithmetic.from_host(x.astype(ctx.arithmetic.host) * self.factor)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        return ctx.arithmetic.from_host(dy.astype(ctx.arithmetic.host) * self.factor)


class Tokens(Layer):
    """[B, H, W, features] to [B, 1 + H * W, features]: a learned class token, then the places row by row."""

    def __init__(self, name: str, features: int, rng: np.random.Generator) -> None:
        self.token = Parameter(f"{name}.token", (rng.standard_normal(features) * 0.1).astype(np.float32), decay=False)
        self._shape: tuple[int, ...] = ()

    def parameters(self) -> list[Parameter]:
        return [self.token]

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        self._shape = x.shape
        first = np.broadcast_to(self.token.copy.astype(x.dtype), (x.shape[0], 1, x.shape[3]))
        return np.concatenate([first, x.reshape(x.shape[0], -1, x.shape[3])], axis=1)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        self.token.grad = ctx.arithmetic.from_host(dy[:, 0].sum(axis=0, dtype=np.float64))
        return np.ascontiguousarray(dy[:, 1:]).reshape(self._shape)


class FirstToken(Layer):
    """[B, T, features] to [B, features]: the class token."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        self._shape = x.shape
        return np.ascontiguousarray(x[:, 0])

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        del ctx
        dx = np.zeros(self._shape, dy.dtype)
        dx[:, 0] = dy
        return dx


def resnet9(rng: np.random.Generator, sample: Sample, *, sparse_ends: bool = False) -> Layer:
    """Return the nine-layer residual network of SDGP's code, for images of 32 x 32."""

    def block(name: str, size: tuple[int, int], kernel: int = 3, stride: int = 1, padding: int = 1) -> list[Layer]:
        ends = {"sparse": sparse_ends, "first": True} if name == "stem" else {}
        conv = Conv2d(f"{name}.conv", *size, kernel, rng, stride=stride, padding=padding, **ends)
        return [conv, BatchNorm(f"{name}.bn", size[1]), ReLU()]

    def residual(name: str, channels: int) -> Layer:
        parts = [*block(f"{name}.0", (channels, channels)), *block(f"{name}.1", (channels, channels))]
        return Residual(Sequential(parts))

    return Sequential(
        [
            *block("stem", (sample.check_image(12), 128)),
            *block("down", (128, 256), kernel=5, stride=2, padding=2),
            residual("res1", 256),
            *block("wide", (256, 512)),
            MaxPool2d(2),
            residual("res2", 512),
            *block("narrow", (512, 256), padding=0),
            GlobalMaxPool(),
            Linear("fc", 256, sample.classes, rng, bias=False, sparse=sparse_ends, gain=1.0),
            Scale(LOGIT_SCALE),
        ]
    )


def vgg19(rng: np.random.Generator, sample: Sample, *, sparse_ends: bool = False) -> Layer:
    """Return VGG19 with batch normalisation for images of 32 x 32, one linear layer as classifier."""
    parts: list[Layer] = []
    before, index, side = sample.check_image(32), 0, sample.check_square(32)
    for channels in VGG19_CHANNELS:
        if not channels:
            parts.append(MaxPool2d(2))
            index, side = index + 1, side // 2
            continue
        ends = {"sparse": sparse_ends, "first": True} if index == 0 else {}
        conv = Conv2d(f"features.{index}", before, channels, 3, rng, padding=1, bias=True, **ends)
        parts += [conv, BatchNorm(f"features.{index + 1}", channels), ReLU()]
        before, index = channels, index + 3
    classifier = Linear("classifier", before * side * side, sample.classes, rng, sparse=sparse_ends, gain=1.0)
    return Sequential([*parts, Flatten(), classifier])


def vit(rng: np.random.Generator, sample: Sample, *, sparse_ends: bool = False) -> Layer:
    """Return ViT-S/4: patches of 4 x 4, a class token, 12 blocks of 384 features and six heads."""
    channels, places = sample.check_image(VIT_PATCH), (sample.check_square(VIT_PATCH) // VIT_PATCH) ** 2 + 1
    embed = {"stride": VIT_PATCH, "bias": True, "sparse": sparse_ends, "first": True}
    return Sequential(
        [
            Conv2d("patch_embed", channels, VIT_WIDTH, VIT_PATCH, rng, **embed),
            Tokens("class", VIT_WIDTH, rng),
            Positions("position", places, VIT_WIDTH, rng),
            *(part for block in range(VIT_DEPTH) for part in _vit_block(f"blocks.{block}", rng)),
            LayerNorm("norm", VIT_WIDTH),
            FirstToken(),
            Linear("head", VIT_WIDTH, sample.classes, rng, sparse=sparse_ends, gain=1.0),
        ]
    )


def _vit_block(name: str, rng: np.random.Generator) -> list[Layer]:
    attention = Attention(f"{name}.attn", VIT_WIDTH, VIT_HEADS, rng, out="proj")
    feed = [
        LayerNorm(f"{name}.norm2", VIT_WIDTH),
        Linear(f"{name}.mlp.fc1", VIT_WIDTH, 4 * VIT_WIDTH, rng),
        Gelu(),
        Linear(f"{name}.mlp.fc2", 4 * VIT_WIDTH, VIT_WIDTH, rng, gain=1.0),
    ]
    return [Residual(Sequential([LayerNorm(f"{name}.norm1", VIT_WIDTH), attention])), Residual(Sequential(feed))]


def resnet18(rng: np.random.Generator, sample: Sample, *, sparse_ends: bool = False) -> Layer:
    """Return ResNet18 with a 3 x 3 stem, for images of 64 x 64."""
    stem = _conv("conv1", "bn1", (sample.check_image(8), 64), rng, sparse=sparse_ends, first=True)
    parts: list[Layer] = [*stem, ReLU()]
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            name = f"layer{stage}.{block}"
            first = _conv(f"{name}.conv1", f"{name}.bn1", (before, channels), rng, stride=stride)
            body = [*first, ReLU(), *_conv(f"{name}.conv2", f"{name}.bn2", (channels, channels), rng)]
            parts += [Residual(Sequential(body), _shortcut(name, (before, channels), stride, rng)), ReLU()]
            before = channels
    return _with_classifier(parts, before, rng, sample, sparse_ends=sparse_ends)


def resnet50(rng: np.random.Generator, sample: Sample, *, sparse_ends: bool = False) -> Layer:
    """Return ResNet50, the stride of a block in its 3 x 3 convolution, for images of 224 x 224."""
    channels_in = sample.check_image(32)
    stem = _conv("conv1", "bn1", (channels_in, 64), rng, kernel=7, stride=2, sparse=sparse_ends, first=True)
    parts: list[Layer] = [*stem, ReLU(), OverlappingMaxPool()]
    before = 64
    for stage, (inner, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            name, after = f"layer{stage}.{block}", 4 * inner
            body = [
                *_conv(f"{name}.conv1", f"{name}.bn1", (before, inner), rng, kernel=1),
                ReLU(),
                *_conv(f"{name}.conv2", f"{name}.bn2", (inner, inner), rng, stride=stride),
                ReLU(),
                *_conv(f"{name}.conv3", f"{name}.bn3", (inner, after), rng, kernel=1),
            ]
            parts += [Residual(Sequential(body), _shortcut(name, (before, after), stride, rng)), ReLU()]
            before = after
    return _with_classifier(parts, before, rng, sample, sparse_ends=sparse_ends)


def _conv(
    name: str,
    norm: str,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    kernel: int = 3,
    stride: int = 1,
    sparse: bool = True,
    first: bool = False,
) -> list[Layer]:
    conv = Conv2d(name, *size, kernel, rng, stride=stride, padding=kernel // 2, sparse=sparse, first=first)
    return [conv, BatchNorm(norm, size[1])]


def _shortcut(name: str, size: tuple[int, int], stride: int, rng: np.random.Generator) -> Layer | None:
    if size[0] == size[1] and stride == 1:
        return None
    return Sequential(_conv(f"{name}.downsample.0", f"{name}.downsample.1", size, rng, kernel=1, stride=stride))


def _with_classifier(
    parts: list[Layer], features: int, rng: np.random.Generator, sample: Sample, *, sparse_ends: bool
) -> Layer:
    classifier = Linear("fc", features, sample.classes, rng, sparse=sparse_ends, gain=1.0)
    return Sequential([*parts, GlobalAveragePool(), classifier])


PAPER_BUILDERS: Final[dict[str, Callable[..., Layer]]] = {
    "resnet9": resnet9,
    "vit": vit,
    "vgg19": vgg19,
    "resnet18": resnet18,
    "resnet50": resnet50,
}
"""Builder of each of `algorithms.core.vocabulary.PAPER_NETWORKS`."""
