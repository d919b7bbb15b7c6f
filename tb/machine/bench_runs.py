"""Runs of the whole machine in RTL against the simulator: random jobs, hostile programs, training (cocotb tests)."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cocotb
import numpy as np
from cocotb.task import bridge, resume
from cocotb.triggers import SimTimeoutError

from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.recipes import run_name
from nmsat.algorithms.training.results import run_logged
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.program.tensors import Place
from nmsat.sim.results.report import ProgramRun
from nmsat.sim.sat import Report, Sat, launch, program_words
from nmsat.sim.work.training import MachineTrainer
from nmsat.tb.drive.host import Machine
from nmsat.tb.machine.bins import MEMORIES, Counted, carry_out, fresh_state
from nmsat.tb.machine.configs import dealt, machine_config
from nmsat.tb.machine.expected import difference, expected
from nmsat.tb.machine.fuzz import fuzzed_job
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.machine.layer_jobs import layer_job
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.algorithms.training.data import Dataset
    from nmsat.algorithms.training.train import Progress
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.program.tensors import Image
    from nmsat.tb.machine.jobs import MachineJob

RESULT_FIELDS: Final = (
    "losses",
    "skipped",
    "macs_dense",
    "macs_kept",
    "bound",
    "seconds",
    "weights_sha256",
    "cycles",
)
"""Fields of `TrainResult` that `train` saves, beside its epochs."""

FUZZ_LIMIT: Final = 2_000_000
"""Cycles within which a hostile program must have ended."""


@cocotb.test()
async def jobs(dut: Any) -> None:
    """Random jobs: memory, cycles, counters and flags equal to the simulator's."""
    job = load_job()
    config = machine_config(job["config"])
    pauses = float(job["pauses"]) or None
    machine = Machine(dut, config, pauses=pauses, seed=int(job["first"]))
    await machine.start()
    await _run_jobs(machine, job, partial(random_job, config), exact=pauses is None)


@cocotb.test()
async def layers(dut: Any) -> None:
    """Layers cut to a few tiles: memory, cycles, counters and flags equal to the simulator's."""
    job = load_job()
    config = machine_config(job["config"])
    machine = Machine(dut, config)
    await machine.start()
    await _run_jobs(machine, job, partial(layer_job, config), exact=True)


@cocotb.test()
async def fuzz(dut: Any) -> None:
    """Hostile programs: each ends in done or error, and no access leaves the regions (`tb.drive.axi_memory.Space`).

    Of those that are well-formed memory and flags are the simulator's.
    """
    job = load_job()
    config = machine_config(job["config"])
    machine = Machine(dut, config)
    await machine.start()
    ends: dict[str, int] = {}
    wrong: list[str] = []
    counted = Counted()
    compared = 0
    for seed in _seeds(job):
        drawn = fuzzed_job(config, seed)
        settings = dealt(config, seed, drawn.image.regions, drawn.place)
        wanted = expected(config, settings, drawn.image.regions, counted)
        words = program_words(drawn.image.regions, settings)
        guard = drawn.image.regions[drawn.place.region].copy()
        try:
            found = await machine.run(settings, drawn.image.regions, limit=FUZZ_LIMIT)
        except (AssertionError, SimTimeoutError) as error:
            # What the machine does after this says nothing about the programs behind it.
            wrong.append(f"seed {seed} ({drawn.what}): {type(error).__name__} {error}")
            break
        if not np.array_equal(guard, drawn.image.regions[drawn.place.region]):
            wrong.append(f"seed {seed} ({drawn.what}): a region that is read only has changed")
        differs = difference(wanted, found, drawn.image.regions)
        if differs:
            wrong.append(f"seed {seed} ({drawn.what}): {differs}")
        compared += wanted.memory is not None
        ends[found.error.name] = ends.get(found.error.name, 0) + 1
        counted.end(found, MEMORIES[0], words[found.error_index] if found.error_index < len(words) else 0)
        _tell(job, seed)
    counts = {"programs": sum(ends.values()), "compared": compared, "mismatches": len(wrong)}
    save_result(**counts, wrong=json.dumps(wrong), ends=json.dumps(ends), bins=json.dumps(counted.counts))


@cocotb.test()
async def image(dut: Any) -> None:
    """One program in its memory."""
    job = load_job()
    config = machine_config(job["config"])
    machine = Machine(dut, config)
    await machine.start()
    regions = [job[name] for name in sorted(name for name in job if name.startswith("region"))]
    region, at, beats = (int(value) for value in job["place"])
    report = await machine.run(launch(regions, Place("program", region, at, beats), ports=config.ports), regions)
    assert report.error is ErrorCode.NONE, f"ended in {report.error.name} at {report.error_index}"
    save_result(counters=report.counters, **{f"region{number}": data for number, data in enumerate(regions)})


