"""The outside of the machine in Amaranth's own simulator: registers, sequencer and ports real, engines without insides.

Quick to build, so that faults of wiring and protocol are found without a Verilator model. The bench plays host, memory
and engines; both buses are held to their rules in every cycle.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator

from nmsat.dataflow.contract.isa import Instruction, Opcode
from nmsat.dataflow.contract.registers import COUNTERS, REGISTERS, Command, Launch, Region
from nmsat.hw import sat as top
from nmsat.hw.control import host as control
from nmsat.tb.drive.protocol import Axi4, AxiLite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import pytest

    from nmsat.dataflow.contract.config import SatConfig

END = Instruction(Opcode.END, {}).encode()
WORK = {
    "STORE": Instruction(Opcode.STORE, {"rows": 1, "columns": 1, "to_half": 1}).encode(),
    "UPDATE": Instruction(Opcode.UPDATE, {"k": 1, "n": 1}).encode(),
}
ENGINES = ("Loader", "ComputeEngine", "Store", "Updater")


@dataclass
class Bench:
    """Host, memory and engines.

    memory: beats by address, others are 0; answers: response code by address of a transfer (read) or burst (write),
    others are 0; asked: (channel, address) of all bursts; pace: gives whether memory takes an address, moves a beat;
    closed: signals of memory that stay low; beats: transfers that memory gives before it is silent, below 0 all.
    """

    ctx: Any
    dut: Any
    engines: dict[str, Any]
    counters: dict[str, Signal]
    memory: dict[int, int] = field(default_factory=dict)
    answers: dict[int, int] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    pace: Callable[[], bool] = lambda: True
    closed: set[str] = field(default_factory=set)
    beats: int = -1
    cycle: int = 0

    def __post_init__(self) -> None:
        bits = len(self.dut.m_axi_rdata)
        self._size = bits // 8
        self._axi, self._lite = Axi4(bits=bits), AxiLite()
        self._reads: deque[tuple[int, bool]] = deque()
        self._addresses: deque[int] = deque()
        self._written = 0
        self._driven = False
        self.hold_reads = False
        """Memory keeps what was read until this falls."""
        self.hold_answers = False

    def signal(self, prefix: str) -> Callable[[str], int]:
        return lambda name: self.ctx.get(getattr(self.dut, prefix + name))

    def set(self, name: str, value: int) -> None:
        self.ctx.set(getattr(self.dut, name), value)

    def get(self, name: str) -> int:
        return self.ctx.get(getattr(self.dut, name))

    async def tick(self, cycles: int = 1) -> None:
        """Pass cycles: memory answers, rules are held."""
        for _ in range(cycles):
            self.drive()
            axi = self.signal("m_axi_")
            self._axi.tick(axi)
            self._lite.tick(self.signal("s_axi_control_"))
            if axi("rvalid"):
                self._reads.popleft()
                self.beats -= 1
            if axi("bvalid"):
                self._addresses.popleft()
                self._written -= 1
            if axi("wvalid") and axi("wready") and axi("wlast"):
                self._written += 1
            for channel in ("ar", "aw"):
                if axi(f"{channel}valid") and axi(f"{channel}ready"):
                    self._take(channel, axi(f"{channel}addr"), axi(f"{channel}len") + 1)
            await self.ctx.tick()
            self.cycle += 1
            self._driven = False

    def drive(self) -> None:
        """Let memory show what it does in this cycle, once."""
        if self._driven:
            return
        self._driven = True
        reads = bool(self._reads) and not self.hold_reads and self.beats != 0 and self.pace()
        if reads:
            address, last = self._reads[0]
            first = address % 64
            data = self.memory.get(address - first, 0) >> 8 * first
            self.set("m_axi_rdata", data & (1 << 8 * self._size) - 1)
            self.set("m_axi_rlast", last)
            self.set("m_axi_rresp", self.answers.get(address, 0))
        answers = self._written > 0 and bool(self._addresses) and not self.hold_answers and self.pace()
        if answers:
            self.set("m_axi_bresp", self.answers.get(self._addresses[0], 0))
        levels = {"rvalid": reads, "bvalid": answers} | {f"{name}ready": self.pace() for name in ("ar", "aw", "w")}
        for name, value in levels.items():
            self.set(f"m_axi_{name}", value and name not in self.closed)

    def _take(self, channel: str, address: int, transfers: int) -> None:
        self.asked.append((channel, address))
        if channel == "aw":
            self._addresses.append(address)
            return
        self._reads += [((address + self._size * i) % 2**64, i + 1 == transfers) for i in range(transfers)]

    async def write(self, address: int, value: int, strobe: int = 15, late: tuple[int, int, int] = (0, 0, 0)) -> int:
        """Write a register; return the response. late: cycles until awvalid, wvalid, and bready beside its answer."""
        lite = "s_axi_control_"
        for name, bits in (("awaddr", address), ("wdata", value), ("wstrb", strobe)):
            self.set(lite + name, bits)
        waits, at = {"aw": late[0], "w": late[1]}, 0
        while waits:
            for channel, first in waits.items():
                self.set(f"{lite}{channel}valid", at >= first)
            gone = [
                channel for channel in waits if self.get(f"{lite}{channel}valid") and self.get(f"{lite}{channel}ready")
            ]
            await self.tick()
            for channel in gone:
                self.set(f"{lite}{channel}valid", 0)
                del waits[channel]
            at += 1
        return (await self._answer("b", ("bresp",), late[2]))[0]

    async def read(self, address: int, late: int = 0) -> tuple[int, int]:
        """Read a register; return value and response. late: cycles until rready beside the answer."""
        lite = "s_axi_control_"
        self.set(f"{lite}araddr", address)
        self.set(f"{lite}arvalid", 1)
        while not self.get(f"{lite}arready"):
            await self.tick()
        await self.tick()
        self.set(f"{lite}arvalid", 0)
        value, response = await self._answer("r", ("rdata", "rresp"), late)
        return value, response

    async def _answer(self, channel: str, names: tuple[str, ...], late: int) -> list[int]:
        lite = "s_axi_control_"
        for _ in range(20):
            if self.get(f"{lite}{channel}valid"):
                break
            await self.tick()
        await self.tick(late)
        self.set(f"{lite}{channel}ready", 1)
        assert self.get(f"{lite}{channel}valid"), f"no answer on {channel}"
        found = [self.get(lite + name) for name in names]
        await self.tick()
        self.set(f"{lite}{channel}ready", 0)
        return found

    async def setting(self, name: str, value: int) -> None:
        assert await self.write(REGISTERS[name].address, value) == 0, name

    async def value(self, name: str) -> int:
        found, response = await self.read(REGISTERS[name].address)
        assert response == 0, name
        return found

    async def begin(self, settings: Launch) -> None:
        for name, value in settings.writes().items():
            await self.setting(name, value)
        await self.setting("command", Command.START)

    async def ended(self, limit: int = 400) -> tuple[int, int, int]:
        """Wait for the end of a run; return status, error code and index."""
        for _ in range(limit):
            if await self.value("status") & 1:
                break
        self._axi.finish()
        return await self.value("status"), await self.value("error_code"), await self.value("error_index")


class Outside:
    """A machine to run benches on, one after the other, each from reset."""

    def __init__(self, config: SatConfig, patch: pytest.MonkeyPatch) -> None:
        self._engines: dict[str, Any] = {}
        self._counters: dict[str, Signal] = {}
        for name in (*ENGINES, "Control"):
            patch.setattr(top, name, self._kept(name))
        patch.setattr(top, "DomainRenamer", lambda _: ResetInserter(self._engines["Control"].clear[0]))
        patch.setattr(control, "Signal", self._signal)
        self.dut = top.Sat(config)
        self._scenario: Callable[[Bench], Awaitable[None]]
        self._has_run = False
        self._simulator = Simulator(self.dut)
        self._simulator.add_clock(1e-6)
        self._simulator.add_testbench(self._run)

    def _kept(self, name: str) -> type:
        base, engines = getattr(top, name), self._engines

        class Kept(base):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                engines[name] = self

            def elaborate(self, platform: object) -> Module:
                return Module() if name in ENGINES else super().elaborate(platform)

        return Kept

    def _signal(self, *arguments: Any, **named: Any) -> Signal:
        """Make a signal of the control; keep the counters, so that a bench can set them."""
        found = Signal(*arguments, **named)
        if named.get("name") in COUNTERS:
            self._counters[named["name"]] = found
        return found

    async def _run(self, ctx: Any) -> None:
        await self._scenario(Bench(ctx, self.dut, self._engines, self._counters))

    def run(self, scenario: Callable[[Bench], Awaitable[None]]) -> None:
        """Run a scenario from reset to its end."""
        self._scenario = scenario
        if self._has_run:
            self._simulator.reset()
        self._has_run = True
        self._simulator.run()


def outside(config: SatConfig) -> Iterator[Outside]:
    """Give a machine, the classes of `hw.sat` as they were afterwards."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        yield Outside(config, patch)


