"""The watchdog: memory that answers late, or never, on each channel."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import REGISTERS, Command, Launch, Region, Status
from nmsat.dataflow.cycles.memory import MemoryTiming
from nmsat.sim.control.fetch import Words
from nmsat.sim.memory.channel import Beat, Channel
from nmsat.sim.memory.masters import Master
from nmsat.sim.parts.outcome import Machine
from nmsat.sim.run import Run
from tests.machine.outside import END, WORK, Bench, Outside, asks, finish, only, outside, place, started, writes

if TYPE_CHECKING:

    from nmsat.sim.parts.outcome import Report

LIMIT = 60
"""Cycles after which memory is given up in these tests."""

ENDED = Status.DONE | Status.ERROR
REST = 3
"""Cycles from the last one that is waited for until `done` can be read."""


@pytest.fixture(scope="module")
def machine() -> Outside:
    return outside(preset("tiny"))


FIRST = 8
"""Beats that memory answers before it is silent: the first burst of the fetch."""


class Dying(Channel):
    """Memory of the simulator as the bench has it, silent after `FIRST` beats."""

    left = FIRST

    def tick(self) -> Beat | None:
        if not self.left:
            return None
        beat = super().tick()
        self.left -= beat is not None
        return beat


def simulated(settings: Launch, *words: int) -> Report:
    """Return how a run with such a memory ends in the simulator."""
    timing, config = MemoryTiming(1, 32, 1, 16, Fraction(1)), preset("tiny")
    run = Run(Machine(config, timing), settings, Words(config, list(words)))
    assert isinstance(run.memory, Master)
    run.memory.memory._channel = Dying(timing)
    while not run.over:
        run.cycle()
        assert run.cycles < 10 * LIMIT
    return run.report()


def impatient(bench: Bench) -> None:
    """Let all runs that the bench begins have the limit."""
    begin = bench.begin

    async def patient(settings: Launch) -> None:
        await begin(replace(settings, watchdog=LIMIT))

    bench.begin = patient  # type: ignore[method-assign]


async def done(bench: Bench) -> tuple[int, int, int]:
    """Wait for `done`; return status, code and index."""
    for _ in range(LIMIT):
        if await bench.value("status") & Status.DONE:
            break
    return await bench.value("status"), await bench.value("error_code"), await bench.value("error_index")


async def given_up(bench: Bench, index: int, code: ErrorCode = ErrorCode.TIMEOUT) -> None:
    """Hold a machine whose memory is silent to what it must do, then let memory answer: a beat, and later the rest."""
    assert await done(bench) == (ENDED, code, index)
    assert bench.get("interrupt")
    cycles = await bench.value("cycles")
    assert await bench.write(REGISTERS["command"].address, 1) == 2  # not idle: nothing may come of it
    await bench.tick(20)
    assert await bench.value("cycles") == cycles, "counters stand still"
    assert await bench.value("status") == ENDED
    await bench.setting("status", Status.DONE)
    assert not bench.get("interrupt")
    assert await bench.value("status") == Status.ERROR
    if bench.hold_reads or bench.beats == 0:
        bench.hold_reads, bench.beats = False, 1
        await bench.tick(2 * LIMIT)
        assert await bench.value("status") == Status.ERROR, "memory is given up once"
    bench.closed.clear()
    bench.beats = -1
    await bench.tick(80)
    assert (await bench.value("status"), await bench.value("error_code")) == (Status.IDLE | Status.ERROR, code)
    assert not bench.get("interrupt"), "done is not told twice"


async def works(bench: Bench, settings: Launch) -> None:
    """Run a program of END alone."""
    place(bench, settings, END)
    await bench.begin(settings)
    assert await bench.ended() == (Status.IDLE | Status.DONE, ErrorCode.NONE, 0)


@pytest.mark.parametrize("signal", ["arready", "rvalid"])
def test_reads_that_are_never_answered(machine: Outside, signal: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.setting("interrupt", 1)
        settings = replace(only(1, Region(1 << 33, 64, writable=False), 3), watchdog=LIMIT)
        bench.closed.add(signal)
        await bench.begin(settings)
        await given_up(bench, 0)
        await works(bench, settings)

    machine.run(scenario)


@pytest.mark.parametrize(("name", "opcode"), [("Store", "STORE"), ("Updater", "UPDATE")])
@pytest.mark.parametrize("signal", ["awready", "wready", "bvalid"])
def test_writes_that_are_never_answered(machine: Outside, signal: str, name: str, opcode: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.setting("interrupt", 1)
        impatient(bench)
        settings = await started(bench, name, WORK[opcode], END)
        bench.closed.add(signal)
        await writes(bench, name, 1000)
        await given_up(bench, 0)
        await works(bench, settings)

    machine.run(scenario)


@pytest.mark.parametrize(
    ("word", "code", "index"), [(END, ErrorCode.TIMEOUT, FIRST), (0, ErrorCode.OPCODE, 0)], ids=["end", "error"]
)
def test_a_run_whose_end_waits_for_a_fetch(machine: Outside, word: int, code: ErrorCode, index: int) -> None:
    """Its first instruction ends the run, well or not; the second burst of the fetch is never answered."""

    async def scenario(bench: Bench) -> None:
        await bench.setting("interrupt", 1)
        settings = replace(only(0, Region(0, 64, writable=False), 0, 2 * FIRST), watchdog=LIMIT)
        place(bench, settings, word)
        bench.beats = FIRST
        await bench.begin(settings)
        assert (await done(bench))[0] == ENDED
        wanted = simulated(settings, word, *[0] * (2 * FIRST - 1))
        assert (wanted.error, wanted.error_index, wanted.given_up) == (code, index, True)
        for name in ("cycles", "read_bursts", "read_beats", "instructions"):
            assert await bench.value(name) == wanted.counters[name], name
        await given_up(bench, index, code)
        await works(bench, settings)

    machine.run(scenario)


def test_a_run_that_has_failed_and_waits_for_a_load(machine: Outside) -> None:
    """The error of the write stays the first."""

    async def scenario(bench: Bench) -> None:
        await bench.setting("interrupt", 1)
        impatient(bench)
        settings = await started(bench, "Store", *[WORK["STORE"]] * 12, END)
        region = settings.regions[2]
        assert region is not None
        bench.answers[region.base + 64 * 1000] = 2
        bench.hold_reads = True
        await asks(bench, bench.engines["Loader"].read, 0, 4)
        await writes(bench, "Store", 1000)
        await given_up(bench, 0, ErrorCode.WRITE)
        await works(bench, settings)

    machine.run(scenario)


def test_a_burst_outside_its_region_hides_no_silence(machine: Outside) -> None:
    """It comes before, in, and after the last cycle that memory had: the run ends each time."""

    async def scenario(bench: Bench) -> None:
        impatient(bench)
        load, codes = bench.engines["Loader"].read, list[int]()
        for waits in range(LIMIT - 3, LIMIT + 3):
            await started(bench, "Store", WORK["STORE"], END)
            bench.hold_reads = True
            await asks(bench, load, 0)
            await bench.tick(waits)
            await asks(bench, load, 1 << 20)
            status, code, _ = await done(bench)
            assert status == ENDED, waits
            codes.append(code)
            bench.hold_reads = False
            await bench.ended()
        assert codes == sorted(codes)
        assert set(codes) == {ErrorCode.REGION, ErrorCode.TIMEOUT}

    machine.run(scenario)


def test_a_reset_that_waits_for_memory_tells_nothing(machine: Outside) -> None:
    """The limit passes after the reset: neither `done` nor an error, only that it is not idle."""

    async def scenario(bench: Bench) -> None:
        await bench.setting("interrupt", 1)
        settings = replace(only(0, Region(0, 64, writable=False), 0), watchdog=LIMIT)
        bench.closed.add("rvalid")
        await bench.begin(settings)
        await bench.tick(LIMIT // 2)
        await bench.setting("command", Command.RESET)
        await bench.tick(2 * LIMIT)
        assert (await bench.value("status"), await bench.value("error_code")) == (0, ErrorCode.NONE)
        assert not bench.get("interrupt")
        bench.closed.clear()
        await bench.tick(40)
        assert await bench.value("status") == Status.IDLE
        await works(bench, settings)

    machine.run(scenario)


@pytest.mark.parametrize("upper", [1 << 16, 1 << 31])
def test_a_limit_has_all_its_bits(machine: Outside, upper: int) -> None:
    """One of little more than a power of two is not yet reached."""

    async def scenario(bench: Bench) -> None:
        settings = replace(only(0, Region(0, 64, writable=False), 0), watchdog=upper + 10)
        place(bench, settings, END)
        bench.closed.add("rvalid")
        await bench.begin(settings)
        await bench.tick(LIMIT)
        bench.closed.clear()
        assert (await bench.ended())[1] == ErrorCode.NONE

    machine.run(scenario)


@pytest.mark.parametrize("waits", [LIMIT - 1, LIMIT])
def test_the_last_cycle_counts(machine: Outside, waits: int) -> None:
    """A burst stands on AR; memory takes it in the last cycle in which it may, or one later."""

    async def scenario(bench: Bench) -> None:
        settings = replace(only(0, Region(0, 64, writable=False), 0), watchdog=LIMIT)
        place(bench, settings, END)
        bench.closed.add("arready")
        await bench.begin(settings)
        while not bench.get("m_axi_arvalid"):
            await bench.tick()
        await bench.tick(waits)
        bench.closed.clear()
        code = ErrorCode.NONE if waits < LIMIT else ErrorCode.TIMEOUT
        assert (await bench.ended())[1] == code

    machine.run(scenario)


def test_without_a_limit_memory_is_waited_for(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 0)
        place(bench, settings, END)
        bench.closed.add("rvalid")
        await bench.begin(settings)
        await bench.tick(20 * LIMIT)
        assert await bench.value("status") == 0
        bench.closed.clear()
        assert await bench.ended() == (Status.IDLE | Status.DONE, ErrorCode.NONE, 0)

    machine.run(scenario)


def test_a_reset_ends_a_run_that_was_given_up(machine: Outside) -> None:
    """Nothing of it is left once memory has answered."""

    async def scenario(bench: Bench) -> None:
        settings = replace(only(0, Region(0, 64, writable=False), 0), watchdog=LIMIT)
        bench.closed.add("rvalid")
        await bench.begin(settings)
        assert (await done(bench))[0] == ENDED
        await bench.setting("command", 2)
        assert await bench.value("status") == 0
        bench.closed.clear()
        await bench.tick(40)
        assert await bench.value("status") == Status.IDLE
        await works(bench, settings)

    machine.run(scenario)


def test_engines_that_take_long_are_no_fault_of_memory(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        impatient(bench)
        await started(bench, "Store", WORK["STORE"], END)
        await bench.tick(10 * LIMIT)
        await finish(bench, "Store")
        assert (await bench.ended())[1] == ErrorCode.NONE

    machine.run(scenario)


@pytest.mark.parametrize("watchdog", [-1, 1 << 32])
def test_a_limit_beyond_its_bits_is_refused(watchdog: int) -> None:
    with pytest.raises(ValueError, match=f"watchdog is {watchdog}; it must be from 0 to"):
        Launch((None,), 0, 0, 0, watchdog)
