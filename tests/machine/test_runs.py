"""The whole machine: programs on the RTL against the simulator, training steps against NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.recipes import recipe
from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.reports.work import verify
from nmsat.sim.sat import Sat, launch
from nmsat.sim.work.training import MachineTrainer
from nmsat.tb.machine.fuzz import fuzzed_job

TINY, SMALL = preset("tiny"), preset("small")
TWO_LANES = TINY.replace(name="two-lanes", columns=8, act_lanes=2, row_slices=(2,), column_slices=(4,))
"""What `vcu1525` has and the small presets have not: two activations per cycle, register slices."""
RUN = TrainConfig(network="digits-sat", epochs=1, batch=4)


def same_weights(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(np.array_equal(p.master.view(np.uint32), q.master.view(np.uint32)) for p, q in pairs)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (SMALL, {}),
        (TINY, {"method": "sr-ste", "pattern": "2:4"}),
        (SMALL, {"method": "sdwp", "pattern": "1:8"}),
        (SMALL, {"method": "dense"}),
        (SMALL, {"pattern": "2:16", "weight_decay": 0.0, "momentum": 0.0, "batch": 3}),
        (SMALL, {"sparse_ends": False, "shift": 0}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else ",".join(map(str, value.values())) or "bdwp",
)
def test_steps_on_the_simulator_have_the_bits_of_numpy(config, changes: dict[str, object]) -> None:
    run = RUN.replace(**changes)
    sat, reference = MachineTrainer(run, config, Sat(config)), Trainer(run)
    for _ in range(2):
        assert sat.run_step() == reference.run_step()
        assert same_weights(sat, reference)
    assert sat.result.macs_kept == reference.result.macs_kept
    assert sat.result.macs_dense == reference.result.macs_dense


def test_an_infinite_gradient_suppresses_the_step() -> None:
    run = RUN.replace(shift=24, dynamic_shift=True)
    sat, reference = MachineTrainer(run, SMALL, Sat(SMALL)), Trainer(run)
    for _ in range(3):
        assert sat.run_step() == reference.run_step()
    assert sat.result.skipped == reference.result.skipped > 0
    assert sat.scale.shift == reference.scale.shift < 24
    assert same_weights(sat, reference)


def test_a_run_continues_from_its_checkpoint() -> None:
    whole, first = MachineTrainer(RUN, SMALL, Sat(SMALL)), MachineTrainer(RUN, SMALL, Sat(SMALL))
    for _ in range(3):
        whole.run_step()
    first.run_step()
    second = MachineTrainer(RUN, SMALL, Sat(SMALL))
    second.restore(first.checkpoint())
    for _ in range(2):
        second.run_step()
    assert same_weights(whole, second)
    assert whole.result.losses == second.result.losses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arithmetic": "fast"}, "arithmetic is 'fast'; training on SAT needs 'contract'"),
        ({"optimizer": "adam"}, "optimizer is 'adam'"),
        ({"method": "mvue"}, "method is 'mvue'; SAT runs dense, ste, sr-ste, sdwp and bdwp"),
        ({"prune_from": "master"}, "prune_from is 'master'"),
    ],
)
def test_what_sat_cannot_train_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MachineTrainer(RUN.replace(**changes), SMALL, Sat(SMALL))


def test_damaged_programs_end_in_the_simulator() -> None:
    ends = set()
    for seed in range(60):
        job = fuzzed_job(TINY, seed)
        ends.add(Sat(TINY).time(launch(job.image.regions, job.place), _words(job)).error)
    assert {ErrorCode.NONE, ErrorCode.FIELD, ErrorCode.OPCODE} <= ends


def _words(job) -> list[int]:
    data = job.image.regions[job.place.region].tobytes()[job.place.at * 64 : (job.place.at + job.place.beats) * 64]
    return [int.from_bytes(data[i : i + 64], "little") for i in range(0, len(data), 64)]


@pytest.mark.long
@pytest.mark.parametrize("network", ["resnet9-small", "vgg19-small"])
def test_networks_with_work_for_the_host_train_on_the_simulator(network: str) -> None:
    run = recipe(network).replace(arithmetic="contract", batch=2)
    sat, reference = MachineTrainer(run, SMALL, Sat(SMALL)), Trainer(run)
    for _ in range(2):
        assert sat.run_step() == reference.run_step()
        assert same_weights(sat, reference)


@pytest.mark.rtl
def test_random_programs_on_the_rtl() -> None:
    verdict = verify.verify_jobs(TINY, 30, 0)
    assert verdict.wrong == ()
    assert (verdict.jobs, verdict.random_jobs, verdict.mismatches) == (30, 6, 0)


@pytest.mark.rtl
def test_damaged_programs_on_the_rtl() -> None:
    verdict = verify.verify_fuzz(TINY, 60, 0)
    assert verdict.wrong == ()
    assert verdict.programs == sum(verdict.ends.values()) == 60
    assert len(verdict.ends) > 2
    assert verdict.compared >= 3


@pytest.mark.rtl
def test_training_steps_on_the_rtl(tmp_path) -> None:
    told: list[list[object]] = []
    job = {"train": json.dumps(RUN.as_dict()), "folder": str(tmp_path), "steps": 2, "every": 1}
    saved = verify.train_on_rtl(TINY, job, told.append)
    reference, model = Trainer(RUN), MachineTrainer(RUN, TINY, Sat(TINY))
    losses = [reference.run_step() for _ in range(2)]
    assert saved["losses"] == losses == [model.run_step() for _ in range(2)]
    assert saved["weights_sha256"] == reference.weights_sha256()
    assert saved["cycles"] == model.result.cycles
    assert [line[0] for line in told] == [1, 2]


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("config", [TINY, SMALL, TWO_LANES], ids=lambda config: config.name)
def test_many_random_programs_on_the_rtl(config) -> None:
    verdict = verify.verify_jobs(config, 500, 10_000)
    assert verdict.wrong == ()


@pytest.mark.rtl
@pytest.mark.long
def test_many_damaged_programs_on_the_rtl() -> None:
    verdict = verify.verify_fuzz(TINY, 2000, 10_000)
    assert verdict.wrong == ()
    assert verdict.programs == 2000
    assert verdict.compared > 100
