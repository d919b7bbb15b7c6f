"""Seeded, deterministic training runs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from algorithms.arithmetic import arithmetic
from algorithms.data import Dataset, digits
from algorithms.layers import Context, Layer, prepare
from algorithms.loss import softmax_cross_entropy
from algorithms.methods import make_method
from algorithms.networks import digits_cnn
from algorithms.optim import MAX_SHIFT, Sgd
from algorithms.tape import Pattern, Tape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Two runs with equal configurations give equal bits.

    method: a name of `algorithms.methods.METHODS`; pattern: 'N:M', ignored by 'dense'; arithmetic: 'contract' or
    'fast'; batch: samples per step, an epoch drops what does not fill one; lr: peak learning rate, reached after
    `warmup` epochs, then falling to 0 along a cosine; shift: the loss scale is 2^shift.
    """

    method: str = "bdwp"
    pattern: str = "2:8"
    arithmetic: str = "contract"
    seed: int = 0
    epochs: int = 8
    batch: int = 32
    lr: float = 0.05
    warmup: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least 1")
        if not 0 <= self.shift <= MAX_SHIFT:
            raise ValueError(f"shift is {self.shift!r}; it must be from 0 to {MAX_SHIFT}")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr!r}; it must be above 0")

    def make_pattern(self) -> Pattern | None:
        """Return the pattern, None for the dense method."""
        return None if self.method == "dense" else Pattern.parse(self.pattern)

    def replace(self, **changes: object) -> TrainConfig:
        """Return a copy with the given fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[arg-type] # fields differ in type, the copy checks them


DEMO: Final = TrainConfig()
"""The runs of `nmsat demo`: digits in contract arithmetic; the dense one is DEMO.replace(method='dense')."""


@dataclass(frozen=True)
class Progress:
    """What a run reports after every step; accuracy is that of the last evaluation (NaN before the first)."""

    step: int
    steps: int
    epoch: int
    loss: float
    accuracy: float
    seconds: float


@dataclass
class TrainResult:
    """Outcome of a run.

    losses: mean cross entropy of every step; accuracies: test accuracy (0..1) after every epoch; skipped: steps whose
    update was suppressed; tape: products of the recorded step; seconds: wall time.
    """

    config: TrainConfig
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    skipped: int = 0
    tape: Tape | None = None
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Test accuracy after the last epoch, 0..1."""
        return self.accuracies[-1]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to 0."""
    warm = config.warmup * steps / config.epochs
    if step < warm:
        return config.lr * (step + 1) / (warm + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


def evaluate(model: Layer, x: NDArray, y: NDArray[np.int64], ctx: Context, batch: int = 256) -> float:
    """Return the share of samples whose largest logit is the label, with the forward copies of the weights."""
    quiet = Context(ctx.arithmetic, ctx.method, training=False)
    hits = 0
    for start in range(0, len(x), batch):
        part = ctx.arithmetic.narrow(x[start : start + batch])
        hits += int((model.forward(part, quiet).argmax(axis=1) == y[start : start + batch]).sum())
    return hits / len(x)


def train(
    config: TrainConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    record_step: int | None = None,
    data: Dataset | None = None,
) -> TrainResult:
    """Train the digits network and return its result.

    progress: called after every step; record_step: step (0-based, negative from the end) whose products are recorded
    with values; data: another set of the digits' shape.
    """
    data = digits() if data is None else data
    model = digits_cnn(np.random.default_rng([config.seed, 0]))
    method = make_method(config.method, config.make_pattern())
    ctx = Context(arithmetic(config.arithmetic), method, rng=np.random.default_rng([config.seed, 1]))
    sgd = Sgd(config.momentum, config.weight_decay, method.decay)
    shuffle = np.random.default_rng([config.seed, 2])
    per_epoch = len(data.x_train) // config.batch
    steps = per_epoch * config.epochs
    recorded = _recorded_step(record_step, steps)
    result, start = TrainResult(config), time.perf_counter()
    prepare(model, ctx)
    for epoch in range(config.epochs):
        order = shuffle.permutation(len(data.x_train))
        for place in range(per_epoch):
            step = epoch * per_epoch + place
            chosen = order[place * config.batch : (place + 1) * config.batch]
            ctx.tape = result.tape = Tape(values=True) if step == recorded else result.tape
            if step != recorded:
                ctx.tape = None
            loss = _step(model, ctx, sgd, config, data, chosen, learning_rate(config, step, steps), result)
            if place == per_epoch - 1:
                result.accuracies.append(evaluate(model, data.x_test, data.y_test, ctx))
            result.seconds = time.perf_counter() - start
            if progress is not None:
                accuracy = result.accuracies[-1] if result.accuracies else math.nan
                progress(Progress(step + 1, steps, epoch, loss, accuracy, result.seconds))
    return result


def _recorded_step(record_step: int | None, steps: int) -> int | None:
    if record_step is None:
        return None
    if not -steps <= record_step < steps:
        raise ValueError(f"record_step is {record_step!r}; the run has {steps} steps")
    return record_step % steps


def _step(
    model: Layer,
    ctx: Context,
    sgd: Sgd,
    config: TrainConfig,
    data: Dataset,
    chosen: NDArray[np.intp],
    lr: float,
    result: TrainResult,
) -> float:
    logits = model.forward(ctx.arithmetic.narrow(data.x_train[chosen]), ctx)
    loss, dy = softmax_cross_entropy(logits, data.y_train[chosen], ctx.arithmetic, 2.0**config.shift)
    model.backward(dy, ctx)
    result.losses.append(loss)
    if sgd.step(model.parameters(), lr, config.shift):
        prepare(model, ctx)
    else:
        result.skipped += 1
    return loss
