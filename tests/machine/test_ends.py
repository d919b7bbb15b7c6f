"""How runs end and what they may touch, as the host sees it: rights of regions, errors, what is under way, counters."""

from __future__ import annotations

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import REGISTERS, WAIT_CAUSES, Command, Region, Status
from tests.machine.outside import END, WORK, Bench, Outside, asks, finish, only, outside, place, started, writes


@pytest.fixture(scope="module")
def machine() -> Outside:
    return outside(preset("tiny"))


@pytest.mark.parametrize(("flags", "code"), [(0, ErrorCode.REGION), (1, ErrorCode.NONE), (2, ErrorCode.REGION)])
def test_a_region_is_read_if_it_is_open(machine: Outside, flags: int, code: ErrorCode) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(1 << 40, 64, writable=False), 3)
        place(bench, settings, END)
        for name, value in settings.writes().items():
            await bench.setting(name, value)
        await bench.setting("region0_flags", flags)
        await bench.setting("command", Command.START)
        assert (await bench.ended())[1] == code

    machine.run(scenario)


def test_a_region_that_is_read_only_is_not_written(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        await started(bench, "Store", WORK["STORE"], END, writable=False)
        port = bench.engines["Store"].write.request
        bench.ctx.set(port.payload.region, 2)
        bench.ctx.set(port.valid, 1)
        await bench.tick(5)
        bench.ctx.set(port.valid, 0)
        assert (await bench.ended())[1:] == (ErrorCode.REGION, 0)
        assert [one for one in bench.asked if one[0] == "aw"] == []

    machine.run(scenario)


def test_a_run_that_fails_ends_when_its_bursts_are_over(machine: Outside) -> None:
    """A write fails while reads are under way: nothing more is asked for, and the run is on until all beats come."""

    async def scenario(bench: Bench) -> None:
        settings = await started(bench, "Store", *[WORK["STORE"]] * 12, END)
        region = settings.regions[2]
        assert region is not None
        bench.answers[region.base + 64 * 1000] = 2
        bench.hold_reads = True
        load = bench.engines["Loader"].read
        await asks(bench, load, 0, 4)
        await writes(bench, "Store", 1000)
        bench.ctx.set(bench.engines["Store"].write.strobe, 1)
        await bench.tick(30)
        before = list(bench.asked)
        await asks(bench, load, 0, 10)
        assert bench.asked == before
        assert not await bench.value("status") & Status.IDLE
        bench.hold_reads = False
        assert (await bench.ended())[1:] == (ErrorCode.WRITE, 0)

    machine.run(scenario)


def test_a_run_that_fails_waits_for_its_writes(machine: Outside) -> None:
    """A load fails while a write is not answered."""

    async def scenario(bench: Bench) -> None:
        settings = await started(bench, "Store", WORK["STORE"], END)
        region = settings.regions[2]
        assert region is not None
        bench.answers[region.base + 64 * 1000] = 2
        bench.hold_answers = True
        await writes(bench, "Store", 500)
        await asks(bench, bench.engines["Loader"].read, 1000)
        await bench.tick(40)
        assert await bench.value("status") == Status.ERROR
        bench.hold_answers = False
        assert await bench.ended() == (Status.IDLE | Status.DONE | Status.ERROR, ErrorCode.READ, 0)

    machine.run(scenario)


def test_a_start_with_a_reset_is_none(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 0)
        place(bench, settings, END)
        await bench.begin(settings)
        await bench.ended()
        bench.asked.clear()
        await bench.setting("command", Command.START | Command.RESET)
        await bench.tick(30)
        assert bench.asked == []
        assert await bench.value("status") == Status.IDLE

    machine.run(scenario)


def test_only_its_own_bit_takes_done_back(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 0)
        place(bench, settings, END)
        await bench.begin(settings)
        await bench.ended()
        for value in (0, 0xFFFFFFFF & ~Status.DONE):
            await bench.setting("status", value)
            assert await bench.value("status") == Status.IDLE | Status.DONE
        await bench.setting("status", Status.DONE)
        assert await bench.value("status") == Status.IDLE

    machine.run(scenario)


def test_the_upper_word_of_a_counter_is_of_the_cycle_of_the_lower(machine: Outside) -> None:
    """The counter passes 2^32 between the two."""

    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 0)
        place(bench, settings, END)
        bench.hold_reads = True
        await bench.begin(settings)
        await bench.tick(20)
        bench.ctx.set(bench.counters["cycles"], (7 << 32) - 20)
        assert await bench.value("cycles") >= 2**32 - 20
        await bench.tick(40)
        assert await bench.value("cycles_high") == 6
        assert await bench.value("cycles") < 100
        assert await bench.value("cycles_high") == 7
        bench.hold_reads = False
        await bench.ended()

    machine.run(scenario)


