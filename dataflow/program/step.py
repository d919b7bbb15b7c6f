"""A network's training step: programs of the machine, and what the host does between them.

Products, their biases and ReLUs, gradients and the updates of weight matrices run on SAT. The host does the rest:
normalisation, pooling, additions of branches, softmax, loss, updates of biases and normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from nmsat.algorithms.core.nm import pack_kept
from nmsat.algorithms.core.tape import Tape
from nmsat.algorithms.methods import WeightMagnitude
from nmsat.dataflow.contract.isa import HALVES, LANES, Opcode
from nmsat.dataflow.contract.links import FILLER_PAIR
from nmsat.dataflow.program.assembler import Assembler, Code
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.graph import Codes, Planner
from nmsat.dataflow.program.host import HostTask, Value, tasks
from nmsat.dataflow.program.layer_plan import HOST
from nmsat.dataflow.program.tensors import Image, Layout, Place
from nmsat.dataflow.program.update import emit_update

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nmsat.algorithms.core.tape import Product
    from nmsat.algorithms.layers.base import Layer
    from nmsat.algorithms.layers.parameter import Parameter
    from nmsat.algorithms.methods import Method
    from nmsat.algorithms.training.optim import SgdConstants
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.layer_plan import LayerPlan
    from nmsat.dataflow.program.product import Cut, ProductCode
    from nmsat.dataflow.program.tensors import Rows, Weights


@dataclass(frozen=True, eq=False)
class Program:
    """A program of a step: where it lies, and how its products were cut, by name."""

    name: str
    code: Code
    place: Place
    cuts: dict[str, Cut] = field(repr=False)


StepPart: TypeAlias = "Program | HostTask"


@dataclass(frozen=True, eq=False)
class StepPlan:
    """A step of training: its parts in order, ending with the program that updates the weights.

    layers: weight layers in the order of the forward pass; update: the program with the updates; alone: it holds
    nothing else, and the host starts it only if no gradient was infinite or NaN (otherwise SAT suppresses them); host:
    parameters that the host updates; products: as NumPy counts them; beats: of each region.
    """

    config: SatConfig
    batch: int
    layers: tuple[LayerPlan, ...]
    parts: tuple[StepPart, ...]
    update: Program
    alone: bool
    host: tuple[Parameter, ...]
    logits: Value
    products: tuple[Product, ...]
    beats: tuple[int, ...]
    constants: _Constants

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs in order, that of the updates last."""
        return tuple(part for part in self.parts if isinstance(part, Program))

    @property
    def tasks(self) -> tuple[HostTask, ...]:
        """What the host does before and between them."""
        return tuple(part for part in self.parts if isinstance(part, HostTask))

    @property
    def cuts(self) -> dict[str, Cut]:
        """How each product was cut."""
        return {name: cut for program in self.programs for name, cut in program.cuts.items()}

    def tape(self) -> Tape:
        """Return the products of a step, shapes only."""
        tape = Tape()
        for product in self.products:
            tape.record(product)
        return tape

    def image(self) -> Image:
        """Return empty regions with all programs in place, and what stays the same in every step."""
        image = Image(self.beats)
        for program in self.programs:
            write_code(image, program.place, program.code)
        self.constants.write(image)
        return image

    def write_update(self, image: Image, constants: dict[str, SgdConstants]) -> None:
        """Put the constants of the step into the program that updates; constants: by layer."""
        code = self.update.code
        patched = [
            replace(instruction, fields={**instruction.fields, **update_constants(constants[label_layer(label)])})
            if instruction.opcode is Opcode.UPDATE
            else instruction
            for instruction, label in zip(code.instructions, code.labels, strict=True)
        ]
        write_code(image, self.update.place, Code(tuple(patched), code.labels))


@dataclass(frozen=True)
class _Constants:
    """What the host writes once: fillers, rows of ones, identities."""

    fillers: Place
    ones: tuple[Rows, ...]
    identities: tuple[Weights, ...]

    def write(self, image: Image) -> None:
        words = image.regions[self.fillers.region].view(np.uint32)
        words[self.fillers.at * LANES : (self.fillers.at + 1) * LANES] = FILLER_PAIR
        for row in self.ones:
            image.write_rows(row, np.ones((1, row.columns), np.float16))
        for weights in self.identities:
            one = np.eye(weights.k, dtype=np.float16)
            image.write_copies(weights, pack_kept(one, one > 0, weights.ff.n, weights.ff.m), None)


