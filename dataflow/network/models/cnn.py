"""The convolutional networks of the paper as lists of layers: ResNet9, VGG19, ResNet18, ResNet50.

Names of layers follow torchvision where it has the network, so that masks of its checkpoints match.
"""

from __future__ import annotations

from typing import Final

from nmsat.algorithms.core.tape import ConvShape
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.network.layers import ConvLayer, Layer, LinearLayer, host_layer, pool_layer


class CnnBuilder:
    """Collects layers and keeps the size of the tensor that flows through them: batch x height x width x channels."""

    def __init__(self, batch: int, height: int, width: int, channels: int) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch!r}; it must be at least 1")
        self.layers: list[Layer] = []
        self.batch, self.height, self.width, self.channels = batch, height, width, channels

    @property
    def elements(self) -> int:
        """Elements of the tensor."""
        return self.batch * self.height * self.width * self.channels

    def conv(
        self, name: str, channels: int, kernel: int, stride: int = 1, padding: int | None = None, bias: bool = False
    ) -> None:
        """Append a square convolution; padding defaults to kernel // 2. The first layer needs no input gradient."""
        padding = kernel // 2 if padding is None else padding
        size = (self.batch, self.height, self.width, self.channels, channels)
        shape = ConvShape(*size, (kernel, kernel), (stride, stride), (padding, padding))
        self.layers.append(ConvLayer(name=name, shape=shape, bias=bias, input_gradient=bool(self.layers)))
        self.height, self.width = output_size(shape)
        self.channels = channels

    def norm(self, name: str) -> None:
        """Append a batch normalisation."""
        self.layers.append(host_layer("BatchNormalization", name, self.elements, parameters=2 * self.channels))

    def relu(self, name: str) -> None:
        """Append a ReLU."""
        self.layers.append(host_layer("Relu", name, self.elements))

    def add(self, name: str) -> None:
        """Append the addition of a residual."""
        self.layers.append(host_layer("Add", name, self.elements))

    def pool(self, name: str, kind: str, kernel: int, stride: int, padding: int = 0) -> None:
        """Append a pooling; kind as in ONNX."""
        before = self.elements
        self.height = (self.height + 2 * padding - kernel) // stride + 1
        self.width = (self.width + 2 * padding - kernel) // stride + 1
        self.layers.append(pool_layer(kind, name, before, self.elements, kernel * kernel))

    def global_pool(self, name: str, kind: str) -> None:
        """Append a pooling over the whole map."""
        before, window = self.elements, self.height * self.width
        self.height = self.width = 1
        self.layers.append(pool_layer(kind, name, before, self.elements, window))

    def classifier(self, name: str, classes: int, bias: bool = True) -> None:
        """Append the last linear layer and the loss."""
        features = self.elements // self.batch
        self.layers.append(
            LinearLayer(name=name, rows=self.batch, features_in=features, features_out=classes, bias=bias)
        )
        self.layers.append(host_layer("SoftmaxCrossEntropyLoss", "loss", self.batch * classes))


def resnet9(batch: int = 512, classes: int = 10) -> list[Layer]:
    """ResNet9 for CIFAR-10: the nine-layer residual network of the SDGP code, the likely one of the paper."""
    net = CnnBuilder(batch, 32, 32, 3)

    def block(name: str, channels: int, kernel: int = 3, stride: int = 1, padding: int | None = None) -> None:
        net.conv(f"{name}.conv", channels, kernel, stride, padding)
        net.norm(f"{name}.bn")
        net.relu(f"{name}.relu")

    def residual(name: str, channels: int) -> None:
        block(f"{name}.0", channels)
        block(f"{name}.1", channels)
        net.add(f"{name}.add")

    block("stem", 128)
    block("down", 256, kernel=5, stride=2)
    residual("res1", 256)
    block("wide", 512)
    net.pool("pool", "MaxPool", 2, 2)
    residual("res2", 512)
    block("narrow", 256, padding=0)
    net.global_pool("global_pool", "GlobalMaxPool")
    net.classifier("fc", classes, bias=False)
    net.layers.insert(-1, host_layer("Mul", "scale", batch * classes))
    return net.layers