def test_a_start_while_a_run_is_on_does_nothing(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 5)
        place(bench, settings, END)
        bench.hold_reads = True
        await bench.begin(settings)
        await bench.tick(60)
        before = await bench.value("cycles")
        assert await bench.write(REGISTERS["command"].address, Command.START) == 2
        assert await bench.value("cycles") > before > 50
        bench.hold_reads = False
        assert (await bench.ended())[1] == ErrorCode.NONE
        await bench.setting("command", Command.START)

    machine.run(scenario)


def test_what_a_register_cannot_hold_is_refused(machine: Outside) -> None:
    """A base within a page, bits beyond a setting, a command that does not exist: SLVERR, and nothing changes."""

    async def scenario(bench: Bench) -> None:
        for name, good, bad in (
            ("region1_base", 0x7000, (0x8800, 0x8001)),
            ("region2_flags", 3, (4, 1 << 31)),
            ("program_at_high", 2, (4,)),
            ("interrupt", 0, (3,)),
        ):
            await bench.setting(name, good)
            for value in bad:
                assert await bench.write(REGISTERS[name].address, value) == 2, name
            assert await bench.value(name) == good
        await bench.setting("command", 0)
        for value in (4, 5, 1 << 31):
            assert await bench.write(REGISTERS["command"].address, value) == 2
        assert await bench.value("status") == Status.IDLE
        await bench.setting("status", 0xFFFFFFFF)

    machine.run(scenario)


def test_an_error_is_that_of_its_instruction_and_of_its_run(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        settings = only(0, Region(0, 64, writable=False), 5, 3)
        place(bench, settings, WORK["STORE"], WORK["STORE"], 0)
        await bench.begin(settings)
        assert await bench.ended() == (Status.IDLE | Status.DONE | Status.ERROR, ErrorCode.OPCODE, 2)
        settings = only(0, Region(0, 64, writable=False), 5)
        place(bench, settings, END)
        await bench.begin(settings)
        assert await bench.ended() == (Status.IDLE | Status.DONE, ErrorCode.NONE, 0)

    machine.run(scenario)


def test_registers_that_are_not_there(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        for address in (0xFFC, 0x034, 0x0F8):
            assert await bench.read(address) == (0, 2), hex(address)
            assert await bench.write(address, 1) == 2, hex(address)
        assert await bench.write(REGISTERS["version"].address, 1) == 2

    machine.run(scenario)


def test_data_of_a_write_stand_until_it_is_answered(machine: Outside) -> None:
    """A host that has data for a second write before the address of the first one: they wait."""

    async def scenario(bench: Bench) -> None:
        lite = "s_axi_control_"
        for data in (5, 6):
            bench.set(f"{lite}wdata", data)
            bench.set(f"{lite}wstrb", 15)
            bench.set(f"{lite}wvalid", 1)
            assert bench.get(f"{lite}wready") == (data == 5)
            await bench.tick()
        bench.set(f"{lite}awaddr", REGISTERS["program_at"].address)
        bench.set(f"{lite}awvalid", 1)
        await bench.tick()
        bench.set(f"{lite}awvalid", 0)
        while not bench.get(f"{lite}wready"):
            await bench.tick()
        await bench.tick()
        bench.set(f"{lite}wvalid", 0)
        assert await bench.value("program_at") == 5

    machine.run(scenario)


def test_counters_count_what_their_names_say(machine: Outside) -> None:
    async def scenario(bench: Bench) -> None:
        await started(bench, "Store", WORK["STORE"], END)
        compute = bench.engines["ComputeEngine"]
        for computes, cycles in ((0, 3), (1, 5)):
            bench.ctx.set(compute.token_valid, 1)
            bench.ctx.set(compute.token_compute, computes)
            await bench.tick(cycles)
        bench.ctx.set(compute.token_valid, 0)
        for code in WAIT_CAUSES:  # of an engine that has no instruction
            bench.ctx.set(compute.cause, code)
            await bench.tick(4)
        await finish(bench, "Store")
        await bench.ended()
        assert await bench.value("windows") == 5
        assert await bench.value("store_busy") > 28
        assert await bench.value("store_blocked") == 0
        assert await bench.value("instructions") == 1
        for cause in WAIT_CAUSES.values():
            assert await bench.value(f"wait_{cause}") == 0, cause

    machine.run(scenario)
