"""Networks as programs: residual networks (He et al., CVPR 2016) with exchangeable convolutions, and perceptrons."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True, kw_only=True)
class ResNetSize:
    """A residual network on image x image x channels inputs.

    widths: channels of each stage (of the 3 x 3 layers); blocks: residual blocks per stage; bottleneck: 1-3-1 blocks
    that leave with four times the width; stem: width of the first convolution; stem_kernel: 3, or 7 with stride 2 and a
    3 x 3 maximum pooling (ImageNet).
    """

    batch: int
    image: int
    channels: int
    classes: int
    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    bottleneck: bool = False
    stem_kernel: int = 3


@dataclass(frozen=True, kw_only=True)
class MlpSize:
    """A perceptron on vectors: widths of its layers from input to classes."""

    batch: int
    widths: tuple[int, ...]


class Unit(Protocol):
    """A convolution with its normalisation: unit(name, x, channels_out, kernel, stride)."""

    def __call__(self, name: str, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor: ...


class Maker(Protocol):
    """Makes the matrix of a layer: maker(name, (k, n))."""

    def __call__(self, name: str, shape: tuple[int, int]) -> Parameter: ...


def normalised(p: Program, name: str, x: Tensor) -> Tensor:
    """Batch normalisation with its own gain and bias."""
    width = x.shape[-1]
    return ops.batch_norm(x, p.vector(f"{name}.gain", (width,), 1.0), p.vector(f"{name}.bias", (width,)))


def resnet(p: Program, size: ResNetSize, x: Tensor, stem: Unit, unit: Unit, classifier: Maker) -> Tensor:
    """Return the logits [batch, classes] of x[batch, image, image, channels].

    stem: first convolution; unit: all others; classifier: makes the matrix of the last layer.
    """
    x = features(size, x, stem, unit)
    w = classifier("classifier", (x.shape[-1], size.classes))
    return linear("classifier", x, w, p.vector("classifier.bias", (size.classes,)))


def features(size: ResNetSize, x: Tensor, stem: Unit, unit: Unit) -> Tensor:
    """Return what the last layer of a residual network reads: means over the image, [batch, channels]."""
    first = 1 if size.stem_kernel == 3 else 2
    x = ops.relu(stem("stem", x, size.stem, size.stem_kernel, first))
    if size.stem_kernel != 3:
        x = ops.max_pool(x, 3, 2, 1)
    for stage, (width, blocks) in enumerate(zip(size.widths, size.blocks, strict=True)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _block(f"s{stage}.{block}", x, width, stride, unit, bottleneck=size.bottleneck)
    return ops.mean(x, (1, 2))


def mlp(p: Program, size: MlpSize, x: Tensor, maker: Maker) -> Tensor:
    """Return the logits of x[batch, widths[0]]: linear layers `fc0`, `fc1` ... with biases, ReLU between them."""
    for layer, (k, n) in enumerate(pairwise(size.widths)):
        x = x if not layer else ops.relu(x)
        x = linear(f"fc{layer}", x, maker(f"fc{layer}", (k, n)), p.vector(f"fc{layer}.bias", (n,)))
    return x


def convolutions(size: ResNetSize) -> list[tuple[str, int, int]]:
    """Return (name, k, n) of every matrix of the network in forward order, without running it."""
    found: list[tuple[str, int, int]] = [("stem", size.stem_kernel**2 * size.channels, size.stem)]
    width_in = size.stem
    for stage, (width, blocks) in enumerate(zip(size.widths, size.blocks, strict=True)):
        for block in range(blocks):
            name, out = f"s{stage}.{block}", width * (4 if size.bottleneck else 1)
            if size.bottleneck:
                found += [(f"{name}.a", width_in, width), (f"{name}.b", 9 * width, width), (f"{name}.c", width, out)]
            else:
                found += [(f"{name}.a", 9 * width_in, width), (f"{name}.b", 9 * width, width)]
            if width_in != out or (stage and not block):
                found.append((f"{name}.skip", width_in, out))
            width_in = out
    return [*found, ("classifier", width_in, size.classes)]


def _block(name: str, x: Tensor, width: int, stride: int, unit: Unit, *, bottleneck: bool) -> Tensor:
    out = width * (4 if bottleneck else 1)
    if bottleneck:
        y = ops.relu(unit(f"{name}.a", x, width, 1, 1))
        y = ops.relu(unit(f"{name}.b", y, width, 3, stride))
        y = unit(f"{name}.c", y, out, 1, 1)
    else:
        y = ops.relu(unit(f"{name}.a", x, width, 3, stride))
        y = unit(f"{name}.b", y, width, 3, 1)
    skip = x
    if x.shape[-1] != out or stride != 1:
        skip = unit(f"{name}.skip", x, out, 1, stride)
    return ops.relu(ops.add(y, skip))
