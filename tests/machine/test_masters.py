"""Machines with several AXI4 masters: simulator, quick gear, Verilog."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from amaranth.hdl import Module

from nmsat.algorithms.core.tape import Pattern, Product, Stage
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.limits import RESET_STAGES
from nmsat.dataflow.contract.registers import Command, Launch, Region, port_of
from nmsat.dataflow.program.emit import choose
from nmsat.dataflow.program.estimate import estimate_cycles
from nmsat.dataflow.program.lower import Form, place_product
from nmsat.hw import sat as top
from nmsat.reports.work.verify import build_machine
from nmsat.sim.quick.gear import Quick
from nmsat.sim.quick.product import time_product
from nmsat.sim.sat import Sat, launch, program_words
from nmsat.tb.machine.configs import dealt
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.run.runner import run
from tests.machine.outside import Bench, outside

if TYPE_CHECKING:
    from nmsat.dataflow.program.product import ProductCode
    from nmsat.tb.run.runner import Built

MANY = ("tiny-2", "tiny-4")


@pytest.mark.parametrize("config", [*map(preset, MANY)], ids=lambda config: config.name)
def test_memory_is_that_of_one_master(config: SatConfig) -> None:
    """Whatever lies behind which of them; time differs."""
    one, cycles = preset("tiny"), set()
    for seed in range(4):
        mine, theirs = random_job(config, seed), random_job(one, seed)
        found = Sat(config).run(dealt(config, seed, mine.image.regions, mine.place), mine.image.regions)
        wanted = Sat(one).run(launch(theirs.image.regions, theirs.place), theirs.image.regions)
        assert found.error is wanted.error is ErrorCode.NONE
        assert (found.special, found.overflow) == (wanted.special, wanted.overflow)
        for name in ("instructions", "read_beats", "write_bursts", "write_beats", "windows", "steps"):
            assert found.counters[name] == wanted.counters[name], name
        for one_region, other in zip(mine.image.regions, theirs.image.regions, strict=True):
            assert np.array_equal(one_region, other)
        cycles.add(found.cycles - wanted.cycles)
    assert len(cycles) > 1


@pytest.mark.parametrize("config", [*map(preset, MANY)], ids=lambda config: config.name)
def test_quick_gear_equals_the_exact_gear(config: SatConfig) -> None:
    """One gear for all programs: what it has walked for one is used for regions behind other masters."""
    gear, walked, cycles = Quick(config), 0, 0
    for seed in (*range(4), *range(2)):
        job = random_job(config, seed)
        for turn in (seed, seed + 1):
            settings = dealt(config, turn, job.image.regions, job.place)
            words = program_words(job.image.regions, settings)
            quick = gear.time(settings, words)
            assert not quick.exact
            assert quick.report == Sat(config).time(settings, words), (seed, turn)
            walked, cycles = walked + quick.walked, cycles + quick.report.cycles
    assert walked < 0.7 * cycles


def pointwise(config: SatConfig) -> ProductCode:
    """Return a 1x1 convolution at 2:8: its loads and its stores are busy all the time."""
    product = Product("layer", Stage.FF, 4096, 256, 128, Pattern(2, 8))
    (code,) = place_product(config, product, Form.WEIGHTS).codes
    return code


def test_loads_and_stores_no_longer_share_a_master() -> None:
    """The chooser's estimate says by how much, within a few percent."""
    took, said = [], []
    for config in (preset("vcu1525"), preset("vcu1525-2")):
        code = pointwise(config)
        cut = choose(config, code)
        said.append(estimate_cycles(cut))
        took.append(time_product(Quick(config), code, cut).cycles)
    assert took[1] < 0.75 * took[0], took
    assert said == pytest.approx(took, rel=0.03)


def test_a_region_behind_no_master_is_refused() -> None:
    config = preset("tiny-2")
    settings = Launch((Region(0, 64, True), None, Region(4096, 64, True, port=2)), 0, 0, 1)
    message = "region 2 lies behind port 2; the machine has ports 0 to 1"
    for refusing in (lambda: Sat(config).time(settings, []), lambda: settings.writes(2)):
        with pytest.raises(ValueError, match=message):
            refusing()
    assert settings.writes(4)["region2_port"] == 2
    assert "region2_port" not in replace(settings, regions=settings.regions[:1]).writes()


def test_where_regions_lie() -> None:
    assert [[port_of(region, ports) for region in range(4)] for ports in (1, 2, 4)] == [
        [0, 0, 0, 0],
        [0, 0, 1, 1],
        [0, 1, 2, 3],
    ]


@pytest.fixture(scope="module", params=MANY)
def machine(request: pytest.FixtureRequest) -> tuple[SatConfig, Built]:
    config = preset(request.param)
    return config, build_machine(config)


def bench(machine: tuple[SatConfig, Built], test: str, first: int, count: int, **more: Any) -> dict[str, Any]:
    """Run a bench of the whole machine (`tb.machine.bench_runs`, `bench_sat`) and return what it has saved."""
    config, built = machine
    module = "nmsat.tb.machine.bench_runs" if test == "jobs" else "nmsat.tb.machine.bench_sat"
    job = {"config": asdict(config), "first": first, "count": count, **more}
    return run(built, module, [test], job=job).check().saved


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("pauses", [0.0, 0.4])
def test_random_programs(machine: tuple[SatConfig, Built], pauses: float) -> None:
    saved = bench(machine, "jobs", 0, 60, pauses=pauses)
    assert (saved["jobs"], saved["mismatches"], saved["wrong"]) == (60, 0, "[]")


@pytest.mark.rtl
@pytest.mark.long
def test_registers_errors_and_resets(machine: tuple[SatConfig, Built]) -> None:
    assert bench(machine, "registers", 0, 0)["registers"] > 75
    assert bench(machine, "soft_reset", 0, 5)["cut"] >= 3
    assert {"READ", "WRITE", "REGION"} <= set(bench(machine, "faults", 0, 20)["ends"])
    assert {"FIELD", "OPCODE"} <= set(bench(machine, "hostile", 0, 25)["ends"])


def test_of_errors_in_one_cycle_that_of_the_first_port_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads before writes, and of each the lowest master: every set of errors of ports that have no insides."""
    ports: list[Any] = []

    def hollow(base: Any) -> type:
        class Hollow(base):
            def __init__(self, clients: int, parts: int) -> None:
                super().__init__(clients, parts)
                ports.append(self)

            def elaborate(self, platform: object) -> Module:
                return Module()

        return Hollow

    for kind in ("ReadPort", "WritePort"):
        monkeypatch.setattr(top, kind, hollow(getattr(top, kind)))
    codes = [ErrorCode.READ, ErrorCode.REGION, ErrorCode.WRITE, ErrorCode.TIMEOUT]

    async def scenario(bench: Bench) -> None:
        for port in ports:
            bench.ctx.set(port.idle, 1)
        for shown in range(1, 1 << len(ports)):
            await bench.setting("command", Command.START)
            await bench.tick(RESET_STAGES)
            for i, port in enumerate(ports):
                bench.ctx.set(port.error, {"valid": shown >> i & 1, "code": codes[i], "client": 0})
            await bench.tick()
            for port in ports:
                bench.ctx.set(port.error, {"valid": 0, "code": 0, "client": 0})
            first = next(code for i, code in enumerate(codes) if shown >> i & 1)
            assert (await bench.ended())[1] == first, shown

    machine = outside(preset("tiny-2"))
    assert len(ports) == len(codes)
    machine.run(scenario)
