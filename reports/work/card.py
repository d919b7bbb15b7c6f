"""The work behind `nmsat card validate`: a machine by backend, and what must hold of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.reports.work.program import gradient_program, matrix_program
from nmsat.reports.work.progress import task
from nmsat.sim.card.driver import Card, CardError
from nmsat.sim.card.model import Model
from nmsat.sim.results.report import ProgramRun
from nmsat.sim.sat import Report, Sat, launch
from nmsat.sim.work.training import MachineTrainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.program.tensors import Image, Place
    from nmsat.reports.work.program import ProductProgram
    from nmsat.tb.run.runner import Built

BACKENDS: Final = ("sim", "rtl", "xrt", "pynq")
"""What a machine is reached through: the register model, the Verilated kernel, XRT, PYNQ."""

EXACT: Final = ("sim", "rtl")
"""Backends behind the memory of the simulator: all counters are equal."""

TIMELESS: Final = ("instructions", "read_beats", "write_bursts", "write_beats", "windows", "steps")
"""Counters that do not depend on how quick the memory is."""

BENCH: Final = "nmsat.tb.machine.bench_card"

NETWORK: Final = "digits-sat"
"""What is trained, with a batch of 4."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold: what, cycles that the machine took, what is wrong in words ('' if nothing is)."""

    what: str
    cycles: int
    wrong: str


class RtlCard:
    """The Verilated `sat_kernel` behind the driver of a card; a simulation for each program."""

    def __init__(self, config: SatConfig) -> None:
        self.config = config
        self._built = _build_kernel(config)

    def run(self, settings: Launch, regions: list[NDArray[np.uint8]]) -> Report:
        """Run the program in the regions and change them."""
        from nmsat.tb.run.runner import run

        job: dict[str, Any] = {f"region{number}": region for number, region in enumerate(regions)}
        place = [settings.program_region, settings.program_at, settings.program_count]
        saved = (
            run(self._built, BENCH, ["program"], job=job | {"config": asdict(self.config), "place": place})
            .check()
            .saved
        )
        for number, region in enumerate(regions):
            region[:] = saved[f"region{number}"]
        flags = bool(saved["special"]), bool(saved["overflow"])
        return Report(saved["counters"], ErrorCode(int(saved["error"])), int(saved["error_index"]), *flags)

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        """Run a program that lies in the image; CardError if it ends in an error."""
        report = self.run(launch(image.regions, program, ports=self.config.ports), image.regions)
        if report.error is not ErrorCode.NONE:
            raise CardError(f"program {program.name!r} ended in {report.error.name} at {report.error_index}")
        return ProgramRun(report.cycles, report.special, report.counters)


def open_card(
    backend: str, config: SatConfig, *, image: Path | None = None, library: Path | None = None, device: int = 0
) -> Card | RtlCard:
    """Return the machine of a backend, with the interface of `sim.sat.Sat`.

    image: the xclbin (xrt) or the bitstream (pynq); library: libsat_host.so (xrt); device: number of the card (xrt).
    Raises ValueError for an unknown backend or what it needs and is not given, ImportError without the package pynq,
    OSError for a card that cannot be reached, CardError for one that is another machine.
    """
    if backend == "sim":
        return Card(config, Model(config))
    if backend == "rtl":
        return RtlCard(config)
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; known backends: {', '.join(BACKENDS)}")
    if image is None:
        raise ValueError(f"image is not given; backend {backend!r} loads an xclbin or a bitstream")
    if backend == "pynq":
        from nmsat.sim.card.pynq import Pynq

        return Card(config, Pynq(image))
    from nmsat.sim.card.xrt import Xrt

    if library is None:
        raise ValueError("library is not given; backend 'xrt' needs libsat_host.so, built from host/sat_host.cpp")
    return Card(config, Xrt(library, image, device))


def validate(
    card: Card | RtlCard, config: SatConfig, *, programs: int, steps: int, seed: int, exact: bool
) -> list[Check]:
    """Run products, random programs and training steps on a card; exact: all counters must be the simulator's.

    A card that stops answering, or a run that does not end, is a check that failed.
    """
    checks: dict[str, Callable[[], Check]] = {
        product.what: partial(_product, card, product) for product in _products(config, seed)
    }
    for number in range(seed, seed + programs):
        checks[f"random program {number}"] = partial(_job, card, config, number, exact=exact)
    found = []
    with task("programs on the card", len(checks), "program") as running:
        for what, check in checks.items():
            found.append(_guarded(what, check))
            running.advance()
    if steps:
        with task("training on the card"):
            found.append(_guarded(f"training steps of {NETWORK}", partial(_train, card, config, steps, seed)))
    return found


