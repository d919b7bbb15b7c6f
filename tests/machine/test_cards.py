"""Machines of small cards: memory ports below 512 bits and a WUVE of few lanes; simulator, quick gear, Verilog."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern, Product, Stage
from nmsat.dataflow.contract.config import CARDS, MemoryConfig, preset
from nmsat.dataflow.contract.isa import BEAT_BYTES, ErrorCode
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.cycles.memory import MemoryTiming, memory_timing
from nmsat.dataflow.program.emit import choose
from nmsat.dataflow.program.estimate import estimate_cycles
from nmsat.dataflow.program.lower import Form, place_product
from nmsat.dataflow.program.tensors import DENSE, Layout
from nmsat.dataflow.program.update import estimate_update
from nmsat.reports.work.verify import build_machine
from nmsat.sim.memory.behind import MemoryPort
from nmsat.sim.memory.channel import Channel
from nmsat.sim.memory.masters import Master
from nmsat.sim.memory.port import Burst
from nmsat.sim.quick.gear import Quick
from nmsat.sim.quick.product import time_product
from nmsat.sim.sat import Sat, launch, program_words
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.run.runner import run
from tests.machine.outside import END, WORK, Bench, Outside, finish, only, outside, place, started, writes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.tb.run.runner import Built


def narrow(bits: int, lanes: int, **more: Any) -> SatConfig:
    """Return the tiny machine with a port of so many bits and so many lanes of WUVE."""
    return preset("tiny").replace(name=f"{bits}-{lanes}", port_bits=bits, wuve_lanes=lanes, **more)


SLOW = MemoryConfig(channels=1, bytes_per_second=2.1e9, efficiency=0.61)
"""A memory that is no whole number of cycles a part behind a port of 128 bits."""

LEAST = narrow(64, 1)
MATRIX = (narrow(128, 2, memory=SLOW), narrow(256, 4), narrow(64, 8, ports=2), narrow(512, 1))
"""What the long tests build beside the least."""


def test_only_time_is_another() -> None:
    """Of one program: memory, instructions, bursts and beats are those of the wide machine."""
    wide, config = preset("tiny"), LEAST
    for seed in range(2):
        mine, theirs = random_job(wide, seed), random_job(wide, seed)
        found = Sat(config).run(launch(mine.image.regions, mine.place), mine.image.regions)
        wanted = Sat(wide).run(launch(theirs.image.regions, theirs.place), theirs.image.regions)
        assert found.error is wanted.error is ErrorCode.NONE
        assert (found.special, found.overflow) == (wanted.special, wanted.overflow)
        for name in ("instructions", "read_beats", "write_bursts", "write_beats", "windows", "steps"):
            assert found.counters[name] == wanted.counters[name], name
        for one, other in zip(mine.image.regions, theirs.image.regions, strict=True):
            assert np.array_equal(one, other)
        moved = found.counters["read_beats"] + found.counters["write_beats"]
        assert found.cycles > max(wanted.cycles, moved * config.parts)


def test_quick_gear_equals_the_exact_gear() -> None:
    gear = Quick(MATRIX[0])
    for seed, again in ((1, False), (1, True)):
        job = random_job(MATRIX[0], seed)
        settings = launch(job.image.regions, job.place)
        words = program_words(job.image.regions, settings)
        quick = gear.time(settings, words)
        assert not quick.exact
        assert quick.report == Sat(MATRIX[0]).time(settings, words)
        assert (quick.walked == 0) == again


@pytest.mark.parametrize(("bits", "parts"), [(64, 8), (128, 4), (256, 2), (512, 1)])
def test_parts_of_a_beat(bits: int, parts: int) -> None:
    config = narrow(bits, 16)
    assert (config.parts, config.parts * bits) == (parts, 8 * BEAT_BYTES)
    timing = memory_timing(config)
    assert (timing.parts, timing.beat_cycles) == (parts, parts)  # 65.28 bytes a cycle are more than a port carries
    assert timing.bytes_per_cycle == bits // 8


@pytest.mark.parametrize("beat_cycles", [Fraction(4), Fraction(47, 8), Fraction(100, 7)])
def test_beats_end_when_their_last_parts_come(beat_cycles: Fraction) -> None:
    """A channel that moves parts has every beat in the cycle in which a wide one has it."""
    timings = [MemoryTiming(1, 4, 9, 16, beat_cycles, parts) for parts in (1, 4)]
    ends: list[list[tuple[int, str, int, bool]]] = []
    for timing in timings:
        channel, found = Channel(timing), []
        for tag, beats in (("a", 3), ("b", 16), ("c", 1)):
            assert channel.request(beats, tag)
        for cycle in range(400):
            beat = channel.tick()
            if beat is not None and (beat.number + 1) % timing.parts == 0:
                found.append((cycle, beat.tag, beat.number // timing.parts, beat.last))
        ends.append(found)
    assert ends[0] == ends[1]
    assert len(ends[0]) == 20


@pytest.mark.parametrize("write", [False, True])
def test_parts_end_beats(write: bool) -> None:
    """The memory behind a narrow port shows a beat, its fault and its answer when a wide one does."""
    settings, shown = Launch((Region(0, 64, writable=True),), 0, 0, 1), []
    for parts in (1, 4):
        memory, found = MemoryPort(settings, MemoryTiming(1, 16, 2, 16, Fraction(47, 8), parts), frozenset({1})), []
        for cycle in range(40):
            asked = Burst(0, 0, 3) if cycle == 0 else None
            memory.tick(None if write else asked, asked if write else None)
            found.append((memory.reads, memory.writes, memory.answer))
        shown.append(found)
    assert shown[0] == shown[1]
    beats = [(reads, writes) for reads, writes, _ in shown[0] if reads is not None or writes]
    read = [(False, False), (False, True), (True, False)]  # last, fault
    assert beats == ([(None, True)] * 3 if write else [(one, False) for one in read])
    assert [answer for *_, answer in shown[0] if answer is not None] == ([True] if write else [])


def test_a_memory_for_another_port_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timing.parts is 1; a port of 64 bits moves a beat in 8"):
        Sat(LEAST, memory_timing(preset("tiny")))


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("parts", [1, 8])
def test_parts_are_movement(parts: int, write: bool) -> None:
    """Memory that moves parts of a beat keeps a limit that is below the cycles of one; without parts it does not."""
    slow = MemoryTiming(1, 16, 2, 16, Fraction(128, 5), parts)  # a part in 3.2 cycles
    settings = Launch((Region(0, 64, writable=True),), 0, 0, 1, watchdog=8)
    master, given_up = Master(settings, slow, frozenset()), False
    asked: list[Burst | None] = [Burst(0, 0, 2)]
    for _ in range(80):
        master.move(None if write else asked, asked if write else None, halt=False)
        if master.reads or master.writes:
            asked = [None]
        master.tick()
        given_up |= master.gives_up
    assert given_up == (parts == 1)
    assert master.idle


def test_the_estimate_knows_the_port() -> None:
    config = preset("pynq-z2")
    (code,) = place_product(config, Product("layer", Stage.FF, 128, 128, 32, Pattern(2, 8)), Form.WEIGHTS).codes
    cut = choose(config, code)
    cycles = time_product(Quick(config), code, cut).cycles
    assert estimate_cycles(cut) == pytest.approx(cycles, rel=0.06)


def test_lanes_that_bound_an_update() -> None:
    weights = Layout().weights("w", 1, 256, 64, DENSE, DENSE, backward=True)
    cycles = [estimate_update(narrow(512, lanes), weights, decays=False) for lanes in (1, 4, 16)]
    rows = 256 * 64 // 16
    assert cycles[0] - 16 * rows == pytest.approx(3 * memory_timing(preset("tiny")).latency)
    assert cycles[1] == cycles[2] > 4 * rows


@pytest.mark.parametrize("name", CARDS)
def test_machines_of_boards_are_built(name: str) -> None:
    check_machine(preset(name))


@pytest.fixture(scope="module")
def machine() -> Iterator[Outside]:
    yield from outside(LEAST)


def test_a_program_comes_in_parts(machine: Outside) -> None:
    """An instruction, from its parts; an error of any of them ends the run, EXOKAY does not."""
    size = LEAST.port_bits // 8

    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(1 << 33, 64, writable=False), 5)
        first = place(bench, settings, END)
        for part, response in ((0, 0), (0, 2), (3, 3), (5, 1), (7, 2)):
            bench.answers = {first + size * part: response}
            await bench.begin(settings)
            _, code, _ = await bench.ended()
            assert code == (ErrorCode.READ if response >= 2 else ErrorCode.NONE), (part, response)

    machine.run(scenario)


def test_answers_to_writes_in_parts(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        for response in (2, 0, 3):
            settings = await started(bench, "Store", WORK["STORE"], END)
            region = settings.regions[2]
            assert region is not None
            bench.answers = {region.base + 64 * 1000: response}
            await writes(bench, "Store", 1000)
            await bench.tick(20)
            await finish(bench, "Store")
            _, code, _ = await bench.ended()
            assert code == (ErrorCode.WRITE if response else ErrorCode.NONE), response

    machine.run(scenario)


def bench(config: SatConfig, built: Built, test: str, first: int, count: int, **more: Any) -> dict[str, Any]:
    """Run a bench of the whole machine (`tb.machine.bench_runs`, `bench_sat`) and return what it has saved."""
    module = "nmsat.tb.machine.bench_runs" if test == "jobs" else "nmsat.tb.machine.bench_sat"
    job = {"config": asdict(config), "first": first, "count": count, **more}
    return run(built, module, [test], job=job).check().saved


@pytest.mark.rtl
def test_the_least_machine() -> None:
    """64 bits and one lane, the least of both; in cycles as the simulator, and behind a memory that pauses."""
    built = build_machine(LEAST)
    for pauses, seeds in ((0.0, [9, 16, 24, 28, 49]), (0.4, [9, 16])):  # updates and two small products
        saved = bench(LEAST, built, "jobs", 0, 0, pauses=pauses, seeds=seeds)
        assert (saved["jobs"], saved["mismatches"], saved["wrong"]) == (len(seeds), 0, "[]")
    assert {"READ", "WRITE"} & set(bench(LEAST, built, "faults", 9, 1)["ends"])


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("config", [LEAST, *MATRIX], ids=lambda config: config.name)
def test_random_programs(config: SatConfig) -> None:
    built = build_machine(config)
    for pauses in (0.0, 0.4):
        saved = bench(config, built, "jobs", 100, 30, pauses=pauses)
        assert (saved["jobs"], saved["mismatches"], saved["wrong"]) == (30, 0, "[]")
    assert bench(config, built, "registers", 0, 0)["registers"] > 70
    assert bench(config, built, "soft_reset", 0, 5)["cut"] >= 3
    assert {"READ", "WRITE", "REGION"} <= set(bench(config, built, "faults", 0, 20)["ends"])
    assert {"FIELD", "OPCODE"} <= set(bench(config, built, "hostile", 0, 25)["ends"])
