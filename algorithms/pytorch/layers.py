"""Linear and Conv2d with N:M sparse products, as autograd functions."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from nmsat.algorithms.pytorch.record import record_conv, record_linear
from nmsat.algorithms.core.tape import ConvShape, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.autograd.function import FunctionCtx

    from nmsat.algorithms.pytorch.rules import Rule


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight [out, in] or [out, in, kh, kw] as W[k, n] with the input channel innermost in k."""
    if weight.dim() == 2:
        return weight.t()
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def from_matrix(matrix: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Undo `as_matrix`."""
    if like.dim() == 2:
        return matrix.t()
    out, inner, height, width = like.shape
    return matrix.reshape(height, width, inner, out).permute(3, 2, 0, 1)


def _kept(weight: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    return weight if keep is None else torch.where(from_matrix(keep, weight), weight, 0)


class _Common(torch.autograd.Function):
    """Shared by both functions: masks, the SR-STE term, the bias gradient."""

    @staticmethod
    def start(
        ctx: torch.autograd.function.FunctionCtx, layer: _NmLayer, x: torch.Tensor, w: torch.Tensor
    ) -> torch.Tensor:
        """Save what backward needs; return the forward copy of the weight."""
        keep_ff, keep_bp = layer.rule.masks(w, as_matrix(w))
        ctx.save_for_backward(x, w, *(mask for mask in (keep_ff, keep_bp) if mask is not None))
        ctx.layer, ctx.present = layer, (keep_ff is not None, keep_bp is not None)
        return _kept(w, keep_ff)

    @staticmethod
    def saved(ctx: FunctionCtx) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return x, W, keep_ff, keep_bp."""
        x, w, *rest = ctx.saved_tensors
        masks = iter(rest)
        keep_ff, keep_bp = (next(masks) if there else None for there in ctx.present)
        return x, w, keep_ff, keep_bp

    @staticmethod
    def decayed(layer: _NmLayer, grad: torch.Tensor, w: torch.Tensor, keep_ff: torch.Tensor | None) -> torch.Tensor:
        """Add lambda (1 - mask_ff) W, in the scale of the gradient."""
        if keep_ff is None or layer.rule.decay == 0:
            return grad
        pruned = torch.where(from_matrix(keep_ff, w), 0, w)
        return grad + (layer.rule.decay * layer.scale()) * pruned


class _Linear(_Common):
    """y = x W_ff^T + b over rows."""

    @staticmethod
    def forward(ctx, layer, x, w, bias):  # signature of autograd
        y = functional.linear(x, _Common.start(ctx, layer, x, w), bias)
        record_linear(layer, Stage.FF, x.shape[0])
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, keep_ff, keep_bp = _Common.saved(ctx)
        layer, dx = ctx.layer, None
        record_linear(layer, Stage.WU, x.shape[0])
        dw = layer.rule.update_gradient(dy).t() @ x.to(dy.dtype)
        if ctx.needs_input_grad[1]:
            record_linear(layer, Stage.BP, x.shape[0])
            dx = (layer.rule.backward_gradient(dy) @ _kept(w, keep_bp).to(dy.dtype)).to(x.dtype)
        db = dy.sum(dim=0) if ctx.needs_input_grad[3] else None
        return None, dx, _Common.decayed(layer, dw.to(w.dtype), w, keep_ff), db


class _Conv2d(_Common):
    """Convolution with W_ff; NCHW."""

    @staticmethod
    def forward(ctx, layer, x, w, bias):
        y = functional.conv2d(x, _Common.start(ctx, layer, x, w), bias, *layer.geometry())
        record_conv(layer, Stage.FF, layer.shape_of(x))
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, keep_ff, keep_bp = _Common.saved(ctx)
        layer, dx = ctx.layer, None
        shape, geometry = layer.shape_of(x), layer.geometry()
        record_conv(layer, Stage.WU, shape)
        dw = nn.grad.conv2d_weight(x.to(dy.dtype), w.shape, layer.rule.update_gradient(dy), *geometry)
        if ctx.needs_input_grad[1]:
            record_conv(layer, Stage.BP, shape)
            side, kept = layer.rule.backward_gradient(dy), _kept(w, keep_bp).to(dy.dtype)
            dx = nn.grad.conv2d_input(x.shape, kept, side, *geometry).to(x.dtype)
        db = dy.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[3] else None
        return None, dx, _Common.decayed(layer, dw.to(w.dtype), w, keep_ff), db


class _NmLayer:
    """What both layers have beside PyTorch's own: the rule, and the loss scale of the gradients that reach them."""

    rule: Rule
    scaler: Callable[[], float] | None

    def scale(self) -> float:
        """Return the factor by which gradients are scaled."""
        return 1.0 if self.scaler is None else float(self.scaler())


class NmLinear(_NmLayer, nn.Linear):
    """nn.Linear whose products follow a `Rule`; made by `algorithms.pytorch.sparsify` from an nn.Linear."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # PyTorch's name
        rows = input.reshape(-1, input.shape[-1])
        return _Linear.apply(self, rows, self.weight, self.bias).reshape(*input.shape[:-1], -1)


class NmConv2d(_NmLayer, nn.Conv2d):
    """nn.Conv2d whose products follow a `Rule`; made by `algorithms.pytorch.sparsify` from an nn.Conv2d."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # PyTorch's name
        return _Conv2d.apply(self, input, self.weight, self.bias)

    def geometry(self) -> tuple:
        """Return stride, padding, dilation, groups."""
        return self.stride, self.padding, self.dilation, self.groups

    def shape_of(self, x: torch.Tensor) -> ConvShape:
        """Return the convolution of an input."""
        batch, channels, height, width = x.shape
        return ConvShape(
            batch,
            height,
            width,
            channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