def _guarded(what: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (CardError, OSError) as error:
        return Check(what, 0, str(error))


def _products(config: SatConfig, seed: int) -> list[_Product]:
    return [
        _Product("dense 20 x 24 x 17", matrix_program(config, (20, 24, 17), None, None, seed)),
        _Product("2:8 33 x 64 x 20", matrix_program(config, (33, 64, 20), Pattern(2, 8), None, seed)),
        _Product("transposed 24 x 16 x 18", gradient_program(config, (24, 16, 18), None, seed)),
    ]


@dataclass(frozen=True)
class _Product:
    what: str
    program: ProductProgram


def _product(card: Card | RtlCard, product: _Product) -> Check:
    """A product against NumPy's ordered sums, which know nothing of machine or simulator."""
    program = product.program
    assert program.reference is not None, f"{product.what} has no reference"
    wanted = program.reference()
    settings = launch(program.image.regions, program.place, ports=card.config.ports)
    report = card.run(settings, program.image.regions)
    values = program.image.read_rows(program.result)
    wrong = int((values.view(np.uint16) != wanted.view(np.uint16)).sum())
    text = f"ended in {report.error.name}" if report.error else f"{wrong} values differ from NumPy" if wrong else ""
    return Check(product.what, report.cycles, text)


def _job(card: Card | RtlCard, config: SatConfig, seed: int, *, exact: bool) -> Check:
    """A random program against the simulator: memory, how it ended, counters."""
    from nmsat.tb.machine.jobs import random_job

    drawn, expected = random_job(config, seed), random_job(config, seed)
    settings = launch(expected.image.regions, expected.place, ports=config.ports)
    report = Sat(config).run(settings, expected.image.regions)
    found = card.run(settings, drawn.image.regions)
    wrong = [
        f"region {number} differs"
        for number, (mine, theirs) in enumerate(zip(drawn.image.regions, expected.image.regions, strict=True))
        if not np.array_equal(mine, theirs)
    ]
    if (found.error, found.special, found.overflow) != (report.error, report.special, report.overflow):
        wrong.append(f"ended in {found.error.name}, the simulator says {report.error.name}, or flags differ")
    names = report.counters if exact else TIMELESS
    wrong += [
        f"{name} is {found.counters[name]}, the simulator says {report.counters[name]}"
        for name in names
        if found.counters[name] != report.counters[name]
    ]
    return Check(f"random program {seed}", found.cycles, "; ".join(wrong))


def _train(card: Card | RtlCard, config: SatConfig, steps: int, seed: int) -> Check:
    """Training steps against NumPy: losses and weights, bit by bit."""
    run = TrainConfig(network=NETWORK, epochs=1, batch=4, seed=seed)
    machine, reference = MachineTrainer(run, config, card), Trainer(run)
    wrong = []
    for step in range(min(steps, machine.steps)):
        mine, theirs = machine.run_step(), reference.run_step()
        if mine.hex() != theirs.hex():
            wrong.append(f"loss of step {step} is {mine!r}, NumPy has {theirs!r}")
            break
    if not wrong and machine.weights_sha256() != reference.weights_sha256():
        wrong.append("weights differ from NumPy")
    what = f"{min(steps, machine.steps)} training steps of {NETWORK}"
    return Check(what, sum(machine.result.cycles), "; ".join(wrong))


def _build_kernel(config: SatConfig) -> Built:
    from nmsat.dataflow.contract.registers import KERNEL
    from nmsat.hw.parts.verilog import emit
    from nmsat.hw.release.kernel import kernel_verilog
    from nmsat.hw.sat import Sat as Circuit
    from nmsat.tb.run.runner import build, check_tools

    check_tools()
    with task(f"the RTL of the kernel, {config.name!r}; minutes if it has not been compiled before"):
        return build({**emit(Circuit(config), "sat"), f"{KERNEL}.v": kernel_verilog(config)}, KERNEL)
