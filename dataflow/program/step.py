"""A network's training step as two machine programs: forward to the logits, then backward, gradients and updates.

The host lays out the input (windows of the first layer), reads the logits and writes their gradient; everything between
runs on SAT.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage, Tape
from nmsat.algorithms.core.windows import backward_taps, output_size
from nmsat.algorithms.layers.base import Sequential
from nmsat.algorithms.layers.pointwise import ReLU
from nmsat.algorithms.layers.pooling import Flatten
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.methods import WeightMagnitude
from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.isa import HALVES, Opcode, Side
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource, WindowSource
from nmsat.dataflow.program.assembler import Assembler, Code
from nmsat.dataflow.program.product import Epilogue, Phase, ProductCode, Sink, assemble
from nmsat.dataflow.program.tensors import DENSE, Image, Layout, Place, Rows, Weights
from nmsat.dataflow.program.weights import BackwardWeights, DenseSource, ForwardWeights
from nmsat.dataflow.program.windows import Images, Tap, Window, taps_of, window_of

if TYPE_CHECKING:
    from nmsat.algorithms.layers.base import Layer
    from nmsat.algorithms.methods import Method
    from nmsat.algorithms.training.optim import SgdConstants
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.assembler import Node
    from nmsat.dataflow.program.product import Cut

HOST: Final = 0
"""Region that the host writes and SAT reads: programs, input, gradient of the logits."""

WEIGHTS: Final = 1
"""Region of masters, momenta, copies, masks and gradients."""

STAGES: Final = {"ff": Stage.FF, "bp": Stage.BP, "wu": Stage.WU}
"""Last part of a product's name -> its stage."""

TENSORS: Final = 2
"""Region of activations, their gradients, and logits."""


@dataclass(frozen=True)
class LayerPlan:
    """One weight layer: its tensors and products.

    shape: None for a linear layer; x, y: input and output (after ReLU); dx, dy: their gradients (dx is None for the
    first layer); windows: the host lays out the windows of the input.
    """

    name: str
    shape: ConvShape | None
    weights: Weights
    x: Rows
    y: Rows
    dy: Rows
    dx: Rows | None
    relu: bool
    relu_below: bool
    windows: bool


@dataclass(frozen=True)
class StepPlan:
    """A step of training: layers from the input on, both programs, how each product was cut."""

    config: SatConfig
    batch: int
    layers: tuple[LayerPlan, ...]
    forward: Code
    backward: Code
    forward_at: Place
    backward_at: Place
    beats: tuple[int, ...]
    cuts: dict[str, Cut] = field(compare=False)

    @property
    def logits(self) -> Rows:
        """What the host reads after the forward program."""
        return self.layers[-1].y

    @property
    def seed(self) -> Rows:
        """The gradient of the logits, which the host writes before the backward program."""
        return self.layers[-1].dy

    def tape(self) -> Tape:
        """Return the products of a step, shapes only."""
        tape = Tape()
        for name, cut in self.cuts.items():
            code, layer = cut.code, name.rpartition(".")[0]
            kept = code.pattern if code.pattern and code.pattern.n < code.pattern.m else None
            tape.record(Product(layer, STAGES[name.rpartition(".")[2][:2]], code.m, code.k, code.n, kept))
        return tape

    def image(self) -> Image:
        """Return empty regions with the forward program in place."""
        image = Image(self.beats)
        write_code(image, self.forward_at, self.forward)
        return image

    def write_backward(self, image: Image, constants: dict[str, SgdConstants]) -> None:
        """Put the backward program into memory with the constants of the step; constants: by layer."""
        patched = [
            replace(instruction, fields={**instruction.fields, **update_constants(constants[label.split(".")[0]])})
            if instruction.opcode is Opcode.UPDATE
            else instruction
            for instruction, label in zip(self.backward.instructions, self.backward.labels, strict=True)
        ]
        write_code(image, self.backward_at, Code(tuple(patched), self.backward.labels))


def write_code(image: Image, place: Place, code: Code) -> None:
    """Put a program into memory."""
    data = np.frombuffer(code.encode(), np.uint8)
    start = place.at * 64
    image.regions[place.region][start : start + data.size] = data


def update_constants(constants: SgdConstants) -> dict[str, int]:
    """Return the constants of an UPDATE as its fields."""
    values = {"lr": constants.lr, "mu": constants.momentum, "wd": constants.weight_decay, "lam": constants.decay}
    bits = {name: int(np.float32(value).view(np.uint32)) for name, value in values.items()}
    return {**bits, "shift": constants.shift}