def write_code(image: Image, place: Place, code: Code) -> None:
    """Put a program into memory."""
    data = np.frombuffer(code.encode(), np.uint8)
    start = place.at * 64
    image.regions[place.region][start : start + data.size] = data


def label_layer(label: str) -> str:
    """Return the layer of an UPDATE from its label."""
    return label.removesuffix(".update")


def update_constants(constants: SgdConstants) -> dict[str, int]:
    """Return the constants of an UPDATE as its fields."""
    values = {"lr": constants.lr, "mu": constants.momentum, "wd": constants.weight_decay, "lam": constants.decay}
    bits = {name: int(np.float32(value).view(np.uint32)) for name, value in values.items()}
    return {**bits, "shift": constants.shift}


def plan_step(
    config: SatConfig,
    model: Layer,
    method: Method,
    input_shape: tuple[int, ...],
    batch: int,
    *,
    integers: bool = False,
) -> StepPlan:
    """Return the programs of a training step and what the host does between them.

    model: of the layers in `algorithms.layers`; input_shape: of one sample; integers: samples are tokens. Raises
    ValueError for a method that prunes no weights by magnitude, and where a product does not fit the machine.
    """
    if not (method.name == "dense" or isinstance(method, WeightMagnitude)):
        raise ValueError(f"method is {method.name!r}; SAT runs dense, ste, sr-ste, sdwp and bdwp by itself")
    planner = Planner(config, method)
    logits = planner.step(model, Value("input", (batch, *input_shape)), integers=integers)
    weights = {id(plan.layer.weight) for plan in planner.layers}
    host = tuple(parameter for parameter in model.parameters() if id(parameter) not in weights)
    parts = planner.parts
    loss = next(at for at, part in enumerate(parts) if isinstance(part, list) and part[-1].name == "loss")
    behind = [part for part in parts[loss + 1 :] if isinstance(part, Codes)]
    # Where one program holds all gradients, SAT itself suppresses the updates behind an infinite one.
    alone = bool(host) or len(behind) != 1 or parts[-1] is not behind[0]
    names = _names(parts, loss)
    out: list[StepPart] = []
    held: set[Value] = set()
    for part, name in zip(parts, names, strict=True):
        if isinstance(part, Codes):
            last = part is parts[-1] and not alone
            out.append(_program(config, planner.layout, name, part.codes, planner.layers if last else (), method))
        else:
            out.append(tasks(part, held))
    if alone:
        out.append(_program(config, planner.layout, "update", (), planner.layers, method))
    update = out[-1]
    assert isinstance(update, Program)
    constants = _Constants(planner.fillers, tuple(planner.ones.values()), tuple(planner.identities))
    layers, beats = tuple(planner.layers), tuple(planner.layout.beats)
    products = tuple(planner.products)
    return StepPlan(config, batch, layers, tuple(out), update, alone, host, logits, products, beats, constants)


def _names(parts: list[Codes | list], loss: int) -> list[str]:
    """Return the names of programs: forward and backward, with a number where there are several."""
    sides = ["forward" if at < loss else "backward" for at in range(len(parts))]
    programs = [isinstance(part, Codes) for part in parts]
    out = []
    for at, side in enumerate(sides):
        many = sum(is_program for other, is_program in zip(sides, programs, strict=True) if other == side) > 1
        number = sum(is_program for other, is_program in zip(sides[:at], programs, strict=False) if other == side)
        out.append(f"{side}{number + 1}" if many else side)
    return out


def _program(
    config: SatConfig,
    layout: Layout,
    name: str,
    codes: Iterable[ProductCode],
    updated: Iterable[LayerPlan],
    method: Method,
) -> Program:
    """Return a program of products, and of updates behind the last of them."""
    out, cuts = Assembler(config), {}
    for code in codes:
        cuts[code.name] = assemble(out, code)
    after = out.nodes[-1:]
    for layer in reversed([*updated]):
        # It waits for the last gradient: a single infinite one suppresses all updates.
        emit_update(out, f"{layer.name}.update", layer.weights, decays=method.decay != 0, after=after)
    code = out.finish()
    beats = len(code.instructions)
    return Program(name, code, Place(name, HOST, layout.rows(name, HOST, beats, HALVES).at, beats), cuts)
