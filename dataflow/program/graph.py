"""A model as the parts of a training step: products for the machine, and what the host does between them.

Forward returns the output of a layer and how its backward pass goes on; products that follow each other become one
program, host layers that follow each other one task.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.tape import Pattern, Product, Stage
from nmsat.algorithms.core.windows import forward_windows, output_size
from nmsat.algorithms.layers.attention import Attention
from nmsat.algorithms.layers.base import Residual, Sequential
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.methods import WeightMagnitude
from nmsat.dataflow.contract.isa import Side
from nmsat.dataflow.network.gradient import axis_segments
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.constants import place_identity
from nmsat.dataflow.program.heads import attention
from nmsat.dataflow.program.host import HostOp, Value, call, loss, probe, total
from nmsat.dataflow.program.layer_plan import HOST, TENSORS, WEIGHTS, LayerPlan, absorbed
from nmsat.dataflow.program.product import Epilogue
from nmsat.dataflow.program.tensors import DENSE, Layout, Rows
from nmsat.dataflow.program.update import check_update

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import ConvShape
    from nmsat.algorithms.layers.base import Layer
    from nmsat.algorithms.methods import Method
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.bounds import Bounds
    from nmsat.dataflow.program.host import Action, Back, StepRun
    from nmsat.dataflow.program.product import ProductCode
    from nmsat.dataflow.program.tensors import Weights


@dataclass
class Codes:
    """Products that follow each other: a program in the making."""

    codes: list[ProductCode] = field(default_factory=list)


class Planner:
    """Walks through a model once, forward and backward, places its tensors and collects the parts of a step."""

    def __init__(self, config: SatConfig, method: Method, bounds: Bounds) -> None:
        self.config = config
        self.layout = Layout()
        self.layers: list[LayerPlan] = []
        self.products: list[Product] = []
        self.parts: list[Codes | list[HostOp]] = []
        self.identities: list[Weights] = []
        self.ones: dict[int, Rows] = {}
        self._method = method
        self._bounds = bounds
        self._integers = False

    def step(self, model: Layer, x: Value, *, integers: bool) -> Value:
        """Plan a whole step from the samples to the gradients; return the logits."""
        self._integers = integers
        self.host("input", "Input", Stage.FF, (), (x,), lambda run, _: [self._samples(run, x)], 0)
        logits, back = self.forward(model, x)
        seed = Value("loss.dy", logits.shape)
        self.host("loss", "SoftmaxCrossEntropyLoss", Stage.BP, (logits,), (seed,), loss, 8 * int(np.prod(seed.shape)))
        back(seed)
        return logits

    @staticmethod
    def _samples(run: StepRun, x: Value) -> NDArray:
        integers = np.issubdtype(run.x.dtype, np.integer)
        return (run.x if integers else run.ctx.arithmetic.narrow(run.x)).reshape(x.shape)

    # -- parts ----------------------------------------------------------------------------------------------------

    def host(
        self,
        name: str,
        kind: str,
        stage: Stage,
        reads: tuple[Value, ...],
        writes: tuple[Value, ...],
        action: Action,
        operations: int,
    ) -> None:
        """Append an operation of the host."""
        if not self.parts or isinstance(self.parts[-1], Codes):
            self.parts.append([])
        part = self.parts[-1]
        assert isinstance(part, list)
        part.append(HostOp(name, kind, stage, operations, reads, writes, action))

    def machine(self, codes: Iterable[ProductCode]) -> None:
        """Append products of the machine."""
        if not self.parts or not isinstance(self.parts[-1], Codes):
            self.parts.append(Codes())
        part = self.parts[-1]
        assert isinstance(part, Codes)
        part.codes += codes

    def read(self, value: Value) -> Rows:
        """Return the place of a tensor that the machine reads: that of its writer, or one for the host to write to."""
        if value.rows is None:
            value.rows = self._rows(value, HOST)
        return value.rows

    def made(self, name: str, shape: tuple[int, ...], size: int = 2) -> Value:
        """Return a tensor that the machine writes."""
        value = Value(name, shape, size)
        value.rows = self._rows(value, TENSORS)
        return value

    def _rows(self, value: Value, region: int) -> Rows:
        """Place a tensor; ValueError beyond the bounds, before the host computes with it."""
        rows = self.layout.rows(value.name, region, *value.matrix, value.bytes)
        self._bounds.check_beats(self.layout.beats)
        return rows

    def record(self, name: str, stage: Stage, shape: tuple[int, int, int], pattern: Pattern, count: int = 1) -> None:
        """Note a product as NumPy counts it."""
        kept = pattern if pattern.n < pattern.m else None
        self.products.append(Product(name, stage, *shape, kept, count))

    def identity(self, rows: int) -> Weights:
        """Return the identity by which an operand of so many rows is turned; the host writes it once."""
        side = min(rows, kinds.TRANSPOSED_ROWS)
        found = next((weights for weights in self.identities if weights.k == side), None)
        if found is None:
            found = place_identity(self.config, self.layout, f"identity{side}", WEIGHTS, side)
            self.identities.append(found)
        return found

    # -- layers ---------------------------------------------------------------------------------------------------

    def forward(self, layer: Layer, x: Value) -> tuple[Value, Back]:
        """Plan the forward pass of a layer; return its output and how to plan its backward pass."""
        match layer:
            case Sequential():
                return self._sequential(layer.layers, x)
            case Residual():
                return self._residual(layer, x)
            case Conv2d() | Linear():
                return self.product(layer, x, relu=False, mask=False)
            case Attention():
                return attention(self, layer, x)
            case _ if layer.children():
                raise ValueError(f"layer is {type(layer).__name__!r}; SAT knows no program of its parts")
            case _:
                return self._on_host(layer, x)

    def _sequential(self, layers: list[Layer], x: Value) -> tuple[Value, Back]:
        backs: list[Back] = []
        mask, at = False, 0
        while at < len(layers):
            layer = layers[at]
            if isinstance(layer, (Conv2d, Linear)):
                used, flat = absorbed(layers[at:], self.output_shape(layer, x))
                x, back = self.product(layer, x, relu=used > 0, mask=mask)
                backs.append(back)
                if flat:
                    x, back = self._flattened(x)
                    backs.append(back)
                mask, at = used > 0, at + 1 + used
            else:
                x, back = self.forward(layer, x)
                backs.append(back)
                mask, at = False, at + 1

        def backward(dy: Value) -> Value | None:
            for back in reversed(backs):
                dx = back(dy)
                if dx is None:
                    return None
                dy = dx
            return dy

        return x, backward

    def _flattened(self, x: Value) -> tuple[Value, Back]:
        """Return a tensor of the machine seen with other rows, which holds as it lies in whole beats."""
        flat = _alias(x, (x.shape[0], int(np.prod(x.shape[1:]))))
        return flat, lambda dy: _alias(dy, x.shape)

    def _residual(self, layer: Residual, x: Value) -> tuple[Value, Back]:
        side, side_back = (x, None) if layer.shortcut is None else self.forward(layer.shortcut, x)
        body, body_back = self.forward(layer.body, x)
        y = Value(f"{body.name}.sum", body.shape)
        size = int(np.prod(y.shape))
        self.host(y.name, "Add", Stage.FF, (body, side), (y,), total, size)

        def backward(dy: Value) -> Value:
            second = dy if side_back is None else side_back(dy)
            first = body_back(dy)
            if first is None or second is None:
                raise ValueError(f"{body.name!r} begins a network and has a shortcut; SAT has no program for its input")
            dx = Value(f"{y.name}.dx", x.shape)
            self.host(dx.name, "Add", Stage.BP, (first, second), (dx,), total, int(np.prod(x.shape)))
            return dx

        return y, backward

    def _on_host(self, layer: Layer, x: Value) -> tuple[Value, Back]:
        integers, self._integers = self._integers, False
        kind = type(layer).__name__
        found = probe(layer, x.shape, integers=integers)
        name = getattr(layer, "name", f"{x.name}.{kind.lower()}")
        y = Value(f"{name}.y", found.shape)
        action = partial(call, layer.forward)
        self.host(name, kind, Stage.FF, (x,), (y,), action, found.forward)

        def backward(dy: Value) -> Value:
            dx = Value(f"{name}.dx", x.shape)
            self.host(name, kind, Stage.BP, (dy,), (dx,), partial(call, layer.backward), found.backward)
            return dx

        return y, backward

    def output_shape(self, layer: Conv2d | Linear, x: Value) -> tuple[int, ...]:
        """Return the shape of a product's result."""
        n = layer.weight.master.shape[1]
        if isinstance(layer, Linear):
            return (*x.shape[:-1], n)
        return (x.shape[0], *output_size(_conv(layer, x)), n)

    def product(self, layer: Conv2d | Linear, x: Value, *, relu: bool, mask: bool) -> tuple[Value, Back]:
        """Plan a weight layer. relu: its results pass a ReLU; mask: its input is the result of one."""
        conv = _conv(layer, x) if isinstance(layer, Conv2d) else None
        ff, bp = self._patterns(layer)
        (k, n), taps, side = layer.weight.master.shape, kinds.taps(conv), x
        channels = (k // taps, k // taps)
        if conv is not None and taps > 1:
            if layer.first and kinds.windows_by_host(conv):
                side, conv, taps, channels = self._windows(layer, x, conv), None, 1, (k, k)
            else:
                channels = (conv.channels_in, kinds.padded_channels(conv, ff, backward=not layer.first))
        name = layer.name
        check_update(name, taps * channels[1], n)
        weights = self.layout.weights(name, WEIGHTS, taps * channels[1], n, ff, bp, backward=not layer.first)
        y = self.made(f"{name}.y", self.output_shape(layer, x))
        plan = LayerPlan(name, layer, weights, taps, channels, *self._bias(layer))
        self.layers.append(plan)
        added = {"kind": Side.TILE32, "side": plan.bias} if plan.bias else {}
        code = kinds.forward(f"{name}.ff", conv, self.read(side), weights, self.read(y), Epilogue(relu=relu, **added))
        self.machine([code])
        self.record(name, Stage.FF, (y.matrix[0], k, n), ff)

        def backward(dy: Value) -> Value | None:
            dx = self._input_gradient(plan, conv, x, dy, mask=mask)
            gradient = kinds.weight_gradient(f"{name}.wu", conv, self.read(side), self.read(dy), weights)
            self.machine([gradient, *self._bias_gradient(plan, dy)])
            self.record(name, Stage.WU, (k, dy.matrix[0], n), DENSE)
            return dx

        return y, backward

    def _input_gradient(
        self, plan: LayerPlan, conv: ConvShape | None, x: Value, dy: Value, *, mask: bool
    ) -> Value | None:
        if plan.layer.first:
            return None
        dx = self.made(f"{plan.name}.dx", x.shape)
        epilogue = Epilogue(kind=Side.MASK, side=self.read(x)) if mask else Epilogue()
        w, rows = plan.weights, self.read(dy)
        self.machine(kinds.input_gradient(f"{plan.name}.bp", conv, rows, w, self.read(dx), epilogue))
        if conv is None:
            self.record(plan.name, Stage.BP, (rows.rows, w.n, w.k), w.bp)
            return dx
        for v in axis_segments(conv, 0):
            for h in axis_segments(conv, 1):
                shape = (conv.batch * v.positions * h.positions, len(v.taps) * len(h.taps) * w.n, conv.channels_in)
                self.record(plan.name, Stage.BP, shape, w.bp)
        return dx

    def _windows(self, layer: Conv2d | Linear, x: Value, conv: ConvShape) -> Value:
        """Return the windows of the first layer's input, laid out by the host."""
        k = layer.weight.master.shape[0]
        side = Value(f"{layer.name}.windows", (conv.batch * int(np.prod(output_size(conv))), k))
        self.host(side.name, "Im2col", Stage.FF, (x,), (side,), lambda _, found: [forward_windows(found[0], conv)], 0)
        return side

    def _bias(self, layer: Conv2d | Linear) -> tuple[Rows | None, Rows | None]:
        if layer.bias is None:
            return None, None
        n = layer.weight.master.shape[1]
        row = self.layout.rows(f"{layer.name}.bias", WEIGHTS, 1, n, 4)
        return row, self.layout.rows(f"{layer.name}.bias.gradient", WEIGHTS, 1, n)

    def _bias_gradient(self, plan: LayerPlan, dy: Value) -> list[ProductCode]:
        if plan.bias_gradient is None:
            return []
        rows = dy.matrix[0]
        if rows not in self.ones:
            self.ones[rows] = self.layout.rows(f"ones{rows}", WEIGHTS, 1, rows)
        return [kinds.bias_gradient(f"{plan.name}.bias.wu", self.ones[rows], self.read(dy), plan.bias_gradient)]

    def _patterns(self, layer: Conv2d | Linear) -> tuple[Pattern, Pattern]:
        method, pattern = self._method, self._method.pattern
        if not layer.weight.sparse or not isinstance(method, WeightMagnitude) or pattern is None:
            return DENSE, DENSE
        return pattern if method.forward else DENSE, pattern if method.backward else DENSE


def _alias(x: Value, shape: tuple[int, ...]) -> Value:
    rows = x.rows
    if rows is None:
        raise RuntimeError(f"tensor {x.name!r} is not in memory")
    value = Value(x.name, shape, x.bytes)
    value.rows = replace(rows, rows=value.matrix[0], columns=value.matrix[1])
    return value


def _conv(layer: Conv2d, x: Value) -> ConvShape:
    return replace(layer.shape, batch=x.shape[0], height=x.shape[1], width=x.shape[2])
