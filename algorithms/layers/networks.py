"""The networks that the runs train, in the spirit of the paper's five at sizes that train on a small machine.

The first layer and the classifier stay dense unless `sparse_ends`. Channels are multiples of 16: all groups fill. The
paper's five at their own size are in `layers.paper_networks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS, trained_network
from nmsat.algorithms.layers.attention import Attention, Embedding, Positions
from nmsat.algorithms.layers.base import Layer, Residual, Sequential
from nmsat.algorithms.layers.norm import BatchNorm, LayerNorm
from nmsat.algorithms.layers.paper_networks import PAPER_BUILDERS
from nmsat.algorithms.layers.pointwise import Gelu, ReLU
from nmsat.algorithms.layers.pooling import Flatten, GlobalAveragePool, MaxPool2d
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.layers.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.algorithms.layers.base import Context

PLACES: Final = 64
"""Characters per sample of the text, which the transformer reads."""

DIGITS: Final = Sample((8, 8, 1), 10)
"""What the networks of images read unless something else is said: the handwritten digits."""

TEXT: Final = Sample((PLACES,), 97)

TEACHER: Final = Sample((64,), 4)


def digits_cnn(rng: np.random.Generator, sample: Sample = DIGITS, *, sparse_ends: bool = False) -> Layer:
    """Return three convolutions and two fully connected layers for [B, 8, 8, 1]; 0.45 million multiply-adds forward."""
    sample.check_shape((8, 8, 1))
    return Sequential(
        [
            Conv2d("conv1", 1, 16, 3, rng, padding=1, sparse=sparse_ends, first=True),
            ReLU(),
            Conv2d("conv2", 16, 32, 3, rng, padding=1),
            ReLU(),
            MaxPool2d(2),
            Conv2d("conv3", 32, 32, 3, rng, padding=1),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Linear("fc1", 128, 64, rng),
            ReLU(),
            Linear("fc2", 64, sample.classes, rng, sparse=sparse_ends),
        ]
    )


def digits_sat(rng: np.random.Generator, sample: Sample = DIGITS, *, sparse_ends: bool = False) -> Layer:
    """Return a network whose every product, ReLU and update runs on SAT, for [B, 8, 8, 1].

    Two convolutions of stride 2 (the second to [B, 2, 2, 32]) and two fully connected layers, without biases: the host
    keeps the loss.
    """
    sample.check_shape((8, 8, 1))
    return Sequential(
        [
            Conv2d("conv1", 1, 32, 3, rng, stride=2, padding=1, sparse=sparse_ends, first=True),
            ReLU(),
            Conv2d("conv2", 32, 32, 3, rng, stride=2, padding=1),
            ReLU(),
            Flatten(),
            Linear("fc1", 128, 64, rng, bias=False),
            ReLU(),
            Linear("fc2", 64, sample.classes, rng, bias=False, sparse=sparse_ends),
        ]
    )


def vgg(rng: np.random.Generator, sample: Sample = DIGITS, *, sparse_ends: bool = False) -> Layer:
    """Return a VGG with batch normalisation for images: 16, 32, pool, 64, 64, pool, 64, mean, classifier."""
    return Sequential(
        [
            *_conv_block("conv1", sample.check_image(4), 16, rng, sparse=sparse_ends, first=True),
            *_conv_block("conv2", 16, 32, rng),
            MaxPool2d(2),
            *_conv_block("conv3", 32, 64, rng),
            *_conv_block("conv4", 64, 64, rng),
            MaxPool2d(2),
            *_conv_block("conv5", 64, 64, rng),
            GlobalAveragePool(),
            Linear("fc", 64, sample.classes, rng, sparse=sparse_ends),
        ]
    )


def resnet9(rng: np.random.Generator, sample: Sample = DIGITS, *, sparse_ends: bool = False) -> Layer:
    """Return the shape of the nine-layer residual network of SDGP's code, for images."""
    return Sequential(
        [
            *_conv_block("conv1", sample.check_image(2), 16, rng, sparse=sparse_ends, first=True),
            *_conv_block("conv2", 16, 32, rng),
            Residual(Sequential([*_conv_block("res1a", 32, 32, rng), *_conv_block("res1b", 32, 32, rng)])),
            *_conv_block("conv3", 32, 64, rng),
            MaxPool2d(2),
            Residual(Sequential([*_conv_block("res2a", 64, 64, rng), *_conv_block("res2b", 64, 64, rng)])),
            *_conv_block("conv4", 64, 32, rng),
            GlobalAveragePool(),
            Linear("fc", 32, sample.classes, rng, sparse=sparse_ends),
        ]
    )


