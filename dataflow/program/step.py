"""A network's training step: programs of the machine, and what the host does between them.

Products, their biases and ReLUs, gradients and the updates of weight matrices run on SAT. The host does the rest:
normalisation, pooling, additions of branches, softmax, loss, updates of biases and normalisation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from nmsat.algorithms.core.tape import Tape
from nmsat.algorithms.methods import WeightMagnitude
from nmsat.dataflow.contract.isa import HALVES, Opcode
from nmsat.dataflow.program.assembler import Assembler, Code
from nmsat.dataflow.program.bounds import NO_BOUNDS
from nmsat.dataflow.program.constants import Constants
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.graph import Codes, Planner
from nmsat.dataflow.program.host import HostTask, Value, task_of
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
    from nmsat.dataflow.program.bounds import Bounds
    from nmsat.dataflow.program.host import HostOp
    from nmsat.dataflow.program.layer_plan import LayerPlan
    from nmsat.dataflow.program.product import Cut, ProductCode


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
    layers: tuple[LayerPlan, ...]
    parts: tuple[StepPart, ...]
    update: Program
    alone: bool
    host: tuple[Parameter, ...]
    logits: Value
    products: tuple[Product, ...]
    beats: tuple[int, ...]
    constants: Constants

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
    bounds: Bounds = NO_BOUNDS,
) -> StepPlan:
    """Return the programs of a training step and what the host does between them.

    model: of the layers in `algorithms.layers`; input_shape: of one sample; integers: samples are tokens. Raises
    ValueError for a method that prunes no weights by magnitude, where a product does not fit the machine, and beyond
    the bounds.
    """
    if not (method.name == "dense" or isinstance(method, WeightMagnitude)):
        raise ValueError(f"method is {method.name!r}; SAT runs dense, ste, sr-ste, sdwp and bdwp by itself")
    if isinstance(method, WeightMagnitude) and method.own:
        raise ValueError("patterns of single layers are given; programs of whole runs have one: leave patterns out")
    planner = Planner(config, method, bounds)
    logits = planner.step(model, Value("input", (batch, *input_shape)), integers=integers)
    weights = {id(plan.layer.weight) for plan in planner.layers}
    host = tuple(parameter for parameter in model.parameters() if id(parameter) not in weights)
    parts = planner.parts
    loss = next(at for at, part in enumerate(parts) if isinstance(part, list) and part[-1].name == "loss")
    behind = [part for part in parts[loss + 1 :] if isinstance(part, Codes)]
    # Where one program holds all gradients, SAT itself suppresses the updates behind an infinite one.
    alone = bool(host) or len(behind) != 1 or parts[-1] is not behind[0]
    names = iter(_names(parts, loss))
    programs = _Programs(config, planner.layout, method, bounds)
    out: list[StepPart] = []
    held: set[Value] = set()
    for part in parts:
        if isinstance(part, Codes):
            last = part is parts[-1] and not alone
            out.append(programs.assemble(next(names), part.codes, planner.layers if last else ()))
        else:
            out.append(task_of(part, held))
    if alone:
        out.append(programs.assemble("update", (), planner.layers))
    update = out[-1]
    assert isinstance(update, Program)
    bounds.check_beats(planner.layout.beats)
    constants = Constants(tuple(planner.ones.values()), tuple(planner.identities))
    layers, beats = tuple(planner.layers), tuple(planner.layout.beats)
    products = tuple(planner.products)
    return StepPlan(config, layers, tuple(out), update, alone, host, logits, products, beats, constants)


def _names(parts: list[Codes | list[HostOp]], loss: int) -> list[str]:
    """Return the names of the programs among the parts: forward or backward, numbered where there are several."""
    sides = ["forward" if at < loss else "backward" for at, part in enumerate(parts) if isinstance(part, Codes)]
    many, seen, out = Counter(sides), Counter[str](), []
    for side in sides:
        seen[side] += 1
        out.append(f"{side}{seen[side]}" if many[side] > 1 else side)
    return out


@dataclass
class _Programs:
    """Assembles the programs of a step, one after the other. instructions: of those that are done."""

    config: SatConfig
    layout: Layout
    method: Method
    bounds: Bounds
    instructions: int = 0

    def assemble(self, name: str, codes: Iterable[ProductCode], updated: Iterable[LayerPlan]) -> Program:
        """Return a program of products, and of updates behind the last of them."""
        out, cuts = Assembler(self.config), {}
        for code in codes:
            cuts[code.name] = assemble(out, code)
            self.bounds.check_instructions(self.instructions + len(out.nodes))
        after = out.nodes[-1:]
        for layer in reversed([*updated]):
            # It waits for the last gradient: a single infinite one suppresses all updates.
            decays = self.method.decay != 0
            emit_update(out, f"{layer.name}.update", layer.weights, decays=decays, after=after)
        code = out.finish()
        beats = len(code.instructions)
        self.instructions += beats
        self.bounds.check_instructions(self.instructions)
        return Program(name, code, Place(name, HOST, self.layout.rows(name, HOST, beats, HALVES).at, beats), cuts)
