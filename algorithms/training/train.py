"""Seeded, deterministic, resumable training runs."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.arithmetic import arithmetic
from nmsat.algorithms.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nmsat.algorithms.core.tape import Tape
from nmsat.algorithms.core.vocabulary import trained_network
from nmsat.algorithms.layers.base import Context, Layer, prepare
from nmsat.algorithms.layers.loss import softmax_cross_entropy
from nmsat.algorithms.layers.networks import make_network
from nmsat.algorithms.layers.parameter import Weight
from nmsat.algorithms.methods import Method
from nmsat.algorithms.methods.files import source_sha256
from nmsat.algorithms.training.config import DEMO, TrainConfig
from nmsat.algorithms.training.data import Dataset, load_dataset, moved
from nmsat.algorithms.training.named_data import load_named
from nmsat.algorithms.training.optim import Adam, LossScale, Optimizer, Sgd
from nmsat.algorithms.training.outcome import Epoch, Progress, TrainResult
from nmsat.algorithms.training.resume import checked, not_finite
from nmsat.algorithms.training.stability import MaskWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from nmsat.algorithms.training.data import Samples

_LOG = logging.getLogger("nmsat.algorithms")

CHECKPOINT_SECONDS: Final = 60.0
"""A checkpoint is written before this much work would be lost, whatever computes the steps."""

__all__ = ["DEMO", "Epoch", "Progress", "TrainConfig", "TrainResult", "Trainer", "evaluate", "learning_rate", "train"]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to 0."""
    warm = config.warmup * steps / config.epochs
    if step < warm:
        return config.lr * (step + 1) / (warm + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


def evaluate(model: Layer, x: Samples, y: NDArray[np.int64], ctx: Context, batch: int = 256) -> tuple[float, float]:
    """Return the share of labels that the largest logit hits, and the mean loss in nats, with the forward copies."""
    quiet = Context(ctx.arithmetic, ctx.method, training=False)
    hits, loss = 0, 0.0
    for start in range(0, len(x), batch):
        labels = y[start : start + batch].ravel()
        logits = model.forward(_input(x[start : start + batch], quiet), quiet)
        logits = logits.reshape(len(labels), -1)
        hits += int((logits.argmax(axis=1) == labels).sum())
        loss += softmax_cross_entropy(logits, labels, quiet.arithmetic)[0] * len(labels)
    return hits / y.size, loss / y.size


class Trainer:
    """One run, step by step.

    data: replaces the data set of the network, which is made for its samples and classes.
    """

    def __init__(self, config: TrainConfig, data: Dataset | None = None) -> None:
        self.config = config
        if data is None:
            data = load_named(config.data) if config.data else load_dataset(str(trained_network(config.network).data))
        self.data = data.validation() if config.split == "validation" else data
        if len(self.data.x_train) < config.batch:
            raise ValueError(f"batch is {config.batch!r}; the data set has {len(self.data.x_train)} training samples")
        rng = np.random.default_rng([config.seed, 0])
        self.model = make_network(config.network, rng, self.data.sample, sparse_ends=config.sparse_ends)
        self.method = config.make_method()
        self.method.check_weights([p for p in self.model.parameters() if isinstance(p, Weight) and p.sparse])
        self.ctx = Context(arithmetic(config.arithmetic), Method("dense"))
        self.optimizer: Optimizer = (
            Sgd(config.momentum, config.weight_decay, self.method.decay)
            if config.optimizer == "sgd"
            else Adam(weight_decay=config.weight_decay, decay=self.method.decay)
        )
        self.scale = LossScale(config.shift, config.dynamic_shift)
        self.result = TrainResult(config, method_sha256=source_sha256(config.method))
        self.step = 0
        self._watch = MaskWatch()
        self._sad: list[tuple[float, float]] = []
        self._macs = (0, 0)
        self._prepared = False

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.data.x_train) // self.config.batch

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.per_epoch * self.config.epochs

    def run_step(self, tape: Tape | None = None) -> float:
        """Do one step and return its loss; at the end of an epoch also evaluate. tape: records the step."""
        config, ctx, step = self.config, self.ctx, self.step
        self._take_over()
        counted = self._counted(tape)
        ctx.tape = counted
        # Every random number of a step follows from (seed, step), so nothing random has to be saved.
        ctx.rng = np.random.default_rng([config.seed, 1, step])
        chosen = self._chosen(step)
        x, labels = self.data.x_train[chosen], self.data.y_train[chosen].ravel()
        if self.data.shift:
            x = moved(x, self.data.shift, np.random.default_rng([config.seed, 3, step]))
        logits = self.model.forward(_input(x, ctx), ctx)
        rows = logits.reshape(len(labels), -1)
        loss, dy = softmax_cross_entropy(rows, labels, ctx.arithmetic, 2.0**self.scale.shift)
        self.model.backward(dy.reshape(logits.shape), ctx)
        ctx.tape = None
        self._update(loss, counted)
        return loss

    def weights_sha256(self) -> str:
        """Return the SHA-256 of all masters, in the order of the model."""
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(np.ascontiguousarray(parameter.master).tobytes())
        return digest.hexdigest()

    def checkpoint(self) -> Checkpoint:
        """Return everything needed to continue with identical bits."""
        r = self.result
        meta: dict[str, object] = {
            "config": self.config.as_dict(),
            "step": self.step,
            "losses": r.losses,
            "epochs": [asdict(epoch) for epoch in r.epochs],
            "skipped": r.skipped,
            "macs": [r.macs_dense, r.macs_kept, r.bound, *self._macs],
            "seconds": r.seconds,
            "scale": [self.scale.shift, self.scale.good],
            "sad": self._sad,
            **({"method_sha256": r.method_sha256} if r.method_sha256 else {}),
        }
        parts = {
            "master": {p.name: p.master for p in self.model.parameters()},
            "optimizer": self.optimizer.state(),
            "buffer": self.model.buffers(),
            "method": self.method.state(),
        }
        arrays = {f"{part}/{name}": value for part, items in parts.items() for name, value in items.items()}
        return Checkpoint(meta, arrays)

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint of the same configuration.

        Everything is checked before anything is taken over: ValueError says what does not fit this run.
        """
        state = checked(saved, self)
        for p in self.model.parameters():
            p.master = saved.part("master")[p.name]
        for name, buffer in self.model.buffers().items():
            buffer[...] = saved.part("buffer")[name]
        self.optimizer.load(saved.part("optimizer"))
        self.method.load(saved.part("method"))
        r = self.result
        r.losses, r.skipped, r.seconds, r.epochs = state.losses, state.skipped, state.seconds, state.epochs
        r.macs_dense, r.macs_kept, r.bound = state.macs
        self._macs = state.step_macs
        self.scale.shift, self.scale.good = state.scale
        self._sad = state.sad
        self.step = state.step

    @property
    def dense_steps(self) -> int:
        """Steps, from the first, that are trained dense before the method takes over."""
        return round(self.config.dense_epochs * self.per_epoch)

    def _take_over(self) -> None:
        """Before the first step after a start, and when the dense steps are over, make the copies of the method."""
        active = Method("dense") if self.step < self.dense_steps else self.method
        if self._prepared and active.name == self.ctx.method.name:
            return
        # A restored run whose last step was dense must not repeat an update that the method has not seen.
        self.ctx.method, self._prepared, self._macs = active, True, (0, 0)
        prepare(self.model, self.ctx)
        self._watch.update(self.model.parameters())

    def _counted(self, tape: Tape | None) -> Tape | None:
        """Return the tape of this step: the caller's, or one of shapes when the products must be counted."""
        return Tape() if tape is None and self._macs == (0, 0) else tape

    def _chosen(self, step: int) -> NDArray[np.intp]:
        epoch, place = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.config.seed, 2, epoch]).permutation(len(self.data.x_train))
        return order[place * self.config.batch : (place + 1) * self.config.batch]

    def _update(self, loss: float, counted: Tape | None) -> None:
        rate = learning_rate(self.config, self.step, self.steps)
        self._finish(loss, counted, done=self.optimizer.step(self.model.parameters(), rate, self.scale.shift))

    def _finish(self, loss: float, counted: Tape | None, *, done: bool) -> None:
        """Take note of a step; done: its update was not suppressed."""
        r, parameters = self.result, self.model.parameters()
        self.scale.update(done)
        if done:
            prepare(self.model, self.ctx)
        r.skipped += not done
        r.losses.append(loss)
        self._sad.append(self._watch.update(parameters))
        if counted is not None:
            self._macs = (counted.macs_dense, counted.macs_kept)
        r.macs_dense += self._macs[0]
        r.macs_kept += self._macs[1]
        r.bound = self._macs[0] / self._macs[1]
        self.step += 1
        if self.step % self.per_epoch == 0:
            self._end_epoch()

    def _end_epoch(self) -> None:
        r = self.result
        accuracy, test_loss = evaluate(self.model, self.data.x_test, self.data.y_test, self.ctx)
        loss = float(np.mean(r.losses[-self.per_epoch :]))
        sad_ff, sad_bp = (float(np.mean(side)) for side in zip(*self._sad, strict=True))
        self._sad = []
        number = self.step // self.per_epoch
        r.epochs.append(
            Epoch(number, self.step, loss, test_loss, accuracy, sad_ff, sad_bp, r.skipped, self.scale.shift)
        )


