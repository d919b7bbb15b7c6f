"""What converted layers tell a recording: one call per run, and the stages as their gradients are computed.

Outside of a recording every call returns at once. `algorithms.pytorch.taping` starts one.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from math import prod
from typing import TYPE_CHECKING, Any, Final, Protocol

from nmsat.algorithms.core.tape import AGAIN, ConvShape, Stage, Tape
from nmsat.algorithms.pytorch.works import convolution_work, matrix_work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import torch
    from torch import nn

    from nmsat.algorithms.pytorch.rules import Rule
    from nmsat.algorithms.pytorch.works import Work

NO_TAG: Final = -1
"""Tag of a run that is not recorded."""


class Naming(Protocol):
    """Names of modules and of their weights, in the model that runs."""

    def module(self, layer: nn.Module) -> str | None:
        """Return the name of a module, None if it is not part of a model that ran."""

    def weight(self, layer: nn.Module, param: str) -> str | None:
        """Return the name of the tensor behind a parameter and count it as the weight of a product."""


class Learned(Protocol):
    """What a recording needs of a weight (`algorithms.pytorch.slot.Slot`): its name in the layer, its rule."""

    param: str
    rule: Rule


class Recorder:
    """A tape that is being written. quiet: whether operators belong to a product that is on it already."""

    def __init__(self, naming: Naming) -> None:
        self.tape = Tape()
        self.naming = naming
        self.quiet = 0
        self._works: list[Work] = []
        self._runs: dict[str, int] = {}

    def run(self, name: str) -> str:
        """Return the name of the next run of a layer."""
        self._runs[name] = self._runs.get(name, 0) + 1
        return name if self._runs[name] == 1 else f"{name}{AGAIN}{self._runs[name]}"

    def start(self, work: Work) -> int:
        """Record the forward product of a run; return its tag."""
        self._works.append(work)
        self.tape.record(work.ff)
        return len(self._works) - 1

    def emit(self, tag: int, stage: Stage) -> None:
        """Record the products of a later stage of a run."""
        for product in self._works[tag].of(stage):
            self.tape.record(product)


_active: Recorder | None = None


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Let all layers write to a recorder; RuntimeError if another one is under way."""
    global _active  # noqa: PLW0603 # one recording at a time
    if _active is not None:
        raise RuntimeError("a recording is under way already; record_step cannot run within record_step")
    _active = recorder
    try:
        yield recorder
    finally:
        _active = None


def quiet() -> AbstractContextManager[None]:
    """Keep the operators within from being recorded a second time."""
    return nullcontext() if _active is None else _quiet(_active)


@contextmanager
def _quiet(recorder: Recorder) -> Iterator[None]:
    recorder.quiet += 1
    try:
        yield
    finally:
        recorder.quiet -= 1


def emit(tag: int, stage: Stage) -> None:
    """Record the products of a stage of a run; a backward pass after the recording leaves no trace."""
    if _active is not None:
        _active.emit(tag, stage)


def linear(layer: nn.Module, slot: Learned, weight: torch.Tensor, x: torch.Tensor, part: str = "") -> int:
    """Record y = x weight^T, weight[out, in]; part: which rows of the parameter it is. Return the tag of the run."""
    if _active is None:
        return NO_TAG
    features_out, features_in = weight.shape
    name, key = _names(_active, layer, slot, part)
    rows = x.numel() // features_in
    _active.tape.decays |= slot.rule.decay != 0
    return _active.start(matrix_work(_active.run(name), key, (rows, features_in, features_out), slot.rule))


def convolution(layer: nn.Module, slot: Learned, weight: torch.Tensor, x: torch.Tensor, options: tuple) -> int:
    """Record a convolution of x[B, C, ...]. Return the tag of the run."""
    if _active is None:
        return NO_TAG
    name, key = _names(_active, layer, slot, "")
    _active.tape.decays |= slot.rule.decay != 0
    return _active.start(shaped_work(_active.run(name), key, tuple(x.shape), tuple(weight.shape), options, slot.rule))


def shaped_work(
    name: str, key: str, x: tuple[int, ...], weight: tuple[int, ...], options: tuple, rule: Rule | None
) -> Work:
    """Return the products of a convolution from the shapes and options of `torch.convolution`."""
    stride, padding, dilation, transposed, _, groups = options
    images, channels, axes = x[0], x[1], x[2:]
    taps = prod(weight[2:])
    if transposed:
        sizes = (images * prod(axes), weight[0] // groups, taps * weight[1])
        return matrix_work(name, key, sizes, rule, groups, taps=(1, taps))
    if len(axes) > 2:
        places = zip(axes, weight[2:], *_wide(len(axes), stride, padding, dilation), strict=True)
        pixels = prod((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in places)
        sizes = (images * pixels, taps * weight[1], weight[0] // groups)
        return matrix_work(name, key, sizes, rule, groups)
    flat = len(axes) == 1
    *_, height, width = (1, *axes)
    stride, padding, dilation = _wide(len(axes), stride, padding, dilation)

    def both(values: Any, missing: int) -> tuple[int, int]:
        return (missing, values[0]) if flat else (values[0], values[1])

    shape = ConvShape(
        batch=images,
        height=height,
        width=width,
        channels_in=channels,
        channels_out=weight[0],
        kernel=both(list(weight[2:]), 1),
        stride=both(stride, 1),
        padding=both(padding, 0),
        dilation=both(dilation, 1),
        groups=groups,
    )
    return convolution_work(name, key, shape, rule)


def _wide(axes: int, *options: Any) -> tuple[list[int], ...]:
    return tuple(list(option) * axes if len(option) == 1 else list(option) for option in options)


def _names(recorder: Recorder, layer: nn.Module, slot: Learned, part: str) -> tuple[str, str]:
    """Return the name of a layer's product and of the tensor that it learns."""
    own = recorder.naming.module(layer)
    base = slot.rule.name if own is None else own
    if slot.param != "weight":
        base = f"{base}.{slot.param.removesuffix('_weight')}".lstrip(".")
    key = recorder.naming.weight(layer, slot.param) or f"{base}.weight"
    ending = f".{part}" if part and slot.param == "in_proj_weight" else ""
    return base + ending, key + ending