@cocotb.test()
async def train(dut: Any) -> None:
    """A training run, its steps on the RTL; checkpoint and results in the folder of the job."""
    job = load_job()
    config = machine_config(job["config"])
    machine = Machine(dut, config)
    await machine.start()
    run_config = TrainConfig(**json.loads(job["train"]))
    await bridge(_train)(job, config, run_config, RtlMachine(machine))


class RtlMachine:
    """The RTL as `sim.work.training.ProgramRunner`; to be called from a thread of `cocotb.bridge`."""

    def __init__(self, machine: Machine) -> None:
        self._run = resume(machine.run)
        self._ports = machine.config.ports

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        """Run a program to its end; RuntimeError if it ends in an error."""
        report = self._run(launch(image.regions, program, ports=self._ports), image.regions)
        if report.error is not ErrorCode.NONE:
            raise RuntimeError(f"program {program.name!r} ended in {report.error.name} at {report.error_index}")
        return ProgramRun(report.cycles, report.special, report.counters)


def _train(job: dict[str, Any], config: SatConfig, run_config: TrainConfig, machine: RtlMachine) -> None:
    limit, done = int(job["steps"]), 0

    def make(chosen: TrainConfig, data: Dataset | None) -> MachineTrainer:
        return MachineTrainer(chosen, config, machine, data)

    def seen(progress: Progress) -> None:
        nonlocal done
        done += 1
        _tell(job, [progress.step, progress.steps, progress.epoch, progress.loss, progress.accuracy, progress.seconds])

    result = run_logged(
        run_config,
        Path(str(job["folder"])),
        run_name(run_config),
        progress=seen,
        stop=lambda: 0 < limit <= done,
        every=int(job["every"]),
        make=make,
    )
    saved = {name: getattr(result, name) for name in RESULT_FIELDS}
    save_result(**saved, epochs=[asdict(epoch) for epoch in result.epochs])


async def _run_jobs(machine: Machine, job: dict[str, Any], make: Callable[[int], MachineJob], *, exact: bool) -> None:
    """Run the jobs `first`, `first` + 1, ... on RTL and simulator; save what differs, cycles, seconds of the RTL."""
    model = Sat(machine.config)
    wrong: list[str] = []
    counted = Counted()
    cycles, seconds = 0, 0.0
    numbers = _seeds(job)
    for number in numbers:
        drawn, expected = make(number), make(number)
        settings = dealt(machine.config, number, drawn.image.regions, drawn.place)
        report = _carried_out(
            model, dealt(machine.config, number, expected.image.regions, expected.place), expected, counted
        )
        start = time.perf_counter()
        found = await machine.run(settings, drawn.image.regions)
        seconds += time.perf_counter() - start
        cycles += found.cycles
        counted.end(found, MEMORIES[not exact], 0)
        difference = differences(drawn, expected, found, report, exact=exact)
        if difference:
            wrong.append(f"seed {number} ({drawn.what}): {difference}")
        _tell(job, number)
    counts = {"jobs": len(numbers), "mismatches": len(wrong), "cycles": cycles, "seconds": seconds}
    save_result(**counts, wrong=json.dumps(wrong[:20]), bins=json.dumps(counted.counts))


def _seeds(job: dict[str, Any]) -> Sequence[int]:
    """Return the seeds that a job asks for: those that it lists, or so many from the first on."""
    return job.get("seeds") or range(int(job["first"]), int(job["first"]) + int(job["count"]))


def _carried_out(model: Sat, settings: Launch, job: MachineJob, counted: Counted) -> Report:
    """Run a job on the simulator and count what it carries out."""
    regions = job.image.regions
    state = fresh_state(model.config, regions)
    found = model.time(settings, program_words(regions, settings), carry_out(counted, state))
    return Report(found.counters, found.error, found.error_index, state.special, state.overflow)


def differences(drawn: MachineJob, expected: MachineJob, found: Report, report: Report, *, exact: bool) -> str:
    """Return in words what differs between RTL and simulator; exact: cycles and counters too. Empty if nothing."""
    wrong = []
    for number, (mine, theirs) in enumerate(zip(drawn.image.regions, expected.image.regions, strict=True)):
        places = np.nonzero(mine != theirs)[0]
        if places.size:
            wrong.append(f"{places.size} bytes of region {number} differ, the first at {places[0]:#x}")
    if (found.error, found.special, found.overflow) != (report.error, report.special, report.overflow):
        wrong.append(
            f"ended with {found.error.name}, flags {found.special, found.overflow}; the simulator says "
            f"{report.error.name}, {report.special, report.overflow}"
        )
    if exact:
        for name, value in report.counters.items():
            if found.counters[name] != value:
                wrong.append(f"{name} is {found.counters[name]}; the simulator says {value}")
    return "; ".join(wrong)


def _tell(job: dict[str, Any], what: object) -> None:
    """Append a line to the file by which the caller shows progress."""
    path = str(job.get("progress", ""))
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")