def train(
    config: TrainConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    record_step: int | None = None,
    data: Dataset | None = None,
    checkpoint: Path | None = None,
    every: int = 0,
    stop: Callable[[], bool] | None = None,
    make: Callable[[TrainConfig, Dataset | None], Trainer] = Trainer,
) -> TrainResult:
    """Train a network and return the result.

    progress: called after every step; record_step: step (0-based, negative from the end) whose products are recorded
    with values; data: replaces the network's data set; checkpoint: file that the run continues from if it exists, and
    that is written every `every` steps (0: at the end of each epoch), and after the last step that ends within
    `CHECKPOINT_SECONDS` of the one before; stop: asked after every step, true ends the run early with a checkpoint (if
    one is wanted); make: another trainer, which computes elsewhere.
    """
    trainer = make(config, data)
    if checkpoint is not None:
        _continue(trainer, checkpoint)
    recorded = _recorded_step(record_step, trainer.steps)
    result, before, start = trainer.result, trainer.result.seconds, time.perf_counter()
    period = every or trainer.per_epoch
    saved, longest = start, 0.0
    while trainer.step < trainer.steps:
        tape = Tape(values=True) if trainer.step == recorded else None
        result.tape = tape or result.tape
        began = time.perf_counter()
        loss = trainer.run_step(tape)
        now = time.perf_counter()
        longest = max(longest, now - began)
        result.seconds = before + now - start
        if progress is not None:
            accuracy = result.accuracies[-1] if result.accuracies else math.nan
            epoch = (trainer.step - 1) // trainer.per_epoch
            progress(Progress(trainer.step, trainer.steps, epoch, loss, accuracy, result.seconds))
        stopping = stop is not None and stop()
        late = now - saved + longest > CHECKPOINT_SECONDS  # the next step would end too late
        if checkpoint is not None and (stopping or late or trainer.step % period == 0 or trainer.step == trainer.steps):
            save_checkpoint(checkpoint, trainer.checkpoint())
            saved = time.perf_counter()
        if stopping:
            break
    result.weights_sha256 = trainer.weights_sha256()
    return result


def _continue(trainer: Trainer, checkpoint: Path) -> None:
    """Restore a checkpoint if there is one; ValueError names the file and what is wrong with it."""
    try:
        saved = load_checkpoint(checkpoint)
    except FileNotFoundError:
        return
    try:
        trainer.restore(saved)
    except ValueError as error:
        raise ValueError(f"checkpoint {str(checkpoint)!r} {error}; delete it to start again") from None
    if found := not_finite(saved):
        _LOG.warning("checkpoint %r %s; the run goes on from them; delete it to start again", str(checkpoint), found)


def _recorded_step(record_step: int | None, steps: int) -> int | None:
    if record_step is None:
        return None
    if not -steps <= record_step < steps:
        raise ValueError(f"record_step is {record_step!r}; the run has {steps} steps")
    return record_step % steps


def _input(x: NDArray, ctx: Context) -> NDArray:
    """Return samples as the first layer reads them: tokens as they are, numbers in the tensor format."""
    return x if np.issubdtype(x.dtype, np.integer) else ctx.arithmetic.narrow(x)
