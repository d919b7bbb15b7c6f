"""Bench of the memory ports: RTL against sim.memory in every cycle. Job: kind, cycles, resets, parts of a beat."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import cocotb
import numpy as np
from cocotb.triggers import Timer

from nmsat.dataflow.contract.isa import BEAT_BYTES, OFFSET_BITS, REGIONS, ErrorCode
from nmsat.dataflow.contract.limits import PAGE_BYTES, READERS, WRITERS
from nmsat.dataflow.contract.registers import Region
from nmsat.hw.memory.read_port import ReadPort as ReadPortRtl
from nmsat.hw.memory.write_port import WritePort as WritePortRtl
from nmsat.sim.memory.port import Burst
from nmsat.sim.memory.read_port import ReadPort
from nmsat.sim.memory.write_port import WritePort
from nmsat.tb.drive.decoded import difference, layouts
from nmsat.tb.drive.protocol import Axi4
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Sequence

REGION_BITS: Final = 88
"""Bits of a region: pages, size, rights."""


BEATS: Final = 1 << OFFSET_BITS
"""Beats that an offset can tell apart."""

PAGE: Final = PAGE_BYTES // BEAT_BYTES
"""Beats of a page."""


def regions_word(regions: Sequence[Region | None]) -> int:
    """Return the regions as the port `regions` has them."""
    word = 0
    for i, region in enumerate(regions):
        if region is not None:
            bits = region.base >> 12 | region.size << 52 | 1 << 86 | int(region.writable) << 87
            word |= bits << (REGION_BITS * i)
    return word


def burst_word(burst: Burst) -> int:
    """Return the payload of a request."""
    return burst.region | burst.offset << 2 | (burst.beats - 1) << 36


def random_regions(rng: np.random.Generator) -> list[Region | None]:
    """Return four regions, some closed or not writable, some larger than 32 bits say or as large as can be."""
    return [
        Region(int(rng.integers(1, 1 << 40)) << 12, random_size(rng), bool(rng.random() < 0.7))
        if rng.random() < 0.8
        else None
        for _ in range(REGIONS)
    ]


def random_size(rng: np.random.Generator) -> int:
    """Return the beats of a region."""
    least, beyond = ((64, 1 << 20), (64, 1 << 20), (1 << 32, BEATS), (BEATS - 16, BEATS))[rng.integers(4)]
    return int(rng.integers(least, beyond))


def random_burst(rng: np.random.Generator, regions: Sequence[Region | None], wrong: float, *, write: bool) -> Burst:
    """Return a burst within a region, with probability `wrong` anywhere; as engines do, none crosses a page."""
    beats = int(rng.integers(1, 17))
    right = [i for i, region in enumerate(regions) if region is not None and (region.writable or not write)]
    if not right or rng.random() < wrong:
        region = int(rng.integers(REGIONS))
        size = regions[region].size if regions[region] is not None else 100  # type: ignore[union-attr]
        offset = min(max(0, size + int(rng.integers(-20, 5))), BEATS - 1)
        return Burst(region, offset, min(beats, PAGE - offset % PAGE))
    region = int(rng.choice(right))
    size = regions[region].size  # type: ignore[union-attr]
    offset = int(rng.integers(0, size - beats + 1))
    return Burst(region, offset, min(beats, PAGE - offset % PAGE))


class Bench:
    """What both ports have in common: clients that ask, addresses, errors."""

    def __init__(self, dut: Any, rng: np.random.Generator, parts: int, *, write: bool) -> None:
        self.dut = dut
        self.rng = rng
        self.write = write
        self.parts, self.bytes = parts, BEAT_BYTES // parts
        self.clients = len(WRITERS) if write else len(READERS)
        self.channel = "aw" if write else "ar"
        self.shapes = layouts((WritePortRtl if write else ReadPortRtl)(self.clients, parts))
        self.cycle = self.late = self.errors = self.bursts = self.beats = 0
        self.port: Any = None
        self.under_way: deque[int] = deque()
        self.bus = Axi4(constants=False, bits=8 * self.bytes)
        self.unanswered = 0  # writes whose address memory has taken
        self.part, self.partial, self.spoiled = 0, 0, False  # of the beat that comes or leaves
        self.beat: dict[int, tuple[int, ...]] = {}  # data and strobe of each client's next beat
        self.pulled: deque[tuple[int, ...]] = deque()  # those in front of W

    async def reset(self) -> None:
        """Reset with new regions and a fresh model."""
        dut, rng = self.dut, self.rng
        dut.clk.value = 0
        dut.rst.value = 1
        self.regions = random_regions(rng)
        self.requests: list[Burst | None] = [None] * self.clients
        self.ask, self.ready, self.move, self.wrong = (float(rng.choice([0.1, 0.5, 0.9])) for _ in range(4))
        self.wrong = float(rng.choice([0.0, 0.02, 0.1]))
        watchdog = int(rng.choice([0, 1, 3, 10, 40]))
        self.port = (WritePort if self.write else ReadPort)(self.regions, watchdog)
        dut.watchdog.value = watchdog
        self.under_way.clear()
        self.pulled.clear()
        self.bus, self.unanswered = Axi4(constants=False, bits=8 * self.bytes), 0
        self.part, self.partial, self.spoiled = 0, 0, False
        dut.regions.value = regions_word(self.regions)
        for i in range(self.clients):
            getattr(dut, f"clients__{i}__request__valid").value = 0
        self.idle_inputs()
        for _ in range(2):
            await self.clock()
        dut.rst.value = 0

    def idle_inputs(self) -> None:
        """Nothing from memory."""
        for name in ("bvalid", "wready") if self.write else ("rvalid",):
            getattr(self.dut, f"axi__{name}").value = 0

    async def clock(self) -> None:
        """Pass the edge of the clock."""
        await Timer(4, "ns")
        self.dut.clk.value = 1
        await Timer(4, "ns")
        self.dut.clk.value = 0

    def signal(self, name: str) -> int:
        """Return a signal of the bus in this cycle; channels of the other direction are silent."""
        handle = getattr(self.dut, f"axi__{name}", None)
        return 0 if handle is None else int(handle.value)

    def chance(self, share: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < share)

    def response(self, fault: bool) -> int:
        """Return a response of memory: SLVERR or DECERR, else OKAY or EXOKAY, which is no error either."""
        return 2 * fault + int(self.rng.integers(2))

    def offer(self) -> None:
        """Let clients ask; a request stands until it is taken."""
        for i in range(self.clients):
            if self.requests[i] is None and self.chance(self.ask):
                burst = random_burst(self.rng, self.regions, self.wrong, write=self.write)
                self.requests[i] = burst
                getattr(self.dut, f"clients__{i}__request__payload").value = burst_word(burst)
            getattr(self.dut, f"clients__{i}__request__valid").value = int(self.requests[i] is not None)

    def expect(self, **values: int) -> None:
        """Compare output ports with the model."""
        for name, value in values.items():
            got = int(getattr(self.dut, name).value)
            assert got == value, f"cycle {self.cycle}: {name} {difference(self.shapes.get(name), got, value)}"

    def expect_common(self, chosen: int) -> None:
        """Compare the address channel, whose bursts are taken, idle and error."""
        port, channel = self.port, self.channel
        self.expect(
            idle=int(port.idle),
            bursts=int(chosen >= 0),
            gives_up=int(port.gives_up),
            **{f"axi__{channel}valid": int(port.address is not None)},
        )
        self.expect(**{f"clients__{i}__request__ready": int(port.ready(i)) for i in range(self.clients)})
        if port.address is not None:
            region = self.regions[port.address.region]
            assert region is not None
            address = (region.base + 64 * port.address.offset) % (1 << 64)
            self.expect(**{f"axi__{channel}addr": address, f"axi__{channel}len": port.address.beats * self.parts - 1})
        error = int(self.dut.error.value)
        wanted = 0 if port.error is None else 1 | int(port.error[0]) << 1 | port.error[1] << 5
        if error != wanted and (wanted or error & 1):
            raise AssertionError(f"cycle {self.cycle}: error {difference(self.shapes['error'], error, wanted)}")
        self.errors += wanted != 0
        self.late += port.error is not None and port.error[0] is ErrorCode.TIMEOUT

    def common_inputs(self) -> tuple[bool, bool]:
        """Drive and return `ready` of the address channel and `halt`."""
        ready, halt = self.chance(self.ready), self.chance(0.02)
        getattr(self.dut, f"axi__{self.channel}ready").value = int(ready)
        self.dut.halt.value = int(halt)
        return ready, halt

    def moved(self) -> bool:
        """Count a part that has moved; return whether it ends a beat."""
        self.part = (self.part + 1) % self.parts
        return self.part == 0

    async def step_read(self) -> None:
        """Pass one cycle of the read port."""
        dut, port = self.dut, self.port
        self.offer()
        ready, halt = self.common_inputs()
        comes = bool(self.under_way) and self.chance(self.move)
        fault = comes and self.chance(self.wrong / 10)
        data, response = int.from_bytes(self.rng.bytes(self.bytes), "little"), self.response(fault)
        at = self.part
        arrives = comes and self.moved()
        last = arrives and self.under_way[0] == 1
        for name, value in {"rvalid": comes, "rlast": last, "rdata": data, "rresp": response}.items():
            getattr(dut, f"axi__{name}").value = int(value)
        if comes:
            self.partial = (self.partial if at else 0) | data << 8 * self.bytes * at
            self.spoiled = fault or (self.spoiled and at > 0)
        await Timer(2, "ns")
        taken, chosen = port.take(self.requests), port.choose(ready, halt)
        self.expect_common(chosen)
        self.expect(beats=int(arrives))
        self.expect(**{f"clients__{i}__valid": int(port.told == i) for i in range(self.clients)})
        if port.told >= 0:
            self.expect(**{f"clients__{port.told}__data": self.shown})
        if arrives:
            self.shown = self.partial
        if port.address is not None and ready:
            self.under_way.append(port.address.beats)
        if arrives:
            self.beats += 1
            self.under_way[0] -= 1
            if last:
                self.under_way.popleft()
        self.bus.tick(self.signal)
        port.tick(ready, arrives, last, arrives and self.spoiled, comes and not arrives)
        self.accept(taken)
        await self.clock()

    async def step_write(self) -> None:
        """Pass one cycle of the write port."""
        dut, port = self.dut, self.port
        self.offer()
        ready, halt = self.common_inputs()
        for i in range(self.clients):
            if i not in self.beat:  # a client's beat stands until it is pulled
                self.beat[i] = tuple(int.from_bytes(self.rng.bytes(size), "little") for size in (64, 8))
            getattr(dut, f"clients__{i}__data").value = self.beat[i][0]
            getattr(dut, f"clients__{i}__strobe").value = self.beat[i][1]
        takes = self.chance(self.move)
        answered = bool(self.under_way) and self.unanswered > 0 and self.chance(self.move)
        fault = answered and self.chance(self.wrong)
        for name, value in {"wready": takes, "bvalid": answered, "bresp": self.response(fault)}.items():
            getattr(dut, f"axi__{name}").value = int(value)
        await Timer(2, "ns")
        accepted, chosen = port.take(self.requests), port.choose(ready, halt)
        client = port.client
        leaves, at = takes and port.valid, self.part
        taken = leaves and self.moved()
        self.expect_common(chosen)
        self.expect(axi__wvalid=int(port.valid), beats=int(taken))
        self.expect(**{f"clients__{i}__pull": int(client == i) for i in range(self.clients)})
        self.expect(**{f"clients__{i}__acknowledged": int(port.told == i) for i in range(self.clients)})
        if port.valid:
            last = port.last and at == self.parts - 1
            data, strobe = (
                self.pulled[0][i] >> bits * at & (1 << bits) - 1 for i, bits in enumerate((8 * self.bytes, self.bytes))
            )
            self.expect(axi__wdata=data, axi__wstrb=strobe, axi__wlast=int(last))
            if taken:
                self.pulled.popleft()
                self.beats += 1
                if last:
                    self.under_way.append(1)
        if client >= 0:
            self.pulled.append(self.beat.pop(client))
        if answered:
            self.under_way.popleft()
            self.unanswered -= 1
        self.unanswered += port.address is not None and ready
        self.bus.tick(self.signal)
        port.tick(ready, taken, answered, fault, leaves and not taken)
        self.accept(accepted)
        await self.clock()

    def accept(self, taken: int) -> None:
        """Note which requests have been taken."""
        for i in range(self.clients):
            if taken >> i & 1:
                self.requests[i] = None
                self.bursts += 1
        self.cycle += 1


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Random bursts, some outside their regions, errors of memory, pauses everywhere, resets at any time."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut, rng, int(job["parts"]), write=bool(job["write"]))
    for _ in range(job["runs"]):
        await bench.reset()
        for _ in range(int(rng.integers(10, job["cycles"]))):
            await (bench.step_write() if bench.write else bench.step_read())
    save_result(cycles=bench.cycle, errors=bench.errors, late=bench.late, bursts=bench.bursts, beats=bench.beats)
