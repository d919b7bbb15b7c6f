"""Bench of the whole machine: registers, soft reset, errors of memory and of programs.

Job: config (name), first, count; for `late` seeds, of short programs. Random programs with their values are in
`tb.machine.bench_runs`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles

from nmsat.dataflow.contract.isa import BEAT_BYTES, ErrorCode
from nmsat.dataflow.contract.registers import (
    REGISTERS,
    Access,
    Command,
    Status,
    configuration,
)
from nmsat.dataflow.contract.registers import (
    registers as registers_of,
)
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.sim.sat import Sat, program_words
from nmsat.tb.drive.axi_memory import SLVERR
from nmsat.tb.drive.host import Machine
from nmsat.tb.machine.bins import MEMORIES, Counted
from nmsat.tb.machine.configs import dealt, machine_config
from nmsat.tb.machine.expected import difference, expected
from nmsat.tb.machine.fuzz import fuzzed_job
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch, Register
    from nmsat.sim.sat import Report
    from nmsat.tb.drive.axi_lite import Lite


LATE: Final = 10_000
"""Cycles of latency of the memory of `late`."""


async def machine(dut: Any, job: dict[str, Any]) -> tuple[Machine, SatConfig]:
    """Return the machine of a job, out of reset."""
    config = machine_config(job["config"])
    found = Machine(dut, config)
    await found.start()
    return found, config


def compare(found: Report, expected: Report, what: str) -> None:
    """Compare how two runs ended, and every counter."""
    ends = [(report.error.name, report.error_index) for report in (found, expected)]
    assert ends[0] == ends[1], f"{what}: ended in {ends[0]}, the model says {ends[1]}"
    for name, value in expected.counters.items():
        assert found.counters[name] == value, f"{what}: {name} is {found.counters[name]}, the model says {value}"


@cocotb.test()
async def registers(dut: Any) -> None:
    """Every register, what may not be written, what does not exist."""
    host, config = await machine(dut, load_job())
    lite = host.registers
    for name, value in configuration(config).items():
        assert await lite.read(name) == value, name
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    table = registers_of(config.ports)
    for register in table.values():
        if register.access is Access.READ:
            assert await lite.write_word(register.address, 1) == SLVERR, register.name
    written = await _write_settings(lite, rng, table)
    for name, value in written.items():
        assert await lite.read(name) == value, name
    known = {register.address for register in table.values()}
    for address in range(0, 4096, 4):
        if address not in known:
            assert await lite.read_word(address) == (0, SLVERR), hex(address)
            assert await lite.write_word(address, 1) == SLVERR, hex(address)
    assert await lite.write_word(REGISTERS["program_at"].address, 0, strobe=7) == SLVERR
    assert await lite.read("program_at") == written["program_at"]
    assert await lite.read("status") == Status.IDLE
    save_result(registers=len(known))


async def _write_settings(lite: Lite, rng: np.random.Generator, table: dict[str, Register]) -> dict[str, int]:
    """Write random values to all settings, and others with a bit more that is refused; return what must be read."""
    written = {}
    for name, register in table.items():
        if register.access is Access.SETTING:
            kept = ((1 << register.bits) - 1) << register.low
            written[name] = int(rng.integers(1 << 32)) & kept
            await lite.write(name, written[name])
            for bit in range(32):
                if not kept >> bit & 1:
                    assert await lite.write_word(register.address, written[name] ^ kept | 1 << bit) == SLVERR, name
    for value in (4, 1 << 31, 5):
        assert await lite.write_word(REGISTERS["command"].address, value) == SLVERR, value
    return written


@cocotb.test()
async def soft_reset(dut: Any) -> None:
    """Runs that the host ends at any time, each followed by a whole run that must be as if nothing had been."""
    job = load_job()
    host, config = await machine(dut, job)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    model, cut = Sat(config), 0
    for seed in _short_jobs(config, int(job["first"]), int(job["count"])):
        drawn, expected = random_job(config, seed), random_job(config, seed)
        report = model.run(dealt(config, seed, expected.image.regions, expected.place), expected.image.regions)
        settings = dealt(config, seed, drawn.image.regions, drawn.place)
        await host.begin(settings, [region.copy() for region in drawn.image.regions])
        await ClockCycles(dut.clk, int(rng.integers(1, report.cycles)))
        assert await host.registers.write_word(REGISTERS["program_count"].address, 0) == SLVERR or await _idle(host)
        if not await _idle(host):
            # nothing may come of it, unless the run has ended in this moment
            cut += await host.registers.write_word(REGISTERS["command"].address, Command.START) == SLVERR
        await host.registers.write("command", Command.RESET)
        while not await _idle(host):
            pass
        assert await host.registers.read("status") == Status.IDLE
        assert await host.registers.read("error_code") == ErrorCode.NONE
        assert int(dut.interrupt.value) == 0
        host.forget()
        compare(await host.run(settings, drawn.image.regions), report, f"seed {seed} after a reset")
        for mine, theirs in zip(drawn.image.regions, expected.image.regions, strict=True):
            assert np.array_equal(mine, theirs), f"seed {seed}: memory differs after a reset"
    save_result(cut=cut)


async def _idle(host: Machine) -> bool:
    return bool(await host.registers.read("status") & Status.IDLE)


@cocotb.test()
async def faults(dut: Any) -> None:
    """Memory that answers with errors, regions that are closed, cut or not writable: ends as the model says."""
    job = load_job()
    host, config = await machine(dut, job)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    ends: dict[str, int] = {}
    counted = Counted()
    for seed in _short_jobs(config, int(job["first"]), int(job["count"])):
        drawn = random_job(config, seed)
        regions = drawn.image.regions
        words = program_words(regions, dealt(config, seed, regions, drawn.place))
        for turn in range(5):
            settings, bad = _spoil(rng, dealt(config, seed, regions, drawn.place))
            if turn == 0:
                settings, bad = dealt(config, seed, regions, drawn.place), _result_beat(config, seed, rng)
            if turn == 4:
                settings, bad = _impatient(config, rng, dealt(config, seed, regions, drawn.place)), frozenset()
            report = Sat(config, faults=bad).time(settings, words)
            found = await host.run(settings, [region.copy() for region in regions], bad)
            compare(found, report, f"seed {seed}, {len(bad)} faulty beats, {settings}")
            counted.end(found, MEMORIES[0], 0)
            ends[found.error.name] = ends.get(found.error.name, 0) + 1
    save_result(ends=ends, bins=json.dumps(counted.counts))


def _result_beat(config: SatConfig, seed: int, rng: np.random.Generator) -> frozenset[int]:
    """Return the address of a beat that a job writes: what fails first there is the write."""
    before, after = random_job(config, seed).image.regions, random_job(config, seed)
    settings = dealt(config, seed, after.image.regions, after.place)
    Sat(config).run(settings, after.image.regions)
    changed = []
    for old, new, region in zip(before, after.image.regions, settings.regions, strict=True):
        assert region is not None
        beats = np.flatnonzero((old != new).reshape(-1, BEAT_BYTES).any(axis=1))
        changed += [int(beat) + region.base // BEAT_BYTES for beat in beats]
    return frozenset(rng.choice(changed, 1).tolist()) if changed else frozenset()


def _impatient(config: SatConfig, rng: np.random.Generator, settings: Launch) -> Launch:
    """Return the settings with a watchdog about as patient as memory is slow."""
    latency = memory_timing(config).latency
    return replace(settings, watchdog=int(rng.integers(1, 2 * latency)))


def _spoil(rng: np.random.Generator, settings: Launch) -> tuple[Launch, frozenset[int]]:
    """Return the settings with a region changed, or the same with faulty beats."""
    number = int(rng.integers(len(settings.regions)))
    region = settings.regions[number]
    assert region is not None
    first = region.base // BEAT_BYTES
    draw = rng.random()
    if draw < 0.6:
        return settings, frozenset(int(first + rng.integers(region.size)) for _ in range(int(rng.integers(1, 40))))
    if draw < 0.7:
        changed = None
    elif draw < 0.8:
        changed = replace(region, writable=False)
    else:
        changed = replace(region, size=int(rng.integers(region.size)))
    regions = tuple(changed if i == number else other for i, other in enumerate(settings.regions))
    return replace(settings, regions=regions), frozenset()


@cocotb.test()
async def hostile(dut: Any) -> None:
    """Damaged programs: ends, cycles and counters are those of the model; of well-formed ones memory and flags too."""
    job = load_job()
    host, config = await machine(dut, job)
    ends: dict[str, int] = {}
    compared = 0
    for seed in range(int(job["first"]), int(job["first"]) + int(job["count"])):
        drawn = fuzzed_job(config, seed)
        regions = drawn.image.regions
        settings = dealt(config, seed, regions, drawn.place)
        wanted = expected(config, settings, regions)
        found = await host.run(settings, regions)
        compare(found, wanted.report, f"seed {seed} ({drawn.what})")
        wrong = difference(wanted, found, regions)
        assert not wrong, f"seed {seed} ({drawn.what}): {wrong}"
        compared += wanted.memory is not None
        ends[found.error.name] = ends.get(found.error.name, 0) + 1
    save_result(ends=ends, compared=compared)


@cocotb.test()
async def late(dut: Any) -> None:
    """Memory that answers after 10,000 cycles: waited for without a limit or below it, given up beyond it."""
    job = load_job()
    config = machine_config(job["config"])
    timing = replace(memory_timing(config), latency=LATE)
    host = Machine(dut, config, timing=timing)
    await host.start()
    ends: dict[str, int] = {}
    for seed in job["seeds"]:
        for watchdog in (0, LATE + 100, LATE - 100):
            drawn, again = random_job(config, seed), random_job(config, seed)
            settings = replace(dealt(config, seed, drawn.image.regions, drawn.place), watchdog=watchdog)
            report = Sat(config, timing).run(settings, again.image.regions)
            found = await host.run(settings, drawn.image.regions)
            compare(found, report, f"seed {seed}, watchdog {watchdog}")
            for mine, theirs in zip(drawn.image.regions, again.image.regions, strict=True):
                assert np.array_equal(mine, theirs), f"seed {seed}, watchdog {watchdog}: memory differs"
            ends[found.error.name] = ends.get(found.error.name, 0) + 1
    save_result(ends=ends)


def _short_jobs(config: SatConfig, first: int, count: int) -> list[int]:
    """Return seeds of random jobs that do not take long."""
    seeds = []
    for seed in range(first, first + 20 * count):
        drawn = random_job(config, seed)
        if drawn.place.beats <= 60:
            seeds.append(seed)
        if len(seeds) == count:
            break
    return seeds
