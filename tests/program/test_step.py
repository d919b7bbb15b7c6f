"""A whole training step: programs of the machine and the host between them, bit for bit that of NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.layers.base import Sequential
from nmsat.algorithms.layers.products import Linear
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.training.recipes import recipe
from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Instruction
from nmsat.dataflow.program.host import HostTask
from nmsat.dataflow.program.step import Program, plan_step
from nmsat.sim.results.report import ProgramRun
from nmsat.sim.values import State, execute
from nmsat.sim.work.training import MachineTrainer

if TYPE_CHECKING:
    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.dataflow.program.tensors import Image, Place

SMALL, TINY = preset("small"), preset("tiny")


class Values:
    """A machine without time: the values of every instruction, one after the other. Buffers start as junk."""

    def __init__(self, config: SatConfig) -> None:
        self.config = config
        self.programs = 0

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        state = State(self.config, image.regions)
        state.act[:] = 0x7E00  # NaN
        state.value[:] = 0x7E00
        self.programs += 1
        words = image.regions[program.region].reshape(-1, 64)[program.at : program.at + program.beats]
        for word in words:
            execute(Instruction.decode(int.from_bytes(word.tobytes(), "little")), state)
        return ProgramRun(1, state.special, {})


def configuration(network: str, **changes: object) -> TrainConfig:
    fixed = {"arithmetic": "contract", "optimizer": "sgd", "dense_epochs": 0.0, "batch": 2, "epochs": 1}
    return recipe(network).replace(**{**fixed, **changes})


def hold_together(run: TrainConfig, config: SatConfig, steps: int = 2) -> MachineTrainer:
    """Train on both and compare loss, every master, every buffer after each step."""
    sat, reference = MachineTrainer(run, config, Values(config)), Trainer(run)
    for _ in range(steps):
        assert sat.run_step().hex() == reference.run_step().hex()
        for mine, theirs in zip(sat.model.parameters(), reference.model.parameters(), strict=True):
            assert np.array_equal(mine.master.view(np.uint32), theirs.master.view(np.uint32)), mine.name
        for name, buffer in reference.model.buffers().items():
            assert np.array_equal(sat.model.buffers()[name], buffer), name
    assert (sat.result.macs_kept, sat.result.macs_dense) == (reference.result.macs_kept, reference.result.macs_dense)
    assert sat.result.skipped == reference.result.skipped
    return sat


@pytest.mark.parametrize(
    ("network", "config", "steps", "changes"),
    [
        ("resnet9-small", SMALL, 1, {}),
        ("vgg19-small", SMALL, 1, {"method": "sr-ste", "pattern": "2:4", "batch": 3}),
        ("resnet18-small", SMALL, 2, {}),
        ("resnet50-small", SMALL, 1, {"method": "sdwp", "pattern": "1:4"}),
        ("resnet18-small", preset("vcu1525"), 1, {"pattern": "2:16", "sparse_ends": True}),
        ("digits-cnn", TINY, 1, {"method": "dense"}),
        ("mlp", SMALL, 2, {}),
        ("vit-small", SMALL, 1, {}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", None),
)
def test_steps_have_the_bits_of_numpy(network: str, config: SatConfig, steps: int, changes: dict[str, object]) -> None:
    hold_together(configuration(network, **changes), config, steps)


@pytest.mark.long
@pytest.mark.parametrize("config", [TINY, SMALL, preset("vcu1525")], ids=lambda config: config.name)
@pytest.mark.parametrize(
    "network", ["resnet9-small", "vgg19-small", "resnet18-small", "resnet50-small", "vit-small", "gpt"]
)
def test_every_small_network_has_the_bits_of_numpy(network: str, config: SatConfig) -> None:
    hold_together(configuration(network, batch=4), config, 3)


def test_an_infinite_gradient_changes_nothing() -> None:
    """Biases and normalisation on the host wait for what SAT says, and SAT's update for what the host says."""
    sat = hold_together(configuration("resnet18-small", shift=24, dynamic_shift=True), SMALL, 3)
    assert sat.result.skipped > 0


def test_a_run_continues_from_its_checkpoint() -> None:
    """Momenta of the host and of SAT, biases, copies."""
    run = configuration("mlp")
    whole, first = (MachineTrainer(run, SMALL, Values(SMALL)) for _ in range(2))
    losses = [whole.run_step(), whole.run_step()]
    first.run_step()
    second = MachineTrainer(run, SMALL, Values(SMALL))
    second.restore(first.checkpoint())
    assert second.run_step() == losses[1]
    assert second.weights_sha256() == whole.weights_sha256()


def test_the_plan_says_where_the_host_comes_in() -> None:
    run = configuration("digits-cnn")
    sat = MachineTrainer(run, SMALL, Values(SMALL))
    plan = sat.plan
    assert [part.name for part in plan.programs] == [
        "forward1", "forward2", "forward3", "backward1", "backward2", "backward3", "update",
    ]  # fmt: skip
    kinds = ["+".join(op.kind for op in task.ops) for task in plan.tasks]
    assert kinds == [
        "Input+Im2col",
        "ReLU+MaxPool2d",
        "ReLU+MaxPool2d+Flatten",
        "SoftmaxCrossEntropyLoss",
        "Flatten+MaxPool2d+ReLU",
        "MaxPool2d+ReLU",
    ]
    pool = plan.tasks[1]
    assert (pool.bytes_read, pool.bytes_written) == (2 * 2 * 8 * 8 * 32, 2 * 2 * 4 * 4 * 32)
    assert pool.operations == 2 * 2 * 8 * 8 * 32
    assert isinstance(plan.parts[0], HostTask)
    assert isinstance(plan.parts[-1], Program)
    assert plan.alone


def test_what_the_machine_does_between_two_products_needs_no_host() -> None:
    """Bias, ReLU, its mask and flattening of whole beats."""
    plan = MachineTrainer(configuration("mlp"), SMALL, Values(SMALL)).plan
    assert [part.name for part in plan.programs] == ["forward", "backward", "update"]
    plan = MachineTrainer(configuration("digits-sat"), SMALL, Values(SMALL)).plan
    assert [part.name for part in plan.programs] == ["forward", "backward"]
    assert not plan.alone


@pytest.mark.parametrize(("k", "n", "fits"), [(65536, 8, False), (8, 32736, True), (8, 32737, False)])
def test_a_matrix_that_one_update_does_not_span_is_refused_with_a_way_out(k: int, n: int, fits: bool) -> None:
    rng = np.random.default_rng(0)
    network = Sequential([Linear("wide", k, n, rng, bias=False), Linear("head", n, 8, rng, bias=False)])
    method = make_method("bdwp", Pattern(2, 8))
    if fits:
        assert plan_step(preset("small"), network, method, (k,), 1).layers[0].weights.n == n
        return
    with pytest.raises(ValueError, match=rf"layer 'wide' has a weight matrix of {k} x {n}; .* at most 65535 x 32736: "):
        plan_step(preset("small"), network, method, (k,), 1)