def place(bench: Bench, settings: Launch, *words: int) -> int:
    """Put words where the program is; return the address of the first."""
    region = settings.regions[settings.program_region]
    assert region is not None
    first = (region.base + 64 * settings.program_at) % 2**64
    for i, word in enumerate(words):
        bench.memory[(first + 64 * i) % 2**64] = word
    return first


def only(number: int, region: Region, at: int, count: int = 1) -> Launch:
    """One open region, that of the program."""
    return Launch(tuple(region if i == number else None for i in range(4)), number, at, count)


async def started(bench: Bench, name: str, *words: int, writable: bool = True, size: int = 1 << 20) -> Launch:
    """Start a program whose first instruction goes to an engine, which then has it; size: beats of its region, 2."""
    settings = only(2, Region(7 << 32, size, writable), 0, len(words))
    place(bench, settings, *words)
    work = bench.engines[name].work
    await bench.begin(settings)
    for _ in range(60):
        bench.ctx.set(work.start.ready, 1)
        if bench.ctx.get(work.start.valid):
            break
        await bench.tick()
    assert bench.ctx.get(work.start.payload) == words[0]
    await bench.tick()
    return settings


async def asks(bench: Bench, client: Any, offset: int, cycles: int = 1) -> None:
    """Let a client ask for a burst of a beat of region 2 in so many cycles."""
    request = client.request
    bench.ctx.set(request.payload.region, 2)
    bench.ctx.set(request.payload.offset, offset)
    bench.ctx.set(request.valid, 1)
    await bench.tick(cycles)
    bench.ctx.set(request.valid, 0)


async def writes(bench: Bench, name: str, offset: int) -> None:
    """Let an engine write a beat of region 2; the burst stands on AW in the next cycle."""
    port = bench.engines[name].write
    bench.ctx.set(port.strobe, 1)
    bench.ctx.set(port.request.payload.region, 2)
    bench.ctx.set(port.request.payload.offset, offset)
    bench.ctx.set(port.request.valid, 1)
    taken = False
    while not taken:
        bench.drive()
        taken = bool(bench.ctx.get(port.request.ready))
        await bench.tick()
    bench.ctx.set(port.request.valid, 0)


async def finish(bench: Bench, name: str) -> None:
    """Let an engine say that its instruction is done."""
    done = bench.engines[name].work.done
    bench.ctx.set(done, 1)
    await bench.tick()
    bench.ctx.set(done, 0)
