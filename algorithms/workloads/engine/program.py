"""A NumPy-style program that records its products as it runs, with values or with shapes alone.

The same code runs both ways. With values every tensor holds an array; with shapes alone it holds None and nothing of
its size is allocated. What depends on data (how many tokens an expert gets) passes through `Program.statistic`, which
measures with values and is told or assumes without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nmsat.algorithms.core.tape import HostWork, Pattern, Stage, Tape
from nmsat.algorithms.workloads.engine.hostcost import WORD_BYTES, cost
from nmsat.algorithms.workloads.engine.hostwork import Work
from nmsat.algorithms.workloads.engine.parameters import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    Gradients: TypeAlias = Sequence[NDArray | None]
    Backward: TypeAlias = Callable[[NDArray | None], Gradients]

T = TypeVar("T")


@dataclass(eq=False)
class Tensor:
    """A value of the program: its shape, and its array in a run with values.

    needs: whether a gradient flows into it; grad: that gradient after `Program.backward`; reached: whether one did.
    """

    program: Program
    shape: tuple[int, ...]
    data: NDArray | None
    needs: bool = False
    grad: NDArray | None = None
    reached: bool = False
    parents: tuple[Tensor, ...] = ()
    back: Backward | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def array(self) -> NDArray:
        """The values; RuntimeError in a run of shapes."""
        if self.data is None:
            raise RuntimeError("the tensor has no values in a run of shapes alone; use Program.statistic")
        return self.data

    def take_gradient(self, grad: NDArray | None) -> None:
        """Add to the gradient."""
        self.reached = True
        if grad is not None:
            self.grad = grad if self.grad is None else self.grad + grad


@dataclass(eq=False)
class Program:
    """One run.

    tape: where products and host work go; values: with values or with shapes alone; exact: multiply under the contract
    (binary16 operands, ordered binary32 sums) instead of in `dtype`; dtype: of host tensors and parameters; store:
    parameters by name, shared by the steps of a training run; profile: what was measured (values) or is given (shapes);
    rng: draws initial values; stage: stage of forward products.
    """

    tape: Tape = field(default_factory=Tape)
    values: bool = True
    exact: bool = False
    dtype: type[np.floating] = np.float32
    store: dict[str, Parameter] = field(default_factory=dict)
    profile: dict[str, object] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    stage: Stage = Stage.FF
    nodes: list[Tensor] = field(default_factory=list)
    leaves: list[tuple[Parameter, Tensor]] = field(default_factory=list)

    def input(self, shape: Sequence[int], data: NDArray | Callable[[], NDArray] | None = None) -> Tensor:
        """Return a tensor from outside. data: the array, or what makes it (with values only).

        Raises ValueError with values when there is no data or its shape differs.
        """
        shape = tuple(shape)
        if not self.values:
            return Tensor(self, shape, None)
        found = data() if callable(data) else data
        if found is None or found.shape != shape:
            raise ValueError(f"data of an input has shape {None if found is None else found.shape}; it must be {shape}")
        return Tensor(self, shape, found.astype(self.dtype) if found.dtype.kind == "f" else found)

    def weight(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        gain: float = 2.0,
        density: float = 1.0,
        ff: Pattern | None = None,
        bp: Pattern | None = None,
        frozen: bool = False,
        masked_gradient: bool = False,
        value: Callable[[], NDArray] | None = None,
    ) -> Parameter:
        """Return the matrix called `name`, made on first use: (k, n) or (copies, k, n).

        gain: variance times k of the normal initial values; value: initial values instead; density: share that an
        unstructured mask keeps, at random places; ff, bp: patterns, dropped where an axis holds no full group.
        """
        if name not in self.store:
            k, n = shape[-2:]
            ff = ff if ff is not None and ff.n < ff.m <= k else None
            bp = bp if bp is not None and bp.n < bp.m <= n else None
            found = Parameter(name, shape, None, None, 0, ff, bp, frozen, masked_gradient)
            found.nonzeros = max(1, round(density * found.size))
            if self.values:
                found.value = self._initial(shape, gain) if value is None else value().astype(self.dtype)
                if found.nonzeros < found.size:
                    found.mask(_random_mask(self.rng, shape, found.nonzeros))
            self.store[name] = found
        return self.store[name]

    def vector(self, name: str, shape: Sequence[int], fill: float = 0.0, *, frozen: bool = False) -> Tensor:
        """Return a host parameter (bias, gain, gate) as a tensor, made of one value on first use."""
        if name not in self.store:
            value = np.full(tuple(shape), fill, self.dtype) if self.values else None
            self.store[name] = Parameter(name, tuple(shape), value, frozen=frozen)
        parameter = self.store[name]
        leaf = Tensor(self, parameter.shape, parameter.value, needs=not parameter.frozen)
        if not parameter.frozen:
            self.leaves.append((parameter, leaf))
        return leaf

    def statistic(self, name: str, measure: Callable[[], T], assume: Callable[[], T]) -> T:
        """Return what depends on data: measured and noted with values; from the profile or assumed without."""
        if self.values:
            found = measure()
            self.profile[name] = found
            return found
        return self.profile[name] if name in self.profile else assume()  # type: ignore[return-value]

    def host(
        self, name: str, kind: str, operations: int, nbytes: int, stage: Stage | None = None, macs: int = 0
    ) -> None:
        """Count work of the host."""
        self.tape.record_host(HostWork(name, kind, self.stage if stage is None else stage, operations, nbytes, macs))

    def apply(
        self,
        kind: str,
        inputs: tuple[Tensor, ...],
        shape: Sequence[int],
        forward: Callable[..., NDArray],
        backward: Callable[..., Gradients] | None = None,
        share: float = 1.0,
        *,
        spent: Work | None = None,
        back_spent: Work | None = None,
    ) -> Tensor:
        """Run one host operation and count it by its kind (`hostcost.COSTS`), or as told.

        share: of the elements that the host has to touch, where the others are absent; forward(*arrays) returns the
        result of `shape`; backward(dy, y, *arrays) the gradients of the inputs, None for those that need none; spent,
        back_spent: operations and bytes of the two passes where they are not per element (`hostwork`), the second
        nothing if only the first is given. Raises ValueError if the result has another shape, or for an unknown kind
        without `spent`.
        """
        ahead, behind = spent, back_spent
        if ahead is None:
            known = cost(kind)
            elements = round(share * max([math.prod(shape), *(x.size for x in inputs)]))
            ahead = Work(known.operations * elements, known.words * elements * WORD_BYTES)
            behind = Work(known.back_operations * elements, known.back_words * elements * WORD_BYTES)
        if any(ahead):
            self.host(kind, kind, *ahead)
        arrays = [x.data for x in inputs]
        y = forward(*arrays) if self.values else None
        if y is not None and y.shape != tuple(shape):
            raise ValueError(f"result of {kind} has shape {y.shape}; {tuple(shape)} was announced")

        def back(dy: NDArray | None) -> Gradients:
            if behind is not None and any(behind):
                self.host(kind, kind, *behind, Stage.BP)
            if dy is None or backward is None:
                return [None] * len(inputs)
            return backward(dy, y, *arrays)

        return self.node(shape, y, inputs, None if backward is None else back)

    def node(
        self, shape: Sequence[int], data: NDArray | None, parents: tuple[Tensor, ...], back: Backward | None
    ) -> Tensor:
        """Return the tensor of an operation and remember it for the backward pass."""
        needs = back is not None and any(parent.needs for parent in parents)
        tensor = Tensor(self, tuple(shape), data, needs, None, False, parents, back)
        if needs:
            self.nodes.append(tensor)
        return tensor

    def backward(self, loss: Tensor, scale: float = 1.0) -> None:
        """Run the backward pass from a scalar and add the gradients to the parameters.

        scale: loss scale, a power of two, so that small gradients survive binary16 operands; it is removed again. What
        an earlier call went through is not gone through again: a program may hold several steps.
        """
        for tensor in (*self.nodes, *(leaf for _, leaf in self.leaves)):
            tensor.reached, tensor.grad = False, None
        loss.take_gradient(np.full(loss.shape, scale, self.dtype) if self.values else None)
        self.loss_scale = scale
        for node in reversed(self.nodes):
            if not node.reached or node.back is None:
                continue
            for parent, grad in zip(node.parents, node.back(node.grad), strict=True):
                if parent.needs:
                    parent.take_gradient(grad)
        for parameter, leaf in self.leaves:
            if leaf.grad is not None:
                self.add_gradient(parameter, leaf.grad)

    loss_scale: float = 1.0

    def add_gradient(self, parameter: Parameter, grad: NDArray) -> None:
        """Add to the gradient of a parameter, the loss scale removed; elements that do not learn get 0."""
        grad = grad / self.dtype(self.loss_scale)
        if parameter.learnt is not None and parameter.learnt.keep is not None:
            grad = np.where(parameter.learnt.keep, grad, 0)
        parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def _initial(self, shape: tuple[int, ...], gain: float) -> NDArray:
        return (self.rng.standard_normal(shape) * np.sqrt(gain / shape[-2])).astype(self.dtype)


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...], nonzeros: int) -> NDArray[np.bool_]:
    keep = np.zeros(math.prod(shape), np.bool_)
    keep[rng.permutation(keep.size)[:nonzeros]] = True
    return keep.reshape(shape)


def differences(left: Tape, right: Tape) -> list[str]:
    """Return where two tapes do not agree in products and host work; empty when they do."""
    found = []
    for kind, ours, others in (
        ("product", [p.facts() for p in left.products], [p.facts() for p in right.products]),
        ("host work", left.host, right.host),
    ):
        if len(ours) != len(others):
            found.append(f"{len(ours)} and {len(others)} records of {kind}")
        found += [f"{kind} {i}: {a} and {b}" for i, (a, b) in enumerate(zip(ours, others, strict=False)) if a != b]
    return found
