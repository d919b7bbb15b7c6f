"""What a checkpoint must hold to continue a run: every value is looked at before any is taken over."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from nmsat.algorithms.core.checkpoint import check_names, check_tensors
from nmsat.algorithms.core.ranges import MAX_SHIFT
from nmsat.algorithms.layers.parameter import Weight
from nmsat.algorithms.methods.files import source_sha256
from nmsat.algorithms.training.outcome import Epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.algorithms.core.checkpoint import Checkpoint
    from nmsat.algorithms.layers.base import Layer
    from nmsat.algorithms.methods import Method
    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.optim import Optimizer

PARTS: Final = ("master", "optimizer", "buffer", "method")
"""Parts of the tensors."""

META_OWN: Final = "method_sha256"
"""One more, of runs of a method that a user's file registered: the SHA-256 of that file."""

META: Final = ("config", "step", "losses", "epochs", "skipped", "macs", "seconds", "scale", "sad")
"""Names of the values beside them."""


class Run(Protocol):
    """What a checkpoint is held against (`algorithms.training.train.Trainer`)."""

    config: TrainConfig
    model: Layer
    method: Method
    optimizer: Optimizer

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        ...

    @property
    def steps(self) -> int:
        """Steps of the run."""
        ...

    @property
    def dense_steps(self) -> int:
        """Steps, from the first, that are trained dense."""
        ...


@dataclass(frozen=True)
class Resumed:
    """The values of a checkpoint, in the types of the trainer."""

    step: int
    losses: list[float]
    epochs: list[Epoch]
    skipped: int
    macs: tuple[int, int, float]
    step_macs: tuple[int, int]
    seconds: float
    scale: tuple[int, int]
    sad: list[tuple[float, float]]


def checked(saved: Checkpoint, trainer: Run) -> Resumed:
    """Return the values of a checkpoint of the trainer's run; ValueError says what does not fit.

    The text goes on after the name of the file: "has no tensor 'master/head'".
    """
    meta: dict[str, Any] = json.loads(json.dumps(saved.meta))  # a plain copy
    _check_run(meta, trainer)
    state = _values(meta, trainer)
    _check_tensors(saved, trainer, state)
    return state


def other_source(values: Mapping[str, Any], method: str) -> bool:
    """Whether a checkpoint or a record is of another text of the file that registered the method, or of none."""
    return values.get(META_OWN, "") != source_sha256(method)


def not_finite(saved: Checkpoint) -> str:
    """Return what a checkpoint has of infinities and NaN, '' if nothing.

    Not a fault of the file: an update is left out when a gradient is not finite, but it can overflow itself, as can the
    statistics of a run that diverges. The text goes on after the name of the file.
    """
    counts = {
        name: int(array.size - np.isfinite(array).sum())
        for name, array in saved.arrays.items()
        if np.issubdtype(array.dtype, np.floating)
    }
    found = {name: count for name, count in counts.items() if count}
    if not found:
        return ""
    first = next(iter(found))
    more = f" and {len(found) - 1} more tensors" if len(found) > 1 else ""
    return (
        f"holds infinities or NaN: {found[first]} of {saved.arrays[first].size} numbers of {first!r}{more}; a run that "
        "diverged leaves such, and so does a file that was changed"
    )


def _check_run(meta: dict[str, Any], trainer: Run) -> None:
    wanted = json.loads(json.dumps(trainer.config.as_dict()))
    found = meta.get("config")
    if found != wanted:
        other = {k: v for k, v in found.items() if v != wanted.get(k)} if isinstance(found, dict) else found
        raise ValueError(f"is of another run ({other})")
    if other_source(meta, trainer.config.method):
        raise ValueError(f"was written with another text of the file that registers method {trainer.config.method!r}")
    known = (*META, META_OWN)
    missing, more = [name for name in META if name not in meta], [name for name in meta if name not in known]
    if missing or more:
        raise ValueError(f"has no {missing[0]!r}" if missing else f"has {more[0]!r}, which this run does not know")


