"""Random programs for the whole machine: products of every kind, epilogues, updates, chained through memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.tape import ConvShape, Pattern
from nmsat.algorithms.core.windows import backward_taps, output_size
from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.isa import Opcode, Side
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource, WindowSource
from nmsat.dataflow.program.assembler import Assembler, Code
from nmsat.dataflow.program.constants import place_identity, write_identity
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.product import Epilogue, Phase, ProductCode, Sink, cuts
from nmsat.dataflow.program.step import write_code
from nmsat.dataflow.program.tensors import DENSE, Image, Layout, Place, Rows, Weights
from nmsat.dataflow.program.update import update_places
from nmsat.dataflow.program.weights import BackwardWeights, DenseSource, ForwardWeights
from nmsat.dataflow.program.windows import Images, Tap, Window, taps_of, window_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.dataflow.contract.config import SatConfig

PATTERNS: Final = ((1, 2), (2, 4), (1, 4), (2, 8), (4, 8), (3, 8), (1, 8), (2, 16), (5, 16), (8, 16), (1, 16))
"""Patterns of random jobs beside dense ones."""


@dataclass(frozen=True)
class MachineJob:
    """A program, the memory that it starts from, and what it is for people.

    image: regions, the program in region 0, which SAT may not write; place: of the program.
    """

    seed: int
    what: str
    image: Image
    code: Code
    place: Place


@dataclass
class _Draft:
    """A job in the making: tensors are placed first and filled once the regions have their sizes."""

    config: SatConfig
    rng: np.random.Generator
    layout: Layout
    codes: list[ProductCode] = field(default_factory=list)
    updates: list[tuple[Weights, dict[str, int]]] = field(default_factory=list)
    fills: list[Callable[[Image], None]] = field(default_factory=list)
    what: list[str] = field(default_factory=list)

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.codes) + len(self.updates)}"

    def halves(self, *shape: int) -> np.ndarray:
        """Return numbers whose products and sums meet every kind of rounding, now and then infinities and NaN."""
        scale = 2.0 ** self.rng.integers(-12, 3)
        values = (self.rng.standard_normal(shape) * scale).astype(np.float16)
        if self.rng.random() < 0.05:
            values[self.rng.random(shape) < 0.01] = self.rng.choice(np.array([np.inf, -np.inf, np.nan, 0], np.float16))
        return values

    def rows(self, name: str, rows: int, columns: int, size: int = 2) -> Rows:
        """Place a tensor with random content."""
        tensor = self.layout.rows(name, self.whole(1, 2), rows, columns, size)
        values = self.halves(rows, columns)
        self.fills.append(lambda image: image.write_rows(tensor, values if size == 2 else values.astype(np.float32)))
        return tensor

    def weights(self, name: str, k: int, n: int, pattern: Pattern) -> Weights:
        """Place a weight matrix with both copies."""
        weights = self.layout.weights(name, self.whole(1, 2), k, n, pattern, pattern, backward=True)
        half, v = self.halves(k, n), self.rng.standard_normal((k, n)).astype(np.float32)
        gradient = self.halves(k, n)

        def fill(image: Image) -> None:
            image.write_master(weights, half.astype(np.float32), v)
            packs = (pack(half, pattern.n, pattern.m), pack(half, pattern.n, pattern.m, axis=1))
            image.write_copies(weights, *packs)
            image.write_rows(weights.gradient, gradient)

        self.fills.append(fill)
        return weights

    def pattern(self) -> Pattern:
        return DENSE if self.rng.random() < 0.3 else Pattern(*PATTERNS[self.whole(0, len(PATTERNS) - 1)])

    def epilogue(self, rows: int, columns: int, name: str) -> Epilogue:
        kind = Side(self.whole(0, 3))
        to_half, relu, watch = (bool(self.rng.random() < share) for share in (0.8, 0.4, 0.3))
        if kind is Side.NONE:
            return Epilogue(to_half, relu, watch)
        side = (
            self.rows(f"{name}.bias", 1, columns, 4)
            if kind is Side.TILE32
            else self.rows(f"{name}.side", rows, columns)
        )
        if not to_half and kind is not Side.TILE32:
            to_half = True  # the second operand lies beside binary16 results
        return Epilogue(to_half, relu, watch, kind, side)

    def add(self, name: str, shape: tuple[int, int, int], act, wgt, sink: Sink, pattern: Pattern | None) -> bool:
        """Add a product in one of its mappings; False if the machine has none."""
        code = ProductCode(name, *shape, act, wgt, sink, pattern)
        try:
            found = cuts(self.config, code)
        except ValueError:
            return False
        mapping = found[self.whole(0, len(found) - 1)].mapping
        self.codes.append(ProductCode(name, *shape, act, wgt, sink, pattern, None, mapping))
        self.what.append(f"{name} {shape[0]}x{shape[1]}x{shape[2]} {pattern or 'dense'} {mapping.name} a={mapping.a}")
        return True

    def add_code(self, code: ProductCode) -> bool:
        """The same for a product that is whole but for its mapping."""
        return self.add(code.name, (code.m, code.k, code.n), code.act, code.wgt, code.sink, code.pattern)


def random_job(config: SatConfig, seed: int) -> MachineJob:
    """Return the job of a seed: the same on every machine."""
    draft = _drafted(config, seed)
    out = Assembler(config)
    for code in draft.codes:
        assemble(out, code)
    # an infinite result that is watched suppresses every update, so no update starts before the last of them
    watched = [node for node in out.nodes if node.fields.get("watch")]
    for weights, fields in draft.updates:
        out.emit(Opcode.UPDATE, fields, weights.name, after=watched[-1:])
    code = out.finish()
    # Only what the program needs is open, so that one beat too many is noticed.
    place = Place("program", 0, draft.whole(0, 3), len(code.instructions))
    beats = list(draft.layout.beats)
    beats[0] = max(beats[0], place.at + place.beats)
    image = Image(beats)
    for fill in draft.fills:
        fill(image)
    write_code(image, place, code)
    return MachineJob(seed, "; ".join(draft.what), image, code, place)


def random_products(config: SatConfig, seed: int) -> list[ProductCode]:
    """Return the products of the job of a seed, each with one of its mappings."""
    return _drafted(config, seed).codes


def _drafted(config: SatConfig, seed: int) -> _Draft:
    rng = np.random.default_rng([20260, seed])
    draft = _Draft(config, rng, Layout([0, *(int(b) * 64 for b in rng.integers(0, 4, 2)), 0]))
    while not draft.what:
        for _ in range(draft.whole(1, 2)):
            KINDS[draft.whole(0, len(KINDS) - 1)](draft)
    return draft


def _linear(d: _Draft) -> None:
    m, k, n = d.whole(1, 70), d.whole(1, 100), d.whole(1, 70)
    name, pattern = d.name("ff"), d.pattern()
    x, w = d.rows(f"{name}.x", m, k), d.weights(f"{name}.w", k, n, pattern)
    e = d.epilogue(m, n, name)
    y = d.rows(f"{name}.y", m, n, 2 if e.to_half else 4)
    d.add(name, (m, k, n), RowsSource(x, m, k), ForwardWeights(w), Sink(y, e), pattern)


def _chain(d: _Draft) -> None:
    """Two products, the second reads what the first wrote."""
    m, k, middle, n = d.whole(1, 40), d.whole(1, 60), d.whole(1, 40), d.whole(1, 40)
    name, pattern = d.name("chain"), d.pattern()
    x, y, z = d.rows(f"{name}.x", m, k), d.rows(f"{name}.y", m, middle), d.rows(f"{name}.z", m, n)
    first, second = d.weights(f"{name}.w", k, middle, pattern), d.weights(f"{name}.v", middle, n, pattern)
    sink = Sink(y, Epilogue(relu=True))
    if d.add(f"{name}.a", (m, k, middle), RowsSource(x, m, k), ForwardWeights(first), sink, pattern):
        d.add(f"{name}.b", (m, middle, n), RowsSource(y, m, middle), ForwardWeights(second), Sink(z), pattern)


def _transposed(d: _Draft) -> None:
    rows, m, n = d.whole(1, 70), d.whole(1, 70), d.whole(1, 70)
    name = d.name("wu")
    x, dy = d.rows(f"{name}.x", rows, m), d.rows(f"{name}.dy", rows, n)
    e = d.epilogue(m, n, name)
    dw = d.rows(f"{name}.dw", m, n, 2 if e.to_half else 4)
    d.add(name, (m, rows, n), ColumnsSource(x, rows), DenseSource(dy, rows), Sink(dw, e), None)


def _long(d: _Draft) -> None:
    """A reduction over so many rows that a small machine takes it in several commands."""
    rows, m, n = d.whole(200, 700), d.whole(1, 20), d.whole(1, 20)
    name = d.name("long")
    x, dy, dw = d.rows(f"{name}.x", rows, m), d.rows(f"{name}.dy", rows, n), d.rows(f"{name}.dw", m, n)
    d.add(name, (m, rows, n), ColumnsSource(x, rows), DenseSource(dy, rows), Sink(dw), None)


def _conv(d: _Draft, channels: tuple[int, ...], outputs: tuple[int, ...]) -> ConvShape:
    kernel, padding = d.whole(1, 3), d.whole(0, 1)
    size = d.whole(max(1, kernel - 2 * padding), 7), d.whole(max(1, kernel - 2 * padding), 7)
    c_in, c_out = (int(d.rng.choice(np.array(choice))) for choice in (channels, outputs))
    stride = d.whole(1, 2), d.whole(1, 2)
    kernels, paddings = (kernel, kernel), (padding, padding)
    return ConvShape(d.whole(1, 3), *size, c_in, c_out, kernels, stride, paddings, (1, 1))


def _pixels(conv: ConvShape) -> tuple[int, int]:
    """Return pixels of input and output."""
    height, width = output_size(conv)
    return conv.batch * conv.height * conv.width, conv.batch * height * width


def _convolution(d: _Draft) -> None:
    conv = _conv(d, (2, 4, 8, 16, 32, 40), (1, 8, 20, 33))
    name, pattern = d.name("conv"), d.pattern()
    inputs, outputs = _pixels(conv)
    k = conv.kernel[0] * conv.kernel[1] * conv.channels_in
    x, w = d.rows(f"{name}.x", inputs, conv.channels_in), d.weights(f"{name}.w", k, conv.channels_out, pattern)
    e = d.epilogue(outputs, conv.channels_out, name)
    y = d.rows(f"{name}.y", outputs, conv.channels_out, 2 if e.to_half else 4)
    act = WindowSource(x, window_of(conv), taps_of(conv))
    d.add(name, (outputs, k, conv.channels_out), act, ForwardWeights(w), Sink(y, e), pattern)


def _backward(d: _Draft) -> None:
    """One stride phase of dX."""
    conv = _conv(d, (16, 32), (16, 32))
    name, pattern = d.name("bp"), d.pattern()
    inputs, outputs = _pixels(conv)
    k = conv.kernel[0] * conv.kernel[1] * conv.channels_in
    dy, w = d.rows(f"{name}.dy", outputs, conv.channels_out), d.weights(f"{name}.w", k, conv.channels_out, pattern)
    dx = d.rows(f"{name}.dx", inputs, conv.channels_in)
    pairs = [(r, c) for r in backward_taps(conv, 0) for c in backward_taps(conv, 1) if r.taps and c.taps]
    if not pairs:
        return
    rows, columns = pairs[d.whole(0, len(pairs) - 1)]
    size = (rows.length, columns.length)
    taps = tuple(Tap(p, q) for p in rows.offsets for q in columns.offsets)
    act = WindowSource(dy, Window(Images(conv.batch, *output_size(conv)), size, (1, 1)), taps)
    kernel = tuple(p * conv.kernel[1] + q for p in rows.taps for q in columns.taps)
    images = Images(conv.batch, conv.height, conv.width)
    e = d.epilogue(inputs, conv.channels_in, name)
    e = Epilogue(relu=e.relu, watch=e.watch, kind=e.kind, side=e.side)
    sink = Sink(dx, e, Phase(images, (rows.phase, columns.phase), conv.stride))
    shape = (conv.batch * size[0] * size[1], len(taps) * conv.channels_out, conv.channels_in)
    d.add(name, shape, act, BackwardWeights(w, kernel, conv.channels_in), sink, pattern)


def _gradient(d: _Draft) -> None:
    """The weight gradient of a convolution."""
    conv = _conv(d, (8, 16, 32, 40), (1, 8, 20, 33))
    name = d.name("cwu")
    inputs, outputs = _pixels(conv)
    k = conv.kernel[0] * conv.kernel[1] * conv.channels_in
    x, dy = d.rows(f"{name}.x", inputs, conv.channels_in), d.rows(f"{name}.dy", outputs, conv.channels_out)
    dw = d.rows(f"{name}.dw", k, conv.channels_out)
    act = ColumnsSource(x, outputs, window_of(conv), taps_of(conv))
    sink = Sink(dw, Epilogue(watch=bool(d.rng.random() < 0.5)))
    d.add(name, (k, outputs, conv.channels_out), act, DenseSource(dy, outputs), sink, None)


def _all_gradient(d: _Draft) -> None:
    """All of dX of a strided convolution; nothing is written where no gradient reaches."""
    kernel, stride = (d.whole(1, 2), d.whole(1, 2)), (d.whole(1, 3), d.whole(1, 3))
    conv = ConvShape(d.whole(1, 2), d.whole(3, 7), d.whole(3, 7), 16, int(d.rng.choice([10, 16, 32])), kernel, stride)
    name, pattern = d.name("dx"), d.pattern()
    inputs, outputs = _pixels(conv)
    k = conv.kernel[0] * conv.kernel[1] * conv.channels_in
    dy, w = d.rows(f"{name}.dy", outputs, conv.channels_out), d.weights(f"{name}.w", k, conv.channels_out, pattern)
    dx = d.rows(f"{name}.dx", inputs, conv.channels_in)
    for code in kinds.input_gradient(name, conv, dy, w, dx, Epilogue(watch=bool(d.rng.random() < 0.3))):
        d.add_code(code)


def _turned(d: _Draft) -> None:
    """Two activations, A B^T: B is turned by an identity that lacks all but its ones."""
    m, k, n = d.whole(1, 40), d.whole(1, 40), d.whole(1, 70)
    name = d.name("turned")
    a, b, y = d.rows(f"{name}.a", m, k), d.rows(f"{name}.b", n, k), d.rows(f"{name}.y", m, n, 4)
    identity = place_identity(d.config, d.layout, f"{name}.identity", 1, n)
    d.fills.append(lambda image: write_identity(image, identity))
    turning = kinds.Turning(d.rows(f"{name}.room", k, n), identity)
    for code in kinds.activation_product(name, kinds.Matrix(a), kinds.Matrix(b, transposed=True), y, turning):
        d.add_code(code)


def _update(d: _Draft) -> None:
    name, pattern, other = d.name("update"), d.pattern(), d.pattern()
    k, n = d.whole(1, 70), d.whole(1, 40)
    w = d.weights(name, k, n, pattern)
    layout = d.layout.weights(f"{name}.other", w.master.region, k, n, pattern, other, backward=True)
    backward = layout.bp_place if d.rng.random() < 0.8 else None
    constants = d.rng.standard_normal(4).astype(np.float32) * np.float32(0.1)
    lr, mu, wd, lam = (int(c.view(np.uint32)) for c in constants)
    fields = {
        "k": k,
        "n": n,
        "shift": d.whole(0, 24),
        **codes(n=pattern.n, m=pattern.m, prefix="ff_"),
        **codes(n=other.n, m=other.m, prefix="bp_"),
        "use_mask": int(d.rng.random() < 0.5),
        **update_places(w, backward),
        "lr": lr,
        "mu": mu,
        "wd": wd,
        "lam": lam,
    }
    d.updates.append((w, fields))
    d.what.append(f"{name} {k}x{n} {pattern} {other if backward else ''}")


KINDS: Final[tuple[Callable[[_Draft], None], ...]] = (
    _linear,
    _linear,
    _chain,
    _transposed,
    _convolution,
    _backward,
    _gradient,
    _update,
    _long,
    _all_gradient,
    _turned,
)
"""What random jobs are made of."""
