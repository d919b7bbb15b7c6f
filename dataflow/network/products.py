"""The matrix products of one layer in a training step.

Per weight layer, with K = taps * C_in (C_in innermost) and R = B * Ho * Wo (paper: BDWP; SR-STE, SDGP):

    FF  Y[R, C_out]    = im2col(X)[R, K] W[K, C_out]                       W pruned along K       (ste, bdwp)
    BP  dX[P, C_in]    = window(dY)[P, taps*C_out] W'[taps*C_out, C_in]    W' pruned along C_out  (sdwp, bdwp)
        dX^T[C_in, P]  = W'^T window(dY)^T                                 dY pruned along C_out  (sdgp)
    WU  dW[K, C_out]   = im2col(X)^T[K, R] dY[R, C_out]                    dY pruned along R      (+mvue)

BP of a convolution is split into dense parts of P positions each (`dataflow.network.gradient`), so that strides waste
nothing.

Tails. A pattern N:M is used where the reduction has at least one full group (K >= M, C_out >= M, R >= M), else the
product is dense. Groups run through K in FF and through R in WU; a last group of t < M elements keeps min(N, t). In BP
groups stay inside one kernel tap: if M does not divide C_out, each tap is padded to whole groups (k of the product
counts the padding, which contributes nothing).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import AGAIN, Product, Stage
from nmsat.dataflow.network.gradient import gradient_parts
from nmsat.dataflow.network.layers import ConvLayer

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.network.gradient import GradientPart
    from nmsat.dataflow.network.layers import LinearLayer, MatMulLayer, WeightLayer
    from nmsat.dataflow.network.readers.masks import LayerMask


def usable(pattern: Pattern | None, length: int) -> Pattern | None:
    """Return the pattern if it prunes anything and `length` holds at least one full group, else None (dense)."""
    return pattern if pattern is not None and pattern.n < pattern.m <= length else None


def forward_products(layer: WeightLayer, pattern: Pattern | None, mask: LayerMask | None = None) -> tuple[Product, ...]:
    """Return FF, the weights pruned along K by a pattern or covered by a mask (one product per group and pattern)."""
    shape = layer.shape if isinstance(layer, ConvLayer) else None
    if mask is not None:
        covers = (mask.forward(group) for group in range(layer.count))
        steps = _steps(layer)
        parts = (p for cover in covers for p in cover.products(layer.name, Stage.FF, layer.rows // steps, 1, shape))
        return tuple(each for p in parts for each in _stepped(p, steps))
    k, steps = layer.taps * layer.features_in, _steps(layer)
    whole = Product(
        layer.name, Stage.FF, layer.rows // steps, k, layer.features_out, usable(pattern, k), layer.count, shape
    )
    return _stepped(whole, steps)


def input_gradient_products(
    layer: WeightLayer, weights: Pattern | None, gradient: Pattern | None = None, mask: LayerMask | None = None
) -> tuple[Product, ...]:
    """Return BP: one product per part of a convolution (`name/phase0` ...), nothing if no input gradient is needed.

    weights: pattern of W along C_out; gradient: pattern of dY along C_out, which transposes the product because the
    sparse operand stands in the W role (m is then C_in and n the positions); mask: of W, instead of `weights`.
    """
    if not layer.input_gradient:
        return ()
    if not isinstance(layer, ConvLayer):
        if mask is not None:
            covers = (mask.backward(group) for group in range(layer.count))
            parts = tuple(
                p for cover in covers for p in cover.products(layer.name, Stage.BP, layer.rows // layer.steps)
            )
            return tuple(each for p in parts for each in _back(p, layer))
        whole = _gradient(layer, layer.name, layer.rows // layer.steps, 1, weights, gradient, None)
        return _back(whole, layer)
    out: list[Product] = []
    parts = gradient_parts(layer.shape)
    for index, part in enumerate(parts):
        name = layer.name if len(parts) == 1 else f"{layer.name}/phase{index}"
        if mask is not None:
            for group in range(layer.count):
                cover = mask.backward(group, part.taps)
                out.extend(cover.products(name, Stage.BP, part.positions, 1, part))
        else:
            out.append(_gradient(layer, name, part.positions, len(part.taps), weights, gradient, part))
    return tuple(out)


def weight_gradient_products(layer: WeightLayer, gradient: Pattern | None = None) -> tuple[Product, ...]:
    """Return WU; gradient: pattern of dY along R."""
    shape = layer.shape if isinstance(layer, ConvLayer) else None
    k = layer.taps * layer.features_in
    pattern = usable(gradient, layer.rows)
    sizes, online = (k, layer.rows, layer.features_out), pattern is not None
    return (Product(layer.name, Stage.WU, *sizes, pattern, layer.count, shape, online=online),)


def matmul_products(layer: MatMulLayer) -> tuple[Product, ...]:
    """Return the products of two activations, dense in every method: Y = A B, dA = dY B^T, dB = A^T dY."""
    m, k, n, count = layer.m, layer.k, layer.n, layer.count
    out = [Product(layer.name, Stage.FF, m, k, n, None, count)]
    if layer.gradient_a:
        out.append(Product(f"{layer.name}.da", Stage.BP, m, n, k, None, count))
    if layer.gradient_b:
        out.append(Product(f"{layer.name}.db", Stage.BP, k, m, n, None, count))
    return tuple(out)


def _steps(layer: WeightLayer) -> int:
    return 1 if isinstance(layer, ConvLayer) else layer.steps


def _stepped(product: Product, steps: int) -> tuple[Product, ...]:
    """Return a product of one step once for each, named as runs of the layer."""
    names = [product.name, *(f"{product.name}{AGAIN}{step}" for step in range(2, steps + 1))]
    return tuple(replace(product, name=name) for name in names)


def _back(product: Product, layer: LinearLayer) -> tuple[Product, ...]:
    """Return an input gradient of one step once for each that needs it, the last step first."""
    return _stepped(product, layer.steps)[::-1] if layer.state_gradient else _stepped(product, layer.steps)[:0:-1]


def _gradient(
    layer: WeightLayer,
    name: str,
    positions: int,
    taps: int,
    weights: Pattern | None,
    gradient: Pattern | None,
    part: GradientPart | None,
) -> Product:
    channels = layer.features_out
    pattern = usable(weights or gradient, channels)
    k = taps * channels
    if pattern and taps > 1:
        k = taps * -(-channels // pattern.m) * pattern.m
    m, n = positions, layer.features_in
    online = weights is None and pattern is not None
    if online:
        m, n = n, m
    return Product(name, Stage.BP, m, k, n, pattern, layer.count, part, online=online)
