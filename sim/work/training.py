"""Training on SAT: `algorithms.training.train.Trainer` whose products, epilogues and updates a machine carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import to_half
from nmsat.algorithms.core.windows import forward_windows
from nmsat.algorithms.layers.loss import softmax_cross_entropy
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.training.optim import Sgd, SgdConstants
from nmsat.algorithms.training.train import Trainer, learning_rate
from nmsat.dataflow.program.step import StepPlan, plan_step

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Tape
    from nmsat.algorithms.layers.parameter import Weight
    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.data import Dataset
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.tensors import Image, Place


@dataclass(frozen=True)
class ProgramRun:
    """A program that has run: cycles, the flag of infinite or NaN gradients, counters by name."""

    cycles: int
    special: bool
    counters: dict[str, int]


class Machine(Protocol):
    """What runs programs: the simulator, or the RTL in a bench."""

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        """Run a program that lies in the image and return when it has ended; RuntimeError if it ends in an error."""
        ...


class MachineTrainer(Trainer):
    """A training run on a machine. Losses and weights have the bits of `Trainer`.

    Raises ValueError for a run that SAT cannot carry out: another arithmetic than the contract, another optimizer than
    SGD, dense steps first, or a model or method that `plan_step` refuses.
    """

    def __init__(self, config: TrainConfig, sat: SatConfig, machine: Machine, data: Dataset | None = None) -> None:
        for name, wanted in (
            ("arithmetic", "contract"),
            ("optimizer", "sgd"),
            ("dense_epochs", 0),
            ("prune_from", "copy"),
        ):
            if getattr(config, name) != wanted:
                raise ValueError(f"{name} is {getattr(config, name)!r}; training on SAT needs {wanted!r}")
        super().__init__(config, data)
        self.machine = machine
        self.runs: list[tuple[ProgramRun, ProgramRun]] = []
        self.plan: StepPlan = plan_step(sat, self.model, self.method, self.data.x_train.shape[1:], config.batch)
        self.image = self.plan.image()
        self._written = False

    def run_step(self, tape: Tape | None = None) -> float:
        if tape is not None:
            raise ValueError("a step on SAT records no tape; record it on the backend numpy")
        self._take_over()
        if not self._written:
            self._write_weights()
        x, labels = self._samples()
        self.image.write_rows(self.plan.layers[0].x, self._input_rows(x))
        forward = self.machine.run_program(self.image, self.plan.forward_at)
        logits = self.image.read_rows(self.plan.logits)
        loss, dy = softmax_cross_entropy(logits, labels, self.ctx.arithmetic, 2.0**self.scale.shift)
        self.image.write_rows(self.plan.seed, dy)
        self.plan.write_backward(self.image, self._constants())
        backward = self.machine.run_program(self.image, self.plan.backward_at)
        self.runs.append((forward, backward))
        self.result.cycles.append(forward.cycles + backward.cycles)
        self._read_weights()
        self._finish(loss, self.plan.tape() if self._counted(None) is not None else None, done=not backward.special)
        return loss

    def _samples(self) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._chosen(self.step)
        return self.data.x_train[chosen], self.data.y_train[chosen].ravel()

    def _input_rows(self, x: np.ndarray) -> np.ndarray:
        """Return the input as the first layer's rows: windows of a convolution, samples of a linear layer."""
        half, first = to_half(x.astype(np.float32)), self.plan.layers[0]
        return half.reshape(len(x), -1) if first.shape is None else forward_windows(half, first.shape)

    def _weights(self) -> list[Weight]:
        return [layer.weight for layer in _products(self)]

    def _write_weights(self) -> None:
        """Put masters, momenta and copies into memory: at the start, and after a checkpoint."""
        optimizer = self.optimizer
        if not isinstance(optimizer, Sgd):
            raise TypeError(f"optimizer is {type(optimizer).__name__!r}; SAT's update engine is SGD")
        for weight, plan in zip(self._weights(), self.plan.layers, strict=True):
            velocity = optimizer.velocity.get(weight.name, np.zeros_like(weight.master))
            self.image.write_master(plan.weights, weight.master, velocity)
            ff, bp = plan.weights.ff, plan.weights.bp
            forward, backward = pack(weight.copy, ff.n, ff.m), pack(weight.copy, bp.n, bp.m, axis=1)
            self.image.write_copies(plan.weights, forward, backward)
        self._written = True

    def _read_weights(self) -> None:
        optimizer = self.optimizer
        if not isinstance(optimizer, Sgd):
            raise TypeError(f"optimizer is {type(optimizer).__name__!r}; SAT's update engine is SGD")
        for weight, plan in zip(self._weights(), self.plan.layers, strict=True):
            weight.master, optimizer.velocity[weight.name] = self.image.read_master(plan.weights)

    def _constants(self) -> dict[str, SgdConstants]:
        config = self.config
        rate = learning_rate(config, self.step, self.steps)
        constants = SgdConstants(rate, config.momentum, config.weight_decay, self.method.decay, self.scale.shift)
        return {plan.name: constants for plan in self.plan.layers}


def _products(trainer: Trainer) -> list[Conv2d | Linear]:
    return [layer for layer in trainer.model.children() if isinstance(layer, (Conv2d, Linear))]
