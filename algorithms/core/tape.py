"""The tape: what a NumPy program multiplied, in the terms that the scheduler needs.

A product is always `Y[m, n] = A[m, k] @ W[k, n]`. `W` is the operand that SAT streams as (value, index) pairs, so the
sparse operand of a product stands in the `W` role; a program whose other operand is sparse records the transposed
product.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import GROUP_SIZES, MAX_COUNT, MAX_SIDE, short, whole_number

if TYPE_CHECKING:
    import numpy as np

    from nmsat.algorithms.core.sparsity import Sparsity


AGAIN: Final = "/run#"
"""Between the name of a layer and the number of its run, for products of its second run and later."""


_WRITTEN: Final = re.compile(r"(0|[1-9][0-9]{0,3}):(0|[1-9][0-9]{0,3})")
"""How a pattern is written, in one way alone: two texts are two patterns. Limits are for `Pattern` to tell."""


class Stage(StrEnum):
    """Where in a training step a product belongs."""

    FF = "ff"
    BP = "bp"
    WU = "wu"
    OTHER = "other"


@dataclass(frozen=True)
class Pattern:
    """N:M sparsity: at most `n` of each `m` consecutive elements along the reduction axis; dense when n == m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            value = getattr(self, name)
            if type(value) is not int:
                object.__setattr__(self, name, whole_number(f"{name.upper()} of a pattern N:M", value, 1, 16))
        if self.m not in GROUP_SIZES:
            raise ValueError(f"pattern is '{self.n}:{self.m}'; M must be 2, 4, 8 or 16")
        if not 1 <= self.n <= self.m:
            raise ValueError(f"pattern is '{self.n}:{self.m}'; N must be from 1 to M = {self.m}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """Read 'N:M' or 'dense' (None)."""
        if text == "dense":
            return None
        if not (match := _WRITTEN.fullmatch(text)):
            raise ValueError(f"pattern is {short(text)}; write N:M such as 2:8, or dense")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class ConvShape:
    """The convolution behind a product (NHWC), for readers that fetch windows straight from the tensor.

    kernel, stride, padding, dilation: height and width. All sizes start at 1, padding at 0: TypeError or ValueError
    otherwise. Whether the kernel fits the image is for `algorithms.core.windows.output_size` to say.
    """

    batch: int
    height: int
    width: int
    channels_in: int
    channels_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "height", "width", "channels_in", "channels_out", "groups"):
            found = whole_number(f"{name} of a convolution", getattr(self, name), 1, MAX_SIDE)
            object.__setattr__(self, name, found)
        for name in ("kernel", "stride", "padding", "dilation"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"{name} of a convolution is {pair!r}; it must be a tuple (height, width)")
            low = 0 if name == "padding" else 1
            found = tuple(whole_number(f"{name} of a convolution", size, low, MAX_SIDE) for size in pair)
            object.__setattr__(self, name, found)


@dataclass(frozen=True, eq=False)
class Product:
    """One matrix product of a program.

    name: the layer; stage: FF, BP, WU or other; m, k, n: shape of Y[m, n] = A[m, k] @ W[k, n];
    pattern: N:M of W along k, None when dense; count: how many identical products (heads, groups);
    conv: the convolution it came from; a: float16[m, k], w: float16[k, n] (already pruned) and y: float32[m, n] when
    values were recorded, with a leading axis when count > 1; sparsity: what is absent beside the pattern; online: W is
    an output gradient pruned within the step, not a weight pruned after the last update; weight: name of the learnt
    tensor behind the three products of a layer, '' where the tape does not say. Layers of one weight share its update.
    Raises TypeError or ValueError for sizes that are no whole numbers within docs/limits.md.
    """

    name: str
    stage: Stage
    m: int
    k: int
    n: int
    pattern: Pattern | None = None
    count: int = 1
    conv: ConvShape | None = None
    a: np.ndarray | None = None
    w: np.ndarray | None = None
    y: np.ndarray | None = None
    sparsity: Sparsity | None = None
    online: bool = False
    weight: str = ""

    def __post_init__(self) -> None:
        for name, high in (("m", MAX_SIDE), ("k", MAX_SIDE), ("n", MAX_SIDE), ("count", MAX_COUNT)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= high:
                object.__setattr__(self, name, whole_number(f"{name} of product {self.name!r}", value, 1, high))
        if self.pattern is not None and not isinstance(self.pattern, Pattern):
            raise TypeError(f"pattern of product {self.name!r} is {self.pattern!r}; it must be a Pattern or None")
        if not isinstance(self.stage, Stage):
            raise TypeError(f"stage of product {self.name!r} is {self.stage!r}; it must be a Stage such as Stage.FF")

    @property
    def macs_dense(self) -> int:
        """Multiply-adds without sparsity."""
        return self.m * self.k * self.n * self.count

    @property
    def macs_kept(self) -> int:
        """Multiply-adds that N:M leaves: min(N, present) of each group of M along k, the last group may be short."""
        if self.pattern is None:
            return self.macs_dense
        groups, tail = divmod(self.k, self.pattern.m)
        return self.m * (groups * self.pattern.n + min(self.pattern.n, tail)) * self.n * self.count

    @property
    def macs_full(self) -> int:
        """Multiply-adds of the same work with nothing left out: no pattern, no mask, every row and rank."""
        if self.sparsity is None:
            return self.macs_dense
        return self.sparsity.full((self.m, self.k, self.n), self.count)

    @property
    def macs_true(self) -> int:
        """Multiply-adds that the method needs: of kept elements, present blocks and gathered rows only."""
        if self.sparsity is None:
            return self.macs_kept
        return min(self.macs_kept, self.sparsity.macs((self.m, self.k, self.n), self.count))

    def facts(self) -> tuple[object, ...]:
        """What a run with values and a run of shapes alone must agree on."""
        sparsity = None if self.sparsity is None else self.sparsity.facts()
        return (
            self.name,
            self.stage,
            self.m,
            self.k,
            self.n,
            self.pattern,
            self.count,
            self.conv,
            sparsity,
            self.online,
        )


@dataclass(frozen=True)
class HostWork:
    """Work of a program that is no product on SAT: scalar operations and bytes moved.

    kind: what it does, named as in ONNX where that has a name; macs: multiply-adds among the operations that belong to
    matrix products left to the host (a solver, a depthwise convolution).
    """

    name: str
    kind: str
    stage: Stage
    operations: int
    bytes: int
    macs: int = 0


@dataclass(frozen=True)
class Learnt:
    """A tensor that the step's update changes and that is the weight of no product (bias, normalisation).

    elements: its size; several tensors of one layer may stand together.
    """

    name: str
    elements: int

    def __post_init__(self) -> None:
        if self.elements < 1:
            raise ValueError(f"elements of {self.name!r} is {self.elements!r}; it must be at least 1")


@dataclass(frozen=True)
class LeftOut:
    """Work that a recording saw and could not put on the tape as products, or knows to be missing.

    name: where in the program; kind: the operator; calls: how often it ran (0: unknown).
    """

    name: str
    kind: str
    calls: int = 0

    @property
    def text(self) -> str:
        """It, for people."""
        calls = f", {self.calls} calls" if self.calls else ""
        return f"{self.name} ({self.kind}{calls}): in neither of the two steps"


@dataclass(repr=False)
class Tape:
    """Collects the products of a program in the order of their execution.

    values: whether operands and results are kept (references, not copies); products: what was recorded; host: the
    work beside them; learnt: what the update changes beside the weights of products; left_out: what is missing;
    decays: whether the gradients of its weights have the SR-STE term.
    """

    values: bool = False
    products: list[Product] = field(default_factory=list)
    host: list[HostWork] = field(default_factory=list)
    learnt: list[Learnt] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    decays: bool = False

    def __repr__(self) -> str:
        """Return what a prompt shows: how much of what, not all of it."""
        counts = [(stage.value, len(self.of(stage))) for stage in Stage]
        stages = ", ".join(f"{name} {count}" for name, count in counts if count)
        parts = [f"{len(self.products)} products{f' ({stages})' if stages else ''}"]
        parts += [f"{name} {len(found)}" for name, found in (("host", self.host), ("learnt", self.learnt)) if found]
        parts += [f"left out {', '.join(work.name for work in self.left_out)}"] if self.left_out else []
        return f"<Tape: {'; '.join(parts)}>"

    def record(self, product: Product) -> None:
        """Append a product; without `values` its operands and result are dropped."""
        if not self.values and not (product.a is product.w is product.y is None):
            product = replace(product, a=None, w=None, y=None)
        self.products.append(product)

    def record_host(self, work: HostWork) -> None:
        """Append work of the host."""
        self.host.append(work)

    def of(self, stage: Stage) -> list[Product]:
        """Return the products of one stage."""
        return [product for product in self.products if product.stage is stage]

    @property
    def macs_dense(self) -> int:
        """Multiply-adds of all products without sparsity."""
        return sum(product.macs_dense for product in self.products)

    @property
    def macs_kept(self) -> int:
        """Multiply-adds of all products with their N:M sparsity."""
        return sum(product.macs_kept for product in self.products)

    @property
    def bound(self) -> float:
        """The speedup that the multiply-adds alone allow: dense over kept."""
        return self.macs_dense / self.macs_kept
