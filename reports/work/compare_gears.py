"""The models of nmsat itself for `nmsat compare`: quick gear, exact gear and Verilog, each in a process of its own.

A process of its own makes the memory of one model known apart from that of another, and lets each begin with nothing
walked and nothing kept. It is a copy of one that has imported this module, and so starts in milliseconds.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.training.workers import interruptible, workers
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import Launch, open_regions
from nmsat.dataflow.program.jobs import JobRun, ProductJob
from nmsat.dataflow.program.lower import place_product
from nmsat.dataflow.program.step import write_code
from nmsat.dataflow.program.tensors import Image, Place
from nmsat.reports.work.peer_driver import peak_bytes, status_bytes
from nmsat.sim.sat import Sat
from nmsat.sim.work.timed import Timer

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.jobs import Job

PROGRAM_REGION: Final = 3
"""Region of a program beside its operands, which `dataflow.program.lower` puts into those before it."""


@dataclass(frozen=True)
class Measured:
    """What a gear did with the programs of a job. seconds: of processor time; peak_bytes: most memory of a process."""

    counters: dict[str, int]
    schedule: dict[str, Any]
    seconds: float
    peak_bytes: int


def quick(config: SatConfig, job: Job) -> Measured:
    """Run a job in the quick gear, its cut chosen first."""
    start = time.process_time()
    timed = Timer(config).time(job)
    return Measured(timed.counters, timed.schedule, time.process_time() - start, peak_bytes())


def exact(config: SatConfig, job: Job) -> Measured:
    """Run a job in the exact gear, its cut chosen and its program assembled first."""
    start = time.process_time()
    total: Counter[str] = Counter()
    for run in job.runs(config):
        words = [instruction.encode() for instruction in run.assemble(config).instructions]
        report = Sat(config).time(Launch(open_regions(config.ports), 0, 0, len(words)), words)
        if report.error is not ErrorCode.NONE:
            raise RuntimeError(f"a program ended in {report.error.name} at instruction {report.error_index}")
        total.update({name: run.times * count for name, count in report.counters.items()})
    return Measured(dict(total), {}, time.process_time() - start, peak_bytes())


def rtl(config: SatConfig, job: Job) -> Measured:
    """Run the one program of a job on the Verilated machine, its operands zeros; the start of cocotb is part of it."""
    from nmsat.reports.work.verify import run_image

    image, place = image_of(config, job)
    start = time.process_time() + _children()
    counters, _ = run_image(config, image.regions, place)
    seconds = time.process_time() + _children() - start
    largest = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Measured(counters, {}, seconds, max(largest, peak_bytes()))


_RUN: Final = {"quick": quick, "exact": exact, "rtl": rtl}


def measure(model: str, config: SatConfig, job: Job) -> Measured:
    """Run a model of `compare_names.GEARS` in a process of its own; what it raises is raised here."""
    with workers(1, [__name__]) as pool:
        return pool.submit(_run, model, config, job).result()


def _run(model: str, config: SatConfig, job: Job) -> Measured:
    shared = status_bytes(os.getppid(), "VmRSS") - status_bytes("self", "VmRSS")
    with interruptible():  # the simulation of the Verilog is a process of its own, which must not outlive this one
        found = _RUN[model](config, job)
    # What the imports hold belongs to it; pages of files that are read again are counted twice.
    return replace(found, peak_bytes=found.peak_bytes + shared)


def one_program(config: SatConfig, job: Job) -> JobRun | None:
    """Return the program of a job that consists of a single one, which runs once; None for others."""
    if not isinstance(job, ProductJob) or job.count > 1:
        return None
    runs = job.runs(config)
    return runs[0] if len(runs) == 1 and runs[0].times == 1 and len(runs[0].cuts) == 1 else None


def image_of(config: SatConfig, job: Job) -> tuple[Image, Place]:
    """Return the memory of `one_program`, all zeros but for the instructions, and where those stand.

    Cycles do not depend on values (docs/timing.md). ValueError for a job that is not one program.
    """
    run = one_program(config, job)
    if run is None or not isinstance(job, ProductJob):
        raise ValueError(f"{job.name} {job.stage} is not one program")
    code = run.assemble(config)
    placed = place_product(config, job.products[0], job.form, bias=job.bias, backward=job.backward)
    place = Place("program", PROGRAM_REGION, 0, len(code.instructions))
    beats = [*placed.layout.beats[:PROGRAM_REGION], place.beats]
    image = Image(beats)
    write_code(image, place, code)
    return image, place


def _children() -> float:
    """Seconds of processor time of processes that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
