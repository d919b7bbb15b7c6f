"""Work of the host between the programs of a step: what it does, what it reads from memory and what it writes there."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Stage, Tape
from nmsat.algorithms.layers.base import Context, add
from nmsat.algorithms.layers.loss import softmax_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.layers.base import Layer
    from nmsat.dataflow.program.tensors import Image, Rows

    Action = Callable[["StepRun", list[NDArray]], list[NDArray]]
    Back = Callable[["Value"], "Value | None"]
    """Plans the backward pass of a layer: from the gradient of its output to that of its input, None if unused."""


UPDATE_OPERATIONS: Final = 8
"""Operations for each element that is updated, by SAT or by the host: the four multiplications and four additions of
docs/arithmetic.md, "Weight update". Scaling the gradient by a power of two is exact and counts as none."""


@dataclass(eq=False)
class Value:
    """A tensor of a step: its shape, its numbers' bytes, and its place once the machine reads or writes it."""

    name: str
    shape: tuple[int, ...]
    bytes: int = 2
    rows: Rows | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns."""
        return prod(self.shape[:-1]), self.shape[-1]


@dataclass
class StepRun:
    """One step as the host lives through it.

    x, labels: samples of the step; scale: the loss scale; loss: mean loss, known after the forward pass; values: what
    the host holds of this step's tensors.
    """

    ctx: Context
    x: NDArray
    labels: NDArray[np.int64]
    scale: float
    loss: float = float("nan")
    values: dict[Value, NDArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class HostOp:
    """One operation of the host. action: turns what it reads into what it writes, in the order of both."""

    name: str
    kind: str
    stage: Stage
    operations: int
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    action: Action = field(repr=False)


@dataclass(frozen=True, eq=False)
class HostTask:
    """Operations of the host that follow each other, between two programs.

    reads: tensors that it takes from memory (what it holds already is not read again); writes: tensors that the
    machine reads later.
    """

    ops: tuple[HostOp, ...]
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]

    @property
    def operations(self) -> int:
        """Scalar operations."""
        return sum(op.operations for op in self.ops)

    @property
    def bytes_read(self) -> int:
        """Bytes taken from memory."""
        return sum(prod(value.shape) * value.bytes for value in self.reads)

    @property
    def bytes_written(self) -> int:
        """Bytes put into memory."""
        return sum(prod(value.shape) * value.bytes for value in self.writes)

    def run(self, image: Image, step: StepRun) -> None:
        """Do the work on the memory of the machine."""
        for value in self.reads:
            step.values[value] = image.read_rows(_placed(value)).reshape(value.shape)
        for op in self.ops:
            found = op.action(step, [step.values[value] for value in op.reads])
            step.values.update(zip(op.writes, found, strict=True))
        for value in self.writes:
            image.write_rows(_placed(value), step.values[value].reshape(value.matrix))


def _placed(value: Value) -> Rows:
    if value.rows is None:
        raise RuntimeError(f"tensor {value.name!r} has no place in memory")
    return value.rows


@dataclass(frozen=True)
class Probe:
    """What a layer of the host makes of a shape: its output's shape, and operations forward and backward."""

    shape: tuple[int, ...]
    forward: int
    backward: int


def probe(layer: Layer, shape: tuple[int, ...], *, integers: bool) -> Probe:
    """Return what a layer does to an input of this shape, found by running a copy of it on zeros.

    Operations are those that the layer records, at least one for each number of the result.
    """
    copy, forward, backward = deepcopy(layer), Tape(), Tape()
    y = copy.forward(np.zeros(shape, np.int64 if integers else np.float16), Context(tape=forward))
    dx = copy.backward(np.zeros_like(y), Context(tape=backward))
    operations = [
        max(sum(work.operations for work in tape.host), made.size) for tape, made in ((forward, y), (backward, dx))
    ]
    return Probe(y.shape, operations[0], operations[1])


def task_of(ops: list[HostOp], held: set[Value]) -> HostTask:
    """Return operations that follow each other as one task; held: what the host has seen of the step, which grows."""
    written = {value for op in ops for value in op.writes}
    wanted = [value for op in ops for value in op.reads if value not in held and value not in written]
    held |= {*written, *wanted}
    return HostTask(tuple(ops), tuple(dict.fromkeys(wanted)), tuple(v for op in ops for v in op.writes if v.rows))


def call(function: Callable[[NDArray, Context], NDArray], run: StepRun, found: list[NDArray]) -> list[NDArray]:
    """Action of a layer: `function` is its forward or backward pass, of one tensor to one."""
    return [function(found[0], run.ctx)]


def total(run: StepRun, found: list[NDArray]) -> list[NDArray]:
    """Action of a residual connection: the sum of two tensors of one shape."""
    return [add(found[0], found[1], run.ctx)]


def loss(run: StepRun, found: list[NDArray]) -> list[NDArray]:
    """Action of the loss: from logits [samples, ..., classes] to their scaled gradient; the mean loss goes to `run`."""
    logits = found[0]
    rows = logits.reshape(len(run.labels), -1)
    run.loss, dy = softmax_cross_entropy(rows, run.labels, run.ctx.arithmetic, run.scale)
    return [dy.reshape(logits.shape)]