def plan_step(config: SatConfig, model: Layer, method: Method, input_shape: tuple[int, ...], batch: int) -> StepPlan:
    """Return the programs of a training step.

    model: `Sequential` of Conv2d and Linear without bias, ReLU, Flatten; input_shape: of one sample. Raises ValueError
    for anything else, for a method that prunes no weights by magnitude, and where a product does not fit the machine.
    """
    if not (method.name == "dense" or isinstance(method, WeightMagnitude)):
        raise ValueError(f"method is {method.name!r}; SAT runs dense, ste, sr-ste, sdwp and bdwp by itself")
    layout = Layout()
    layers = _Builder(layout, method, batch).layers(model, input_shape)
    forward, cuts = _forward(config, layers)
    backward, more = _backward(config, layers, method)
    places = [
        Place(name, HOST, layout.rows(name, HOST, len(code.instructions), HALVES).at, len(code.instructions))
        for name, code in (("forward", forward), ("backward", backward))
    ]
    return StepPlan(
        config, batch, tuple(layers), forward, backward, places[0], places[1], tuple(layout.beats), {**cuts, **more}
    )


class _Builder:
    """Walks through a model and places its tensors."""

    def __init__(self, layout: Layout, method: Method, batch: int) -> None:
        self._layout = layout
        self._method = method
        self._batch = batch

    def layers(self, model: Layer, shape: tuple[int, ...]) -> list[LayerPlan]:
        """Return the weight layers; shape: of one sample."""
        if not isinstance(model, Sequential):
            raise ValueError(f"model is {type(model).__name__!r}; SAT trains a Sequential")
        chain = [layer for layer in model.layers if not isinstance(layer, Flatten)]
        plans: list[LayerPlan] = []
        for layer, after in zip(chain, [*chain[1:], None], strict=True):
            if isinstance(layer, ReLU) and plans:
                continue
            if not isinstance(layer, (Conv2d, Linear)) or layer.bias is not None:
                raise ValueError(f"layer is {type(layer).__name__!r}; SAT trains Conv2d and Linear without bias, ReLU")
            plan, shape = self._layer(layer, shape, plans, relu=isinstance(after, ReLU))
            plans.append(plan)
        return plans

    def _layer(
        self, layer: Conv2d | Linear, shape: tuple[int, ...], before: list[LayerPlan], *, relu: bool
    ) -> tuple[LayerPlan, tuple[int, ...]]:
        first, last = not before, before[-1] if before else None
        k, n = layer.weight.master.shape
        ff, bp = self._patterns(layer)
        weights = self._layout.weights(layer.name, WEIGHTS, k, n, ff, bp, backward=not first)
        conv, windows = None, False
        if isinstance(layer, Conv2d):
            conv = replace(layer.shape, batch=self._batch, height=shape[0], width=shape[1])
            out = (*output_size(conv), n)
            windows = first
            rows, columns = self._batch * (out[0] * out[1] if first else shape[0] * shape[1]), k if first else shape[2]
        else:
            features = int(np.prod(shape))
            if features != shape[-1] and shape[-1] % HALVES:
                raise ValueError(f"{shape[-1]} channels are flattened; on SAT they must be a multiple of {HALVES}")
            rows, columns, out = self._batch, features, (n,)
        x = self._alias(last.y, rows, columns) if last else self._layout.rows("input", HOST, rows, columns)
        dx = self._alias(last.dy, rows, columns) if last else None
        y_rows = self._batch * int(np.prod(out[:-1]))
        y = self._layout.rows(f"{layer.name}.y", TENSORS, y_rows, n)
        dy = self._layout.rows(f"{layer.name}.dy", TENSORS, y_rows, n)
        below = last.relu if last else False
        return LayerPlan(layer.name, conv, weights, x, y, dy, dx, relu, below, windows), out

    def _patterns(self, layer: Conv2d | Linear) -> tuple[Pattern, Pattern]:
        method, pattern = self._method, self._method.pattern
        if not layer.weight.sparse or not isinstance(method, WeightMagnitude) or pattern is None:
            return DENSE, DENSE
        return pattern if method.forward else DENSE, pattern if method.backward else DENSE

    @staticmethod
    def _alias(tensor: Rows, rows: int, columns: int) -> Rows:
        """Return a tensor seen with other rows and columns."""
        return Rows(tensor.name, tensor.region, tensor.at, tensor.beats, rows, columns)


