"""Training on SAT: `algorithms.training.train.Trainer` whose products, epilogues and updates a machine carries out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.training.optim import Sgd, SgdConstants
from nmsat.algorithms.training.train import Trainer, learning_rate
from nmsat.dataflow.program.bounds import NO_BOUNDS
from nmsat.dataflow.program.host import HostTask, StepRun
from nmsat.dataflow.program.step import StepPlan, plan_step

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Tape
    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.data import Dataset
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.bounds import Bounds
    from nmsat.dataflow.program.tensors import Image, Place
    from nmsat.sim.results.report import ProgramRun


class ProgramRunner(Protocol):
    """What runs programs: the simulator, or the RTL in a bench."""

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        """Run a program that lies in the image and return when it has ended; RuntimeError if it ends in an error."""
        ...


class MachineTrainer(Trainer):
    """A training run on a machine. Losses and weights have the bits of `Trainer`.

    Raises ValueError for a run that SAT cannot carry out: another arithmetic than the contract, another optimizer than
    SGD, dense steps first, a model or method that `plan_step` refuses, or a step beyond the bounds.
    """

    def __init__(
        self,
        config: TrainConfig,
        sat: SatConfig,
        machine: ProgramRunner,
        data: Dataset | None = None,
        bounds: Bounds = NO_BOUNDS,
    ) -> None:
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
        self.runs: list[tuple[ProgramRun, ...]] = []
        samples = self.data.x_train
        integers = np.issubdtype(samples.dtype, np.integer)
        shape = samples.shape[1:]
        self.plan: StepPlan = plan_step(
            sat, self.model, self.method, shape, config.batch, integers=integers, bounds=bounds
        )
        self.image = self.plan.image()
        self._written = False

    def run_step(self, tape: Tape | None = None) -> float:
        if tape is not None:
            raise ValueError("a step on SAT records no tape; record it on the backend numpy")
        self._take_over()
        if not self._written:
            self._write_weights()
        ctx, plan = self.ctx, self.plan
        ctx.rng = np.random.default_rng([self.config.seed, 1, self.step])
        step = StepRun(ctx, *self._samples(), 2.0**self.scale.shift)
        plan.write_update(self.image, self._constants())
        self._write_biases()
        runs: list[ProgramRun] = []
        done = True
        for part in plan.parts:
            if isinstance(part, HostTask):
                part.run(self.image, step)
                continue
            if plan.alone and part is plan.update:
                done = self._update_on_host(runs)
                if not done:
                    break
            runs.append(self.machine.run_program(self.image, part.place))
        done = done and not any(run.special for run in runs)
        self.runs.append(tuple(runs))
        self.result.cycles.append(sum(run.cycles for run in runs))
        self._read_weights()
        self._finish(step.loss, plan.tape() if self._counted(None) is not None else None, done=done)
        return step.loss

    def _samples(self) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._chosen(self.step)
        return self.data.x_train[chosen], self.data.y_train[chosen].ravel()

    def _update_on_host(self, runs: list[ProgramRun]) -> bool:
        """Update what the host keeps and return True, or do nothing and return False if a gradient is not finite."""
        for layer in self.plan.layers:
            if layer.layer.bias is not None and layer.bias_gradient is not None:
                layer.layer.bias.grad = self.image.read_rows(layer.bias_gradient)[0]
        if any(run.special for run in runs):
            return False
        return self.optimizer.step(self.plan.host, learning_rate(self.config, self.step, self.steps), self.scale.shift)

    def _write_biases(self) -> None:
        """Put the biases of this step into memory, rounded to binary16 as every copy is."""
        for layer in self.plan.layers:
            if layer.layer.bias is not None and layer.bias is not None:
                self.image.write_rows(layer.bias, layer.layer.bias.copy.astype(np.float32)[None])

    def _sgd(self) -> Sgd:
        if not isinstance(self.optimizer, Sgd):
            raise TypeError(f"optimizer is {type(self.optimizer).__name__!r}; SAT's update engine is SGD")
        return self.optimizer

    def _write_weights(self) -> None:
        """Put masters, momenta and copies into memory: at the start, and after a checkpoint."""
        optimizer = self._sgd()
        for plan in self.plan.layers:
            weight, placed = plan.layer.weight, plan.weights
            velocity = optimizer.velocity.get(weight.name, np.zeros_like(weight.master))
            self.image.write_master(placed, plan.to_memory(weight.master), plan.to_memory(velocity))
            ff, bp, copy = placed.ff, placed.bp, plan.to_memory(weight.copy)
            self.image.write_copies(placed, pack(copy, ff.n, ff.m), pack(copy, bp.n, bp.m, axis=1))
        self._written = True

    def _read_weights(self) -> None:
        optimizer = self._sgd()
        for plan in self.plan.layers:
            weight = plan.layer.weight
            master, velocity = (plan.from_memory(part) for part in self.image.read_master(plan.weights))
            weight.master, optimizer.velocity[weight.name] = master, velocity

    def _constants(self) -> dict[str, SgdConstants]:
        config = self.config
        rate = learning_rate(config, self.step, self.steps)
        constants = SgdConstants(rate, config.momentum, config.weight_decay, self.method.decay, self.scale.shift)
        return {plan.name: constants for plan in self.plan.layers}
