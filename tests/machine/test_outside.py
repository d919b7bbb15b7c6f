"""Wiring and protocol of the machine: registers, regions, answers of memory, interrupt, flags, at their edges."""

from __future__ import annotations

import random

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import COUNTERS, REGISTERS, Region, Status
from tests.machine.outside import END, WORK, Bench, Outside, asks, finish, only, outside, place, started, writes

GOOD, BAD = (0, 1), (2, 3)
"""Responses of AXI: OKAY, EXOKAY; SLVERR, DECERR."""


@pytest.fixture(scope="module")
def machine() -> Outside:
    return outside(preset("tiny"))


def high_region(rng: random.Random) -> tuple[Region, int]:
    """Return a region of more than 2^32 beats anywhere in 64 bits of address, and the place of a program in it."""
    region = Region(rng.getrandbits(52) << 12, rng.randrange(1 << 33, 1 << 34), writable=False)
    return region, rng.randrange(1 << 32, region.size)


@pytest.mark.parametrize("number", range(4))
def test_programs_lie_anywhere(machine: Outside, number: int) -> None:
    rng = random.Random(number)

    async def scenario(bench: Bench) -> None:
        for _ in range(2):  # run by run without a reset
            region, at = high_region(rng)
            settings = only(number, region, at)
            first = place(bench, settings, END)
            bench.asked.clear()
            await bench.begin(settings)
            assert await bench.ended() == (Status.IDLE | Status.DONE, ErrorCode.NONE, 0)
            assert bench.asked == [("ar", first)]

    machine.run(scenario)