def _forward(config: SatConfig, layers: list[LayerPlan]) -> tuple[Code, dict[str, Cut]]:
    out, cuts = Assembler(config), {}
    for layer in layers:
        w, conv = layer.weights, layer.shape
        if conv is None or layer.windows:
            act = RowsSource(layer.x, layer.y.rows, w.k)
        else:
            act = WindowSource(layer.x, window_of(conv), taps_of(conv))
        sink = Sink(layer.y, Epilogue(relu=layer.relu))
        code = ProductCode(f"{layer.name}.ff", layer.y.rows, w.k, w.n, act, ForwardWeights(w), sink, w.ff)
        cuts[code.name] = assemble(out, code)
    return out.finish(), cuts


def _backward(config: SatConfig, layers: list[LayerPlan], method: Method) -> tuple[Code, dict[str, Cut]]:
    """Return products from the last layer on, dX before dW; updates behind the last gradient: a single infinite one
    suppresses all of them."""
    out, cuts = Assembler(config), {}
    for layer in reversed(layers):
        for code in (*_input_gradient(layer), _weight_gradient(layer)):
            cuts[code.name] = assemble(out, code)
    gradient = out.nodes[-1]
    for layer in reversed(layers):
        _update(out, layer, method, gradient)
    return out.finish(), cuts


def _input_gradient(layer: LayerPlan) -> list[ProductCode]:
    """Return dX = dY W^T, one product per stride phase."""
    if layer.dx is None:
        return []
    w, conv = layer.weights, layer.shape
    mask = Epilogue(kind=Side.MASK, side=layer.x) if layer.relu_below else Epilogue()
    if conv is None:
        act = RowsSource(layer.dy, layer.dy.rows, w.n)
        wgt = BackwardWeights(w, (0,), w.k)
        sink = Sink(layer.dx, mask)
        return [ProductCode(f"{layer.name}.bp", layer.dx.rows, w.n, w.k, act, wgt, sink, w.bp)]
    images, out_images = Images(conv.batch, conv.height, conv.width), Images(conv.batch, *output_size(conv))
    codes = []
    for rows in backward_taps(conv, 0):
        for columns in backward_taps(conv, 1):
            if not rows.taps or not columns.taps:
                raise ValueError(f"layer {layer.name!r}: inputs between the windows have no gradient; SAT writes none")
            size = (rows.length, columns.length)
            taps = tuple(Tap(p, q) for p in rows.offsets for q in columns.offsets)
            act = WindowSource(layer.dy, Window(out_images, size, (1, 1)), taps)
            kernel = tuple(p * conv.kernel[1] + q for p in rows.taps for q in columns.taps)
            wgt = BackwardWeights(w, kernel, conv.channels_in)
            sink = Sink(layer.dx, mask, Phase(images, (rows.phase, columns.phase), conv.stride))
            name = f"{layer.name}.bp{rows.phase}{columns.phase}"
            m, k = conv.batch * size[0] * size[1], len(taps) * w.n
            codes.append(ProductCode(name, m, k, conv.channels_in, act, wgt, sink, w.bp))
    return codes


def _weight_gradient(layer: LayerPlan) -> ProductCode:
    """Return dW = X^T dY."""
    w, conv = layer.weights, layer.shape
    reduction = layer.dy.rows
    if conv is None or layer.windows:
        act = ColumnsSource(layer.x, reduction)
    else:
        act = ColumnsSource(layer.x, reduction, window_of(conv), taps_of(conv))
    sink = Sink(w.gradient, Epilogue(watch=True))
    return ProductCode(f"{layer.name}.wu", w.k, reduction, w.n, act, DenseSource(layer.dy, reduction), sink)


def _update(out: Assembler, layer: LayerPlan, method: Method, after: Node) -> None:
    w = layer.weights
    sparse = (w.ff.n, w.ff.m) != (DENSE.n, DENSE.m)
    fields = {
        "k": w.k,
        "n": w.n,
        **codes(n=w.ff.n, m=w.ff.m, prefix="ff_"),
        **codes(n=w.bp.n, m=w.bp.m, prefix="bp_"),
        "use_bp": int(w.bp_place is not None),
        "use_mask": int(sparse and method.decay != 0),
        "region": w.master.region,
        "g_step": w.gradient.step,
        "w_at": w.master.at,
        "g_at": w.gradient.at,
        "mask_at": w.mask.at,
        "ff_at": w.ff_place.at,
        "bp_at": w.bp_place.at if w.bp_place else 0,
    }
    written = [w.master, w.ff_place, w.mask, *([w.bp_place] if w.bp_place else [])]
    reads = [w.gradient, w.master, w.mask]
    out.emit(Opcode.UPDATE, fields, f"{layer.name}.update", after=[after], reads=reads, writes=written)