def _values(meta: dict[str, Any], trainer: Run) -> Resumed:
    """Return the values beside the tensors, each within what the run allows."""
    config, per_epoch = trainer.config, trainer.per_epoch
    step = _need(meta, "step", lambda v: _whole(v, trainer.steps), f"a whole number from 0 to {trainer.steps}")
    losses = _need(meta, "losses", lambda v: _list(v, step, _number), f"{step} numbers, one for each step")
    epochs = _need(meta, "epochs", lambda v: _epochs(v, step, per_epoch), f"those of {step // per_epoch} epochs")
    skipped = _need(meta, "skipped", lambda v: _whole(v, step), f"a whole number from 0 to {step}")
    macs = _need(meta, "macs", _macs, "four whole numbers and a bound")
    seconds = _need(meta, "seconds", lambda v: _number(v) and 0 <= v < math.inf, "a number of seconds")
    low, high = (0, MAX_SHIFT) if config.dynamic_shift else (config.shift, config.shift)
    scale = _need(
        meta,
        "scale",
        lambda v: _list(v, 2, _whole) and low <= v[0] <= high and v[1] <= step,
        f"an exponent from {low} to {high} and a count",
    )
    left = step % per_epoch
    pairs = _need(
        meta, "sad", lambda v: _list(v, left, lambda p: _list(p, 2, _number)), f"{left} pairs, one for each step"
    )
    return Resumed(
        step=step,
        losses=losses,
        epochs=[Epoch(**epoch) for epoch in epochs],
        skipped=skipped,
        macs=(macs[0], macs[1], macs[2]),
        step_macs=(macs[3], macs[4]),
        seconds=seconds,
        scale=(scale[0], scale[1]),
        sad=[(a, b) for a, b in pairs],
    )


def _check_tensors(saved: Checkpoint, trainer: Run, state: Resumed) -> None:
    check_names({key.partition("/")[0] for key in saved.arrays} - set(PARTS), [])
    parameters = trainer.model.parameters()
    weights = [p for p in parameters if isinstance(p, Weight) and p.sparse]
    updates = state.step - state.skipped
    active = state.step > trainer.dense_steps
    checks: dict[str, Callable[[dict[str, Any]], None]] = {
        "master": lambda part: check_tensors(part, {p.name: p.master for p in parameters}),
        "buffer": lambda part: check_tensors(part, trainer.model.buffers()),
        "optimizer": lambda part: trainer.optimizer.check_state(part, parameters, updates),
        "method": lambda part: trainer.method.check_state(part, weights, updates if active else None),
    }
    for part, check in checks.items():
        try:
            check(saved.part(part))
        except ValueError as error:
            raise ValueError(f"does not fit this run: part {part!r} {error}") from None


def _need(meta: dict[str, Any], name: str, right: Callable[[Any], bool], wanted: str) -> Any:
    if not right(meta[name]):
        text = repr(meta[name])
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise ValueError(f"does not fit this run: {name} is {shown}; it must be {wanted}")
    return meta[name]


def _whole(value: Any, high: float = math.inf) -> bool:
    return type(value) is int and 0 <= value <= high


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _list(value: Any, length: int, right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(right, value))


def _macs(value: Any) -> bool:
    return _list(value, 5, _number) and all(_whole(value[i]) for i in (0, 1, 3, 4)) and 0 < value[2] < math.inf


def _epochs(value: Any, step: int, per_epoch: int) -> bool:
    """Tell whether a list holds the epochs of a run after `step` steps, each with all its fields."""
    names = {field.name for field in fields(Epoch)}
    if not _list(value, step // per_epoch, lambda e: isinstance(e, dict) and e.keys() == names):
        return False
    return all(
        all(map(_number, epoch.values())) and (epoch["epoch"], epoch["step"]) == (number, number * per_epoch)
        for number, epoch in enumerate(value, 1)
    )