def test_a_region_ends_where_its_upper_bits_say(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        for size, at, code in (
            ((1 << 33) + 5, (1 << 33) + 4, ErrorCode.NONE),
            ((1 << 33) + 5, (1 << 33) + 5, ErrorCode.REGION),
            (5, (1 << 32) + 4, ErrorCode.REGION),
            ((1 << 34) - 1, (1 << 34) - 1, ErrorCode.REGION),  # it ends at beat 2^34
            (5, 4, ErrorCode.NONE),
        ):
            settings = only(0, Region(1 << 40, size, writable=False), at)
            place(bench, settings, END)
            await bench.begin(settings)
            assert (await bench.ended())[1] == code, (size, at)

    machine.run(scenario)


@pytest.mark.parametrize("answer", [*GOOD, *BAD])
def test_answers_to_reads(machine: Outside, answer: int) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(1, Region(1 << 33, 64, writable=False), 3)
        bench.answers[place(bench, settings, END)] = answer
        await bench.begin(settings)
        status, code, _ = await bench.ended()
        assert code == (ErrorCode.READ if answer in BAD else ErrorCode.NONE)
        assert bool(status & Status.ERROR) == (answer in BAD)

    machine.run(scenario)


@pytest.mark.parametrize(("name", "opcode"), [("Store", "STORE"), ("Updater", "UPDATE")])
@pytest.mark.parametrize("answer", [*GOOD, *BAD])
def test_answers_to_writes(machine: Outside, answer: int, name: str, opcode: str) -> None:
    async def scenario(bench: Bench) -> None:
        settings = await started(bench, name, WORK[opcode], END)
        region = settings.regions[2]
        assert region is not None
        bench.answers[region.base + 64 * 1000] = answer
        await writes(bench, name, 1000)
        await bench.tick(10)
        await finish(bench, name)
        assert (await bench.ended())[1:] == (ErrorCode.WRITE if answer in BAD else ErrorCode.NONE, 0)
        assert bench.asked[-1] == ("aw", region.base + 64000)

    machine.run(scenario)


ENGINES_THAT_READ = [("Loader", "read"), ("Store", "side"), ("Updater", "read")]


@pytest.mark.parametrize(("offset", "code"), [((3 << 32) + 70, ErrorCode.NONE), ((3 << 32) + 71, ErrorCode.REGION)])
def test_engines_read_and_write_beyond_32_bits(machine: Outside, offset: int, code: ErrorCode) -> None:
    """The last beat of a region of more than 2^32, and the first behind it."""

    async def scenario(bench: Bench) -> None:
        for name, port in [*ENGINES_THAT_READ, ("Store", "write"), ("Updater", "write")]:
            opcode = "UPDATE" if name == "Updater" else "STORE"
            holder = name if name != "Loader" else "Store"
            settings = await started(bench, holder, WORK[opcode], END, size=(3 << 32) + 71)
            region = settings.regions[2]
            assert region is not None
            bench.asked.clear()
            client = getattr(bench.engines[name], port)
            if port == "write":
                bench.ctx.set(client.strobe, 1)
            await asks(bench, client, offset)
            await bench.tick(10)
            if code is ErrorCode.NONE:
                await finish(bench, holder)
            assert (await bench.ended())[1:] == (code, 0), (name, port)
            address = region.base + 64 * offset
            asked = [("aw" if port == "write" else "ar", address)] if code is ErrorCode.NONE else []
            assert bench.asked == asked, (name, port)

    machine.run(scenario)


def test_of_errors_in_one_cycle_that_of_the_read_goes_first(machine: Outside) -> None:
    """The engine's write fails in the cycle in which the fetch does: READ; alone it is WRITE."""
    for both in (True, False):

        async def scenario(bench: Bench, both: bool = both) -> None:
            bench.hold_reads = False
            settings = await started(bench, "Store", WORK["STORE"], *[WORK["STORE"]] * 40, END)
            region = settings.regions[2]
            assert region is not None
            bench.hold_answers = True
            bench.answers[region.base + 64 * 1000] = 2
            await writes(bench, "Store", 1000)
            await bench.tick(40)  # queues are full, so the fetch waits until an instruction is done
            before = len(bench.asked)
            bench.hold_reads = True
            for _ in range(12):
                await finish(bench, "Store")
                await bench.tick(6)
            later = [address for channel, address in bench.asked[before:] if channel == "ar"]
            assert later, "the fetch has asked for nothing"
            if both:
                bench.answers[later[0]] = 3
            bench.hold_reads = bench.hold_answers = False
            assert (await bench.ended())[1] == (ErrorCode.READ if both else ErrorCode.WRITE)

        machine.run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_registers_wait_for_a_slow_host(machine: Outside, seed: int) -> None:
    rng = random.Random(seed)

    async def scenario(bench: Bench) -> None:
        settings = {name: r for name, r in REGISTERS.items() if name.startswith(("region", "program"))}
        held: dict[str, int] = {}
        for _ in range(30):
            name = rng.choice(list(settings))
            late = (rng.choice((0, 0, 3)), rng.choice((0, 0, 3)), rng.choice((0, 1, 4)))
            value = rng.getrandbits(settings[name].bits) << settings[name].low
            assert await bench.write(settings[name].address, value, late=late) == 0
            held[name] = value
            other = rng.choice(list(held))
            assert await bench.read(settings[other].address, late=rng.choice((0, 1, 4))) == (held[other], 0)

    machine.run(scenario)


def test_a_part_of_a_word_is_not_written(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        address = REGISTERS["program_at"].address
        await bench.setting("program_at", 0x1234_5678)
        for strobe in range(15):
            assert await bench.write(address, 0xFFFF_FFFF, strobe) == 2, strobe
            assert await bench.read(address) == (0x1234_5678, 0), strobe

    machine.run(scenario)


@pytest.mark.parametrize("enabled", [0, 1])
def test_the_interrupt_follows_done_where_it_is_enabled(machine: Outside, enabled: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.setting("interrupt", enabled)
        settings = only(0, Region(0, 64, writable=False), 0)
        place(bench, settings, END)
        await bench.begin(settings)
        assert bench.get("interrupt") == 0
        assert (await bench.ended())[0] & Status.DONE
        assert bench.get("interrupt") == enabled
        await bench.setting("interrupt", 1 - enabled)
        assert bench.get("interrupt") == 1 - enabled
        await bench.setting("status", Status.DONE)
        assert bench.get("interrupt") == 0

    machine.run(scenario)


def test_counters_go_on_beyond_32_bits(machine: Outside) -> None:
    """Counters are set in the middle of a run: a bench cannot wait for 2^32 cycles."""

    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 0)
        place(bench, settings, END)
        bench.hold_reads = True
        await bench.begin(settings)
        await bench.tick(20)
        for i, name in enumerate(COUNTERS):
            bench.ctx.set(bench.counters[name], (i + 2 << 32) - 1)
        bench.ctx.set(bench.counters["cycles"], (7 << 32) - 3)
        bench.hold_reads = False
        await bench.ended()
        await bench.tick(4)
        for i, name in enumerate(COUNTERS):
            low, high = await bench.value(name), await bench.value(f"{name}_high")
            total = low + (high << 32)
            first = (7 << 32) - 3 if name == "cycles" else (i + 2 << 32) - 1
            assert first <= total < first + 60, name
        assert await bench.value("cycles") < 60
        assert await bench.value("cycles_high") == 7

    machine.run(scenario)


def test_counters_begin_at_0(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 0)
        place(bench, settings, END)
        found = []
        for _ in range(2):
            await bench.begin(settings)
            await bench.ended()
            found.append([await bench.value(name) for name in COUNTERS])
        assert found[0] == found[1]
        assert found[0][COUNTERS.index("cycles")] > 0

    machine.run(scenario)


def test_settings_stand_while_a_run_is_on(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 5)
        place(bench, settings, END)
        bench.hold_reads = True
        await bench.begin(settings)
        for name, value in (("program_at", 5), ("program_count", 1), ("interrupt", 0), ("region0_size", 64)):
            assert await bench.write(REGISTERS[name].address, 0x3F) == 2, name
            assert await bench.value(name) == value, name
        bench.hold_reads = False
        assert (await bench.ended())[1] == ErrorCode.NONE
        await bench.setting("program_at", 9)

    machine.run(scenario)


def test_an_infinite_result_holds_the_updates(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        store, update = bench.engines["Store"], bench.engines["Updater"]
        for special in (0, 1, 0):
            bench.ctx.set(store.special, special)
            assert bench.ctx.get(update.hold) == special
        await started(bench, "Store", WORK["STORE"], END)
        for flag, signal in ((Status.SPECIAL, store.special), (Status.OVERFLOW, update.overflow)):
            assert not await bench.value("status") & flag
            bench.ctx.set(signal, 1)
            await bench.tick()
            bench.ctx.set(signal, 0)
            await bench.tick(3)
            assert await bench.value("status") & flag
        await finish(bench, "Store")
        assert (await bench.ended())[0] == Status.IDLE | Status.DONE | Status.SPECIAL | Status.OVERFLOW

    machine.run(scenario)


def test_a_memory_that_pauses(machine: Outside) -> None:
    rng = random.Random(9)

    async def scenario(bench: Bench) -> None:
        bench.pace = lambda: rng.random() < 0.3
        for _ in range(3):
            settings = await started(bench, "Store", WORK["STORE"], END)
            for offset in range(900, 912):
                await writes(bench, "Store", offset)
            await bench.tick(150)
            await finish(bench, "Store")
            assert (await bench.ended())[1] == ErrorCode.NONE
            bench.ctx.set(bench.engines["Store"].work.start.ready, 0)
            region = settings.regions[2]
            assert region is not None
            expected = [("aw", region.base + 64 * offset) for offset in range(900, 912)]
            assert [one for one in bench.asked if one[0] == "aw"] == expected
            bench.asked.clear()

    machine.run(scenario)
