"""Linear layers and convolutions whose products follow a rule."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from nmsat.algorithms.pytorch import functions, record
from nmsat.algorithms.pytorch.base import NmModule, behaves, class_of
from nmsat.algorithms.pytorch.layout import Layout

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _runs_as(base: Any, kind: Any) -> bool:
    return base.forward is kind.forward and base._conv_forward is kind._conv_forward


class OneWeight(NmModule):
    """A layer whose one product is with its `weight`."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ("weight",)
    bias: torch.Tensor | None


@behaves(lambda base: base.forward is nn.Linear.forward)
class LinearForward(OneWeight):
    """y = x W_ff^T + b over the last axis."""

    @staticmethod
    def layouts(layer: nn.Module) -> dict[str, Layout]:
        """Return the layout of every weight."""
        del layer
        return {"weight": Layout("linear")}

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # PyTorch's name
        slot = self.nm["weight"]
        if slot.rule.dense:
            return super().forward(input)
        pair = self.nm_pair("weight")
        tag = record.linear(self, slot, pair[0], input)
        return functions.linear(input, pair, self.bias, slot.rule.gradients(), tag)


@behaves(lambda base: (base.__module__, base.__name__) == ("transformers.pytorch_utils", "Conv1D"))
class ColumnsForward(OneWeight):
    """Hugging Face's Conv1D: y = x W_ff + b with W[in, out]."""

    @staticmethod
    def layouts(layer: nn.Module) -> dict[str, Layout]:
        """Return the layout of every weight."""
        del layer
        return {"weight": Layout("columns")}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slot = self.nm["weight"]
        if slot.rule.dense:
            return super().forward(x)
        forward, backward = self.nm_pair("weight")
        turned = forward.t()
        pair = turned, turned if backward is forward else backward.t()
        tag = record.linear(self, slot, turned, x)
        return functions.linear(x, pair, self.bias, slot.rule.gradients(), tag)


class _Convolving(OneWeight):
    """What convolutions share: batches of one, options, the tag."""

    groups: int

    def _run(self, x: torch.Tensor, options: tuple) -> torch.Tensor:
        slot = self.nm["weight"]
        single = x.dim() == len(options[0]) + 1
        x = x.unsqueeze(0) if single else x
        pair = self.nm_pair("weight")
        tag = record.convolution(self, slot, pair[0], x, options)
        y = functions.convolution(x, pair, self.bias, options, slot.rule.gradients(self.groups), tag)
        return y.squeeze(0) if single else y


@behaves(lambda base: any(_runs_as(base, kind) for kind in CONVOLUTIONS))
class ConvolutionForward(_Convolving):
    """A convolution with W_ff; any padding mode, padding by name, groups."""

    @staticmethod
    def layouts(layer: nn.Module) -> dict[str, Layout]:
        """Return the layout of every weight."""
        return {"weight": Layout("conv", groups=layer.groups)}  # type: ignore[arg-type]

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # PyTorch's name
        if self.nm["weight"].rule.dense:
            return super().forward(input)
        layer: Any = self
        padding, x = list(layer.padding) if not isinstance(layer.padding, str) else [], input
        if layer.padding_mode != "zeros":
            mode = layer.padding_mode
            x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
            padding = [0] * len(layer.kernel_size)
        elif isinstance(layer.padding, str):
            x, padding = _by_name(x, layer)
        options = (list(layer.stride), padding, list(layer.dilation), False, [0] * len(padding), layer.groups)
        return self._run(x, options)


@behaves(lambda base: any(base.forward is kind.forward for kind in TRANSPOSED))
class TransposedForward(_Convolving):
    """A transposed convolution with W_ff."""

    @staticmethod
    def layouts(layer: nn.Module) -> dict[str, Layout]:
        """Return the layout of every weight."""
        return {"weight": Layout("transposed", groups=layer.groups)}  # type: ignore[arg-type]

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:  # noqa: A002
        if self.nm["weight"].rule.dense:
            return super().forward(input, output_size)  # type: ignore[call-arg] # PyTorch's own
        layer: Any = self
        extra = layer._output_padding(
            input, output_size, layer.stride, layer.padding, layer.kernel_size, len(layer.kernel_size), layer.dilation
        )
        stride, padding, dilation = (list(value) for value in (layer.stride, layer.padding, layer.dilation))
        return self._run(input, (stride, padding, dilation, True, list(extra), layer.groups))


NmLinear = class_of(nn.Linear)
NmConv2d = class_of(nn.Conv2d)


def _by_name(x: torch.Tensor, layer: Any) -> tuple[torch.Tensor, list[int]]:
    """Resolve padding 'same' and 'valid'; what one side has more is padded here, as PyTorch does."""
    if layer.padding == "valid":
        return x, [0] * len(layer.kernel_size)
    total = [dilation * (taps - 1) for dilation, taps in zip(layer.dilation, layer.kernel_size, strict=True)]
    odd = [value % 2 for value in total]
    if any(odd):
        x = functional.pad(x, [side for extra in reversed(odd) for side in (0, extra)])
    return x, [value // 2 for value in total]
