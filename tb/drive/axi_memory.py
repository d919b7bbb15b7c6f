"""Memory behind the AXI4 master of the machine: deterministic as in the simulator, or random on all channels."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiSlave

from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.sim.memory.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.cycles.memory import MemoryTiming

SLVERR: Final = 2
ALL_BYTES: Final = (1 << BEAT_BYTES) - 1


class Space:
    """The bytes of a run behind one master: regions at their addresses, and beats that answer with an error.

    Every access outside a region, and to one behind another master, is an AssertionError: the machine must never make
    one. port: number of the master.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._parts: list[tuple[int, int, memoryview]] = []
        self._faults: frozenset[int] = frozenset()
        self.wrong: str | None = None

    def open(self, settings: Launch, regions: Sequence[NDArray[np.uint8]], faults: frozenset[int]) -> None:
        """Put the arrays of the regions in place; faults: addresses divided by 64 that answer with an error."""
        self._faults = faults
        self._parts = []
        for region, array in zip(settings.regions, regions, strict=False):
            if region is not None and region.port == self._port:
                size = min(array.size, region.size * BEAT_BYTES)
                self._parts.append((region.base, region.base + size, array.data))

    def read(self, address: int) -> tuple[int, bool]:
        """Return the beat at an address, and whether it is faulty."""
        part, at = self._find(address)
        return int.from_bytes(part[at : at + BEAT_BYTES], "little"), address // BEAT_BYTES in self._faults

    def write(self, address: int, data: int, strobe: int) -> bool:
        """Write the bytes of a beat whose strobe is set; return whether the beat is faulty (written all the same)."""
        part, at = self._find(address)
        values = data.to_bytes(BEAT_BYTES, "little")
        if strobe == ALL_BYTES:
            part[at : at + BEAT_BYTES] = values
        else:
            for i in range(BEAT_BYTES):
                if strobe >> i & 1:
                    part[at + i] = values[i]
        return address // BEAT_BYTES in self._faults

    def _find(self, address: int) -> tuple[memoryview, int]:
        for start, stop, part in self._parts:
            if start <= address and address + BEAT_BYTES <= stop:
                return part, address - start
        self.wrong = f"address {address:#x} is in no region of the run behind port {self._port}"
        raise AssertionError(self.wrong)


@dataclass(slots=True)
class _Burst:
    """A burst on the channel: direction, address of its next beat or part of one."""

    write: bool
    address: int
    fault: bool = False


