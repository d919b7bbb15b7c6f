"""Layers of networks cut to a few tiles: programs of the three stages for a machine of any size.

What random jobs (`tb.machine.jobs`) draw, these have for certain: `kinds_of` says which of it a program holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.tape import ConvShape, Pattern, Stage
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.contract.isa import Opcode, Side
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.assembler import Assembler, Code
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.product import Epilogue
from nmsat.dataflow.program.step import write_code
from nmsat.dataflow.program.tensors import DENSE, Image, Layout, Place, Rows, Weights
from nmsat.dataflow.program.update import emit_update
from nmsat.tb.machine.jobs import MachineJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.product import ProductCode


@dataclass(frozen=True)
class TileLayer:
    """A layer with weights, small enough for few tiles of the largest array.

    rows, channels: of the input where `conv` is None, a fully connected layer or a 1x1 convolution of stride 1;
    dataflow: of FF, where windows leave a choice; forward, backward: what is read beside the results of FF and of BP;
    relu: of FF.
    """

    name: str
    channels: tuple[int, int]
    rows: int = 0
    conv: ConvShape | None = None
    dataflow: str | None = None
    forward: Side = Side.NONE
    backward: Side = Side.NONE
    relu: bool = False

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows of input and output."""
        if self.conv is None:
            return self.rows, self.rows
        height, width = output_size(self.conv)
        return self.conv.batch * self.conv.height * self.conv.width, self.conv.batch * height * width

    @property
    def depth(self) -> int:
        """Rows of the weight matrix."""
        return kinds.taps(self.conv) * self.channels[0]


def _square(batch: int, side: int, channels: tuple[int, int], stride: int) -> ConvShape:
    return ConvShape(batch, side, side, *channels, (3, 3), (stride, stride), (1, 1), (1, 1))


LAYERS: Final = (
    TileLayer("3x3", (32, 64), conv=_square(6, 8, (32, 64), 1), forward=Side.TILE32, backward=Side.MASK, relu=True),
    TileLayer("3x3 of stride 2", (64, 64), conv=_square(8, 8, (64, 64), 2), backward=Side.TILE16),
    TileLayer("1x1", (64, 96), rows=256, dataflow="ws", forward=Side.TILE16, relu=True),
    TileLayer("fully connected", (256, 80), rows=96, dataflow="ws", forward=Side.TILE32),
)
"""Four kinds of layers, each with a part of what an epilogue can do."""

STAGES: Final = (Stage.FF, Stage.BP, Stage.WU)
SPARSE: Final = Pattern(2, 8)

CASES: Final = tuple(product(LAYERS, STAGES, (DENSE, SPARSE)))
"""Layer, stage, pattern of each program, in the order of their numbers."""


@dataclass
class _Draft:
    """Tensors are placed first and filled once the regions have their sizes."""

    rng: np.random.Generator
    layout: Layout = field(default_factory=lambda: Layout([0, 0, 0, 0]))
    fills: list[Callable[[Image], None]] = field(default_factory=list)

    def halves(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float16)

    def rows(self, name: str, region: int, rows: int, columns: int, size: int = 2) -> Rows:
        tensor = self.layout.rows(name, region, rows, columns, size)
        values = self.halves(rows, columns).astype(np.float16 if size == 2 else np.float32)
        self.fills.append(lambda image: image.write_rows(tensor, values))
        return tensor

    def weights(self, name: str, k: int, n: int, pattern: Pattern) -> Weights:
        """Place a weight matrix with both copies, masters and momenta."""
        weights = self.layout.weights(name, 2, k, n, pattern, pattern, backward=True)
        half, momentum = self.halves(k, n), self.rng.standard_normal((k, n)).astype(np.float32)

        def fill(image: Image) -> None:
            image.write_master(weights, half.astype(np.float32), momentum)
            image.write_copies(weights, *(pack(half, pattern.n, pattern.m, axis=axis) for axis in (0, 1)))

        self.fills.append(fill)
        return weights

    def epilogue(self, kind: Side, tensor: Rows, *, relu: bool = False) -> Epilogue:
        """Return the epilogue of results that go to `tensor`, with a tensor for what it reads."""
        if kind is Side.NONE:
            return Epilogue(relu=relu)
        rows, size = (1, 4) if kind is Side.TILE32 else (tensor.rows, 2)
        return Epilogue(relu=relu, kind=kind, side=self.rows("side", 1, rows, tensor.columns, size))


def layer_job(config: SatConfig, number: int) -> MachineJob:
    """Return the program of `CASES[number]` in its memory: the same operands on every machine.

    A program of WU ends with the UPDATE of the layer, both packed copies with it.
    """
    layer, stage, pattern = CASES[number]
    draft = _Draft(np.random.default_rng([20261, number]))
    out = Assembler(config)
    w = draft.weights("w", layer.depth, layer.channels[1], pattern)
    for code in _products(draft, layer, stage, w):
        assemble(out, code)
    if stage is Stage.WU:
        _update(out, w)
    code = out.finish()
    place = Place("program", 0, 0, len(code.instructions))
    image = Image([place.beats, *draft.layout.beats[1:]])
    for fill in draft.fills:
        fill(image)
    write_code(image, place, code)
    return MachineJob(number, f"{layer.name} {stage.name} {pattern.n}:{pattern.m}", image, code, place)


def _products(draft: _Draft, layer: TileLayer, stage: Stage, w: Weights) -> Iterable[ProductCode]:
    inputs, outputs = layer.pixels
    channels, columns = layer.channels
    x = draft.rows("x", 1, inputs, channels)
    y = draft.rows("y", 1, outputs, columns)
    if stage is Stage.WU:
        return [kinds.weight_gradient("wu", layer.conv, x, y, w)]
    if stage is Stage.FF:
        epilogue = draft.epilogue(layer.forward, y, relu=layer.relu)
        return [replace(kinds.forward("ff", layer.conv, x, w, y, epilogue), dataflow=layer.dataflow)]
    return kinds.input_gradient("bp", layer.conv, y, w, x, draft.epilogue(layer.backward, x))


def _update(out: Assembler, w: Weights) -> None:
    """Append the UPDATE: the term of SR-STE where the copy is sparse."""
    node = emit_update(out, "update", w, decays=True)
    constants = {"lr": 0.05, "mu": 0.9, "wd": 1e-4, "lam": 2e-4}
    node.fields |= {name: int(np.float32(value).view(np.uint32)) for name, value in constants.items()}
    node.fields["shift"] = 3


def kinds_of(code: Code) -> set[str]:
    """Return what of the machine a program uses, in words."""
    found: set[str] = set()
    for instruction in code.instructions:
        f = instruction.fields
        if instruction.opcode is Opcode.COMPUTE:
            found.add("WS" if f.get("ws", 0) else "OS")
        elif instruction.opcode is Opcode.LOAD_WGT:
            found.add("dense weights" if f.get("dense", 0) else "packed weights")
        elif instruction.opcode is Opcode.LOAD_ACT:
            found.add(f"activations, mode {f['mode']}{', staged' if f.get('staged') else ''}")
        elif instruction.opcode is Opcode.STORE:
            found |= {f"side {Side(f['side']).name}", *(["ReLU"] if f.get("relu", 0) else [])}
        elif instruction.opcode is Opcode.UPDATE:
            sparse = "sparse" if f.get("use_mask", 0) else "dense"
            found.add(f"UPDATE, {sparse}{' with W_bp' if f['use_bp'] else ''}")
        else:
            found.add(instruction.opcode.name)
    return found