def resnet18(rng: np.random.Generator, sample: Sample = DIGITS, *, sparse_ends: bool = False) -> Layer:
    """Return basic residual blocks of 16, 32 and 64 channels, the last two with stride 2, for images."""
    blocks: list[Layer] = []
    for stage, (channels_in, channels_out, stride) in enumerate([(16, 16, 1), (16, 32, 2), (32, 64, 2)]):
        name = f"block{stage + 1}"
        body = [
            *_conv_block(f"{name}a", channels_in, channels_out, rng, stride=stride),
            *_conv_block(f"{name}b", channels_out, channels_out, rng, relu=False),
        ]
        blocks += [Residual(Sequential(body), _shortcut(name, channels_in, channels_out, stride, rng)), ReLU()]
    return _residual_network(blocks, 64, rng, sample, sparse_ends=sparse_ends)


def resnet50(rng: np.random.Generator, sample: Sample = DIGITS, *, sparse_ends: bool = False) -> Layer:
    """Return bottleneck blocks (1x1, 3x3, 1x1) of 16 and 32 inner channels, for images."""
    blocks: list[Layer] = []
    widths = [(16, 16, 64, 1), (64, 16, 64, 1), (64, 32, 128, 2), (128, 32, 128, 1)]
    for stage, (channels_in, inner, channels_out, stride) in enumerate(widths):
        name = f"block{stage + 1}"
        body = [
            *_conv_block(f"{name}a", channels_in, inner, rng, kernel=1),
            *_conv_block(f"{name}b", inner, inner, rng, stride=stride),
            *_conv_block(f"{name}c", inner, channels_out, rng, kernel=1, relu=False),
        ]
        blocks += [Residual(Sequential(body), _shortcut(name, channels_in, channels_out, stride, rng)), ReLU()]
    return _residual_network(blocks, 128, rng, sample, sparse_ends=sparse_ends)


