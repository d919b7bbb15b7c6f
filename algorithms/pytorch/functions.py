"""The autograd functions: a pruned weight that passes its gradient straight through, and products whose input gradient
uses another weight than the product itself.

All are made of PyTorch's own operators, so they run under torch.compile, torch.func and autocast alike. `tag` is what
`algorithms.pytorch.record` gave the call, NO_TAG outside of a recording.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.pytorch import record
from nmsat.algorithms.pytorch.selection import mvue, mvue_scale, nm_mask, rescaled

if TYPE_CHECKING:
    from nmsat.algorithms.pytorch.rules import Gradients


class Prune(torch.autograd.Function):
    """W where keep, else 0; the gradient reaches all of W, with decay * W added where W was pruned."""

    generate_vmap_rule = True

    @staticmethod
    def forward(w: torch.Tensor, keep: torch.Tensor, decay: float) -> torch.Tensor:
        del decay
        return torch.where(keep, w, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        del output
        w, keep, ctx.decay = inputs
        if ctx.decay:
            ctx.save_for_backward(w, keep)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        if ctx.decay:
            w, keep = ctx.saved_tensors
            grad = grad + ctx.decay * torch.where(keep, 0, w)
        return grad, None, None


class Linear(torch.autograd.Function):
    """y = x w^T + bias with dx = dy w_bp (None: w); x[..., in], w[out, in]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: torch.Tensor,
        w: torch.Tensor,
        w_bp: torch.Tensor | None,
        bias: torch.Tensor | None,
        gradients: tuple[tuple[int, int], tuple[int, int]],
        tag: int,
    ) -> torch.Tensor:
        del w_bp, gradients
        if tag == record.NO_TAG:
            return functional.linear(x, w, bias)
        with record.quiet():
            return functional.linear(x, w, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        del output
        x, w, w_bp, _, ctx.gradients, ctx.tag = inputs
        ctx.save_for_backward(x, w if w_bp is None else w_bp)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        x, w_bp = ctx.saved_tensors  # checkpointing runs the forward pass again here: never quietly
        if ctx.tag == record.NO_TAG:
            return _linear_gradients(ctx, dy, x, w_bp)
        _record(ctx)
        with record.quiet():
            return _linear_gradients(ctx, dy, x, w_bp)


class Convolution(torch.autograd.Function):
    """A convolution or transposed convolution with w, whose input gradient uses w_bp (None: w); channels first.

    options: stride, padding, dilation, transposed, output padding, groups, as `torch.convolution` takes them.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: torch.Tensor,
        w: torch.Tensor,
        w_bp: torch.Tensor | None,
        bias: torch.Tensor | None,
        options: tuple,
        gradients: tuple[tuple[int, int], tuple[int, int]],
        tag: int,
    ) -> torch.Tensor:
        del w_bp, gradients
        if tag == record.NO_TAG:
            return torch.convolution(x, w, bias, *options)
        with record.quiet():
            return torch.convolution(x, w, bias, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        del output
        x, w, w_bp, _, ctx.options, ctx.gradients, ctx.tag = inputs
        ctx.save_for_backward(x, w if w_bp is None else w_bp)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        x, w_bp = ctx.saved_tensors
        if ctx.tag == record.NO_TAG:
            return _convolution_gradients(ctx, dy, x, w_bp)
        _record(ctx)
        with record.quiet():
            return _convolution_gradients(ctx, dy, x, w_bp)


def linear(
    x: torch.Tensor,
    pair: tuple[torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
    gradients: Gradients,
    tag: int,
) -> torch.Tensor:
    """Return x w^T + bias; pair: the weights [out, in] of FF and BP."""
    x, w, w_bp, bias = autocasted(x, *_different(pair), bias)
    return Linear.apply(x, w, w_bp, bias, (gradients.bp, gradients.wu), tag)


def convolution(
    x: torch.Tensor,
    pair: tuple[torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
    options: tuple,
    gradients: Gradients,
    tag: int,
) -> torch.Tensor:
    """Return the convolution of x[B, C, ...]; pair: the weights of FF and BP."""
    x, w, w_bp, bias = autocasted(x, *_different(pair), bias)
    return Convolution.apply(x, w, w_bp, bias, options, (gradients.bp, gradients.wu), tag)


def _different(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the pair without the second where it is the first: compilers take a tensor once."""
    return pair[0], None if pair[1] is pair[0] else pair[1]


def autocasted(*tensors: torch.Tensor | None) -> tuple[Any, ...]:
    """Return the tensors as autocast would hand them to a product."""
    first = next(t for t in tensors if t is not None)
    kind = first.device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t.to(dtype) if t is not None and t.is_floating_point() else t for t in tensors)