VGG19: Final = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)
"""Output channels of the convolutions; 0 is a 2 x 2 max pooling."""


def vgg19(batch: int = 512, classes: int = 100) -> list[Layer]:
    """VGG19 with batch normalisation for CIFAR-100, one linear layer as classifier."""
    net = CnnBuilder(batch, 32, 32, 3)
    index = 0
    for channels in VGG19:
        if channels:
            net.conv(f"features.{index}", channels, 3, bias=True)
            net.norm(f"features.{index + 1}")
            net.relu(f"features.{index + 2}")
            index += 3
        else:
            net.pool(f"features.{index}", "MaxPool", 2, 2)
            index += 1
    net.classifier("classifier", classes)
    return net.layers


def resnet18(batch: int = 512, size: int = 64, classes: int = 200, stem: int = 3) -> list[Layer]:
    """ResNet18; by default for Tiny ImageNet (64 x 64) with a 3 x 3 stem.

    stem: 3 (stride 1, no pooling) or 7 (stride 2 and max pooling, the ImageNet form).
    """
    net = _stem(batch, size, stem)
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            _basic_block(net, f"layer{stage}.{block}", channels, stride=2 if stage > 1 and block == 0 else 1)
    net.global_pool("avgpool", "GlobalAveragePool")
    net.classifier("fc", classes)
    return net.layers


def resnet50(batch: int = 512, size: int = 224, classes: int = 1000) -> list[Layer]:
    """ResNet50 for ImageNet, the stride of a block in its 3 x 3 convolution."""
    net = _stem(batch, size, 7)
    for stage, (channels, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=1):
        for block in range(blocks):
            _bottleneck(net, f"layer{stage}.{block}", channels, stride=2 if stage > 1 and block == 0 else 1)
    net.global_pool("avgpool", "GlobalAveragePool")
    net.classifier("fc", classes)
    return net.layers


def _stem(batch: int, size: int, kernel: int) -> CnnBuilder:
    if kernel not in (3, 7):
        raise ValueError(f"stem is {kernel!r}; it must be 3 or 7")
    net = CnnBuilder(batch, size, size, 3)
    net.conv("conv1", 64, kernel, stride=1 if kernel == 3 else 2)
    net.norm("bn1")
    net.relu("relu")
    if kernel == 7:
        net.pool("maxpool", "MaxPool", 3, 2, 1)
    return net


def _basic_block(net: CnnBuilder, name: str, channels: int, stride: int) -> None:
    before = (net.height, net.width, net.channels)
    net.conv(f"{name}.conv1", channels, 3, stride)
    net.norm(f"{name}.bn1")
    net.relu(f"{name}.relu1")
    net.conv(f"{name}.conv2", channels, 3)
    net.norm(f"{name}.bn2")
    _shortcut(net, name, before, stride)


def _bottleneck(net: CnnBuilder, name: str, channels: int, stride: int) -> None:
    before = (net.height, net.width, net.channels)
    for index, (width, kernel) in enumerate(((channels, 1), (channels, 3), (4 * channels, 1)), start=1):
        net.conv(f"{name}.conv{index}", width, kernel, stride if index == 2 else 1)
        net.norm(f"{name}.bn{index}")
        if index < 3:
            net.relu(f"{name}.relu{index}")
    _shortcut(net, name, before, stride)


def _shortcut(net: CnnBuilder, name: str, before: tuple[int, int, int], stride: int) -> None:
    """Append the projection of the block's input where sizes differ, the addition and its ReLU."""
    after = (net.height, net.width, net.channels)
    if after != before:
        net.height, net.width, net.channels = before
        net.conv(f"{name}.downsample.0", after[2], 1, stride)
        net.norm(f"{name}.downsample.1")
    net.add(f"{name}.add")
    net.relu(f"{name}.relu")