class Patches(Layer):
    """Cut [B, H, W, C] into [B, (H/size) * (W/size), size*size*C] patches, row by row. Input only: no gradient."""

    def __init__(self, size: int) -> None:
        self.size = size

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        batch, height, width, channels = x.shape
        s = self.size
        tiles = x.reshape(batch, height // s, s, width // s, s, channels).transpose(0, 1, 3, 2, 4, 5)
        return tiles.reshape(batch, (height // s) * (width // s), s * s * channels)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        del ctx
        return dy


class TokenMean(Layer):
    """Mean over places: [B, T, features] to [B, features]."""

    def __init__(self) -> None:
        self._pool = GlobalAveragePool()

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        return self._pool.forward(x[:, :, None], ctx)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        return self._pool.backward(dy, ctx)[:, :, 0]


def vit(rng: np.random.Generator, sample: Sample = DIGITS, *, sparse_ends: bool = False) -> Layer:
    """Return a vision transformer for square images: 4 x 4 patches, 48 features, two blocks of four heads."""
    channels, patch = sample.check_image(4), sample.check_square(4) // 4
    return Sequential(
        [
            Patches(patch),
            Linear("embed", patch * patch * channels, 48, rng, sparse=sparse_ends, first=True, gain=1.0),
            Positions("places", 16, 48, rng),
            *_transformer_block("block1", 48, 4, rng, causal=False),
            *_transformer_block("block2", 48, 4, rng, causal=False),
            LayerNorm("norm", 48),
            TokenMean(),
            Linear("head", 48, sample.classes, rng, sparse=sparse_ends, gain=1.0),
        ]
    )


def gpt(rng: np.random.Generator, sample: Sample = TEXT, *, sparse_ends: bool = False) -> Layer:
    """Return a causal transformer over tokens, 64 features, two blocks of four heads."""
    (places,) = sample.check_axes(("places",))
    return Sequential(
        [
            Embedding("embed", sample.classes, 64, rng),
            Positions("places", places, 64, rng),
            *_transformer_block("block1", 64, 4, rng, causal=True),
            *_transformer_block("block2", 64, 4, rng, causal=True),
            LayerNorm("norm", 64),
            Linear("head", 64, sample.classes, rng, sparse=sparse_ends, gain=1.0),
        ]
    )


def mlp(rng: np.random.Generator, sample: Sample = TEACHER, *, sparse_ends: bool = False) -> Layer:
    """Return three fully connected layers of 128 outputs, the last as many as there are classes."""
    (features,) = sample.check_axes(("features",))
    return Sequential(
        [
            Linear("fc1", features, 128, rng, sparse=sparse_ends, first=True),
            ReLU(),
            Linear("fc2", 128, 128, rng),
            ReLU(),
            Linear("fc3", 128, sample.classes, rng, sparse=sparse_ends),
        ]
    )


def _conv_block(
    name: str,
    channels_in: int,
    channels_out: int,
    rng: np.random.Generator,
    *,
    kernel: int = 3,
    stride: int = 1,
    sparse: bool = True,
    first: bool = False,
    relu: bool = True,
) -> list[Layer]:
    conv = Conv2d(
        name, channels_in, channels_out, kernel, rng, stride=stride, padding=kernel // 2, sparse=sparse, first=first
    )
    return [conv, BatchNorm(f"{name}.norm", channels_out), *([ReLU()] if relu else [])]


def _shortcut(name: str, channels_in: int, channels_out: int, stride: int, rng: np.random.Generator) -> Layer | None:
    if channels_in == channels_out and stride == 1:
        return None
    return Sequential(_conv_block(f"{name}s", channels_in, channels_out, rng, kernel=1, stride=stride, relu=False))


def _residual_network(
    blocks: list[Layer], features: int, rng: np.random.Generator, sample: Sample, *, sparse_ends: bool
) -> Layer:
    stem = _conv_block("conv1", sample.check_image(4), 16, rng, sparse=sparse_ends, first=True)
    classifier = Linear("fc", features, sample.classes, rng, sparse=sparse_ends)
    return Sequential([*stem, *blocks, GlobalAveragePool(), classifier])


def _transformer_block(name: str, features: int, heads: int, rng: np.random.Generator, *, causal: bool) -> list[Layer]:
    attention = [LayerNorm(f"{name}.norm1", features), Attention(f"{name}.attn", features, heads, rng, causal=causal)]
    feed = [
        LayerNorm(f"{name}.norm2", features),
        Linear(f"{name}.up", features, 4 * features, rng),
        Gelu(),
        Linear(f"{name}.down", 4 * features, features, rng, gain=1.0),
    ]
    return [Residual(Sequential(attention)), Residual(Sequential(feed))]


BUILDERS: Final[dict[str, Callable[..., Layer]]] = {
    "resnet9-small": resnet9,
    "vit-small": vit,
    "vgg19-small": vgg,
    "resnet18-small": resnet18,
    "resnet50-small": resnet50,
    "gpt": gpt,
    "mlp": mlp,
    "digits-cnn": digits_cnn,
    "digits-sat": digits_sat,
}
"""Builder of each network that trains; `algorithms.core.vocabulary` says what the names stand for."""


def make_network(
    name: str, rng: np.random.Generator, sample: Sample | None = None, *, sparse_ends: bool = False
) -> Layer:
    """Return a network by name, for samples of a shape and their classes; None for those of its own data.

    ValueError for a name of none that trains here, for samples that the network cannot read, and for one of the
    paper's networks without samples: they have no data of their own here.
    """
    if name in PAPER_NETWORKS and sample is not None:
        return PAPER_BUILDERS[name](rng, sample, sparse_ends=sparse_ends)
    trained_network(name)
    given = () if sample is None else (sample,)
    return BUILDERS[name](rng, *given, sparse_ends=sparse_ends)