def _record(ctx: Any) -> None:
    """Put the products of this backward pass on the tape, the weight gradient first, as the NumPy reference does."""
    if ctx.needs_input_grad[1]:
        record.emit(ctx.tag, Stage.WU)
    if ctx.needs_input_grad[0]:
        record.emit(ctx.tag, Stage.BP)


def _linear_gradients(ctx: Any, dy: torch.Tensor, x: torch.Tensor, w_bp: torch.Tensor) -> tuple:
    (n_bp, m_bp), (n_wu, m_wu) = ctx.gradients
    rows = dy.reshape(-1, dy.shape[-1])
    dx = dw = db = None
    if ctx.needs_input_grad[0]:
        side = torch.where(nm_mask(rows, n_bp, m_bp, 1), rows, 0) if m_bp else rows
        dx = (side @ w_bp).reshape(x.shape)
    if ctx.needs_input_grad[1]:
        scale = mvue_scale(rows, n_wu, m_wu) if m_wu else None
        side = mvue(rows, n_wu, m_wu, scale=scale) if m_wu else rows
        dw = _scaled_back(side.t() @ x.reshape(-1, x.shape[-1]), scale)
    if ctx.needs_input_grad[3]:
        db = rows.sum(dim=0)
    return dx, dw, None, db, None, None


def _convolution_gradients(ctx: Any, dy: torch.Tensor, x: torch.Tensor, w_bp: torch.Tensor) -> tuple:
    (n_bp, m_bp), (n_wu, m_wu) = ctx.gradients
    need_x, need_w, need_b = (ctx.needs_input_grad[i] for i in (0, 1, 3))
    groups = ctx.options[-1]
    if not m_bp and not m_wu:
        dx, dw, db = _backward(ctx, dy, x, w_bp, (need_x, need_w, need_b))
        return dx, dw, None, db, None, None, None
    dx = dw = db = None
    if need_x:
        side = rescaled(dy, _kept_channels(dy, groups, n_bp, m_bp)) if m_bp else dy
        dx = _backward(ctx, side, x, w_bp, (True, False, False))[0]
    if need_w:
        scale = mvue_scale(dy, n_wu, m_wu) if m_wu else None
        side = _sampled(dy, n_wu, m_wu, scale) if m_wu else dy
        dw = _scaled_back(_backward(ctx, side, x, w_bp, (False, True, False))[1], scale)
    if need_b:
        db = dy.sum(dim=[0, *range(2, dy.dim())])
    return dx, dw, None, db, None, None, None


def _backward(
    ctx: Any, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, need: tuple[bool, bool, bool]
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of x, w and bias; of w only the shape matters for its own."""
    sizes = [dy.shape[1]] if need[2] else None
    return torch.ops.aten.convolution_backward(dy, x, w, sizes, *ctx.options, list(need))


def _kept_channels(dy: torch.Tensor, groups: int, n: int, m: int) -> torch.Tensor:
    return nm_mask(dy.unflatten(1, (groups, -1)), n, m, 2).flatten(1, 2)


def _scaled_back(dw: torch.Tensor | None, scale: torch.Tensor | None) -> torch.Tensor | None:
    """Return a weight gradient without the scale of its sampled operand."""
    return dw if dw is None or scale is None else dw / scale.to(dw.dtype)


def _sampled(dy: torch.Tensor, n: int, m: int, scale: torch.Tensor | None) -> torch.Tensor:
    """Return dy[B, C, ...] as the update product reads it; groups run along batch and pixels."""
    last = dy.movedim(1, -1)
    return mvue(last.reshape(-1, dy.shape[1]), n, m, scale=scale).reshape(last.shape).movedim(-1, 1)