class ModelMemory:
    """One channel of `sim.memory.channel`, reads before writes in a cycle with two requests. master: its bus.

    What the channel moves in a cycle is worked out when the cycle begins, since nothing that is asked for in it can
    move in it; so the outputs are driven at its first edge and nothing has to settle.
    """

    def __init__(self, dut: Any, clock: Any, timing: MemoryTiming, space: Space, master: str) -> None:
        self._clock = clock
        self._timing = timing
        self._space = space
        self._parts = timing.parts
        self._bytes = BEAT_BYTES // timing.parts
        # a request of a cycle is handed over after the cycle's tick
        self._channel = Channel(replace(timing, latency=timing.latency - 1))
        names = ["arvalid", "araddr", "arlen", "awvalid", "awaddr", "awlen", "wvalid", "wdata", "wstrb", "wlast"]
        self._in = {name: getattr(dut, f"{master}_{name}") for name in names}
        names = ["arready", "awready", "wready", "rvalid", "rdata", "rlast", "rresp", "rid", "bvalid", "bresp", "bid"]
        self._out = {name: getattr(dut, f"{master}_{name}") for name in names}
        self._level = dict.fromkeys(self._out, -1)
        for name in self._out:
            self._drive(name, 0)

    async def run(self) -> None:
        """Serve the master for ever."""
        edge = RisingEdge(self._clock)
        arvalid, awvalid = self._in["arvalid"], self._in["awvalid"]
        channel, outstanding = self._channel, self._timing.outstanding
        arready = awready = False
        writes: _Burst | None = None  # whose beat is taken in this cycle
        ends = False
        while True:
            await edge
            if writes is not None:
                self._take(writes, ends)
            if arready and arvalid.value == 1:
                self._request("ar", write=False)
            if awready and awvalid.value == 1:
                self._request("aw", write=True)
            answer = int(writes.fault) * SLVERR if writes is not None and ends else None
            self._answer(answer)
            room = outstanding - channel.in_flight
            arready, awready = room > 0, room > 1
            self._drive("arready", int(arready))
            self._drive("awready", int(awready))
            beat = channel.tick()
            burst: Any = beat.tag if beat is not None else None
            ends = beat is not None and beat.last
            writes = burst if burst is not None and burst.write else None
            self._drive("wready", int(writes is not None))
            self._give(burst if burst is not None and not burst.write else None, ends)

    def _request(self, channel: str, *, write: bool) -> None:
        address, parts = int(self._in[f"{channel}addr"].value), int(self._in[f"{channel}len"].value) + 1
        beats, odd = divmod(parts, self._parts)
        assert not odd, f"a burst of {parts} transfers ends within a beat of 64 bytes"
        assert address % 4096 + beats * BEAT_BYTES <= 4096, f"{beats} beats at {address:#x} cross 4 KiB"
        assert self._channel.request(beats, _Burst(write, address)), f"{channel} was taken beyond `outstanding`"

    def _take(self, burst: _Burst, ends: bool) -> None:
        assert self._in["wvalid"].value == 1, "wvalid waits within a burst"
        assert int(self._in["wlast"].value) == ends, "wlast does not fit the length of the burst"
        data, strobe = int(self._in["wdata"].value), int(self._in["wstrb"].value)
        first = burst.address % BEAT_BYTES
        burst.fault |= self._space.write(burst.address - first, data << 8 * first, strobe << first)
        burst.address += self._bytes

    def _give(self, burst: _Burst | None, ends: bool) -> None:
        self._drive("rvalid", int(burst is not None))
        if burst is not None:
            beat, first = divmod(burst.address, BEAT_BYTES)
            data, fault = self._space.read(beat * BEAT_BYTES)
            burst.address += self._bytes
            self._drive("rdata", data >> 8 * first & (1 << 8 * self._bytes) - 1)
            self._drive("rlast", int(ends))
            # one part of a faulty beat is wrong, each in its turn
            self._drive("rresp", SLVERR * (fault and first // self._bytes == beat % self._parts))

    def _answer(self, response: int | None) -> None:
        self._drive("bvalid", int(response is not None))
        if response is not None:
            self._drive("bresp", response)

    def _drive(self, name: str, value: int) -> None:
        if self._level[name] != value:
            self._level[name] = value
            self._out[name].value = value


class _Target:
    """`Space` as cocotbext-axi asks for it: an exception becomes an error answer."""

    def __init__(self, space: Space) -> None:
        self._space = space

    async def read(self, address: int, length: int) -> bytes:
        """Return a beat, or a part of one."""
        first = address % BEAT_BYTES
        data, fault = self._space.read(address - first)
        if fault:
            raise OSError(f"beat at {address:#x} is faulty")
        return data.to_bytes(BEAT_BYTES, "little")[first : first + length]

    async def write(self, address: int, data: bytes) -> None:
        """Write bytes within a beat."""
        first = address % BEAT_BYTES
        strobe = ((1 << len(data)) - 1) << first
        if self._space.write(address - first, int.from_bytes(data, "little") << 8 * first, strobe):
            raise OSError(f"beat at {address:#x} is faulty")


def random_memory(dut: Any, clock: Any, space: Space, rng: random.Random, pauses: float, master: str) -> AxiSlave:
    """Return a memory of cocotbext-axi behind a bus whose channels pause at random; pauses: share of paused cycles."""
    slave: Any = AxiSlave(AxiBus.from_prefix(dut, master), clock, dut.rst, target=_Target(space))
    slave.write_if.log.setLevel("ERROR")
    slave.read_if.log.setLevel("ERROR")
    parts = (
        slave.write_if.aw_channel,
        slave.write_if.w_channel,
        slave.write_if.b_channel,
        slave.read_if.ar_channel,
        slave.read_if.r_channel,
    )
    for part in parts:
        part.set_pause_generator(_pauses(random.Random(rng.random()), pauses))
    return slave


def _pauses(rng: random.Random, share: float) -> Iterator[bool]:
    """Give stretches of pauses and of none, so that queues fill and run dry."""
    while True:
        paused = rng.random() < share
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            yield paused
