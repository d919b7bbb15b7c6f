"""The AXI4 master of the machine: channel signatures, regions, small queues for what is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, OFFSET_BITS, REGIONS

if TYPE_CHECKING:
    from amaranth.hdl import ShapeLike

ADDRESS_BITS: Final = 64
DATA_BITS: Final = 8 * BEAT_BYTES
LOG2_BEAT: Final = BEAT_BYTES.bit_length() - 1

PAGE_BITS: Final = 12
"""Low bits of a region's base, which are 0."""


class ReadChannels(wiring.Signature):
    """AR and R of AXI4; what is constant for all bursts is left to the top.

    Members, as the master has them:

    arvalid : Out(1), a burst is asked for.
    arready : In(1), memory takes the request.
    araddr : Out(64), address of its first byte, a multiple of 64.
    arlen : Out(8), its beats less 1, at most 15.
    rvalid : In(1), a beat is there.
    rready : Out(1), it is taken.
    rdata : In(512), the beat, byte 0 at bit 0.
    rresp : In(2), 0 or 1: good; 2 or 3: an error of memory.
    rlast : In(1), it is the last of its burst.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "arvalid": Out(1),
                "arready": In(1),
                "araddr": Out(ADDRESS_BITS),
                "arlen": Out(8),
                "rvalid": In(1),
                "rready": Out(1),
                "rdata": In(DATA_BITS),
                "rresp": In(2),
                "rlast": In(1),
            }
        )


class WriteChannels(wiring.Signature):
    """AW, W and B of AXI4.

    Members, as the master has them:

    awvalid : Out(1), a burst is asked for.
    awready : In(1), memory takes the request.
    awaddr : Out(64), address of its first byte, a multiple of 64.
    awlen : Out(8), its beats less 1, at most 15.
    wvalid : Out(1), a beat is there.
    wready : In(1), memory takes it.
    wdata : Out(512), the beat, byte 0 at bit 0.
    wstrb : Out(64), its bytes that are written.
    wlast : Out(1), it is the last of its burst.
    bvalid : In(1), a burst has been written.
    bready : Out(1), the answer is taken.
    bresp : In(2), 0 or 1: good; 2 or 3: an error of memory.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "awvalid": Out(1),
                "awready": In(1),
                "awaddr": Out(ADDRESS_BITS),
                "awlen": Out(8),
                "wvalid": Out(1),
                "wready": In(1),
                "wdata": Out(DATA_BITS),
                "wstrb": Out(BEAT_BYTES),
                "wlast": Out(1),
                "bvalid": In(1),
                "bready": Out(1),
                "bresp": In(2),
            }
        )


def region_layout() -> data.StructLayout:
    """A region: pages of 4 KiB in front of it, beats in it, whether it is open and may be written."""
    return data.StructLayout({"page": ADDRESS_BITS - PAGE_BITS, "size": OFFSET_BITS, "open": 1, "writable": 1})


def regions_layout() -> data.ArrayLayout:
    """All regions of a run."""
    return data.ArrayLayout(region_layout(), REGIONS)


def error_layout(clients: int) -> data.StructLayout:
    """An error for one cycle: `dataflow.contract.isa.ErrorCode`, and the client it belongs to."""
    return data.StructLayout({"valid": 1, "code": 4, "client": range(max(2, clients))})


class Queue(wiring.Component):
    """A short queue in distributed memory whose oldest entry stands at the output.

    Parameters: shape: of an entry; depth: a power of two. The user never pushes into a full queue (`level` tells) and
    never pops an empty one.
    Members:

    push : In(1), an entry enters.
    i : In(shape), this entry.
    pop : In(1), the oldest one leaves.
    o : Out(shape), the oldest one.
    some : Out(1), there is one.
    level : Out(range(depth + 1)), how many there are.

    Timing: an entry pushed in cycle t stands at `o` from t + 1 on.
    """

    push: Signal
    i: Any
    pop: Signal
    o: Any
    some: Signal
    level: Signal

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self._depth = depth
        super().__init__(
            {
                "push": In(1),
                "i": In(shape),
                "pop": In(1),
                "o": Out(shape),
                "some": Out(1),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(Value.cast(self.i))
        memory = Memory(shape=width, depth=self._depth, init=[], attrs={"ram_style": "distributed"})
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.push),
            write.data.eq(self.i),
            Value.cast(self.o).eq(read.data),
            self.some.eq(self.level.any()),
        ]
        m.d.sync += [
            write.addr.eq(write.addr + self.push),
            read.addr.eq(read.addr + self.pop),
            self.level.eq(self.level + self.push - self.pop),
        ]
        return m


class Gate(wiring.Component):
    """Choose the first client that asks, and check its burst against its region.

    Parameters: clients: how many; burst: layout of a request; write: the region must allow writing.
    Members:

    valid : In(clients), this client asks.
    requests : In(clients * burst.size), bursts asked for, client 0 first.
    may : In(1), a burst may leave in this cycle.
    regions : In(`regions_layout`), the regions of the run.
    accept : Out(clients), the burst of this client leaves.
    leaves : Out(1), a burst leaves.
    violation : Out(1), a burst may leave but lies outside its region, and stays.
    client : Out(range(max(2, clients))), the client chosen.
    address : Out(64), byte address of its burst.
    beats_less_1 : Out(4), beats of its burst less 1.

    Timing: combinational.
    """

    valid: Signal
    requests: Any
    may: Signal
    regions: Any
    accept: Signal
    leaves: Signal
    violation: Signal
    client: Signal
    address: Signal
    beats_less_1: Signal

    def __init__(self, clients: int, burst: data.StructLayout, *, write: bool) -> None:
        self._clients = clients
        self._write = write
        super().__init__(
            {
                "valid": In(clients),
                "requests": In(data.ArrayLayout(burst, clients)),
                "may": In(1),
                "regions": In(regions_layout()),
                "accept": Out(clients),
                "leaves": Out(1),
                "violation": Out(1),
                "client": Out(range(max(2, clients))),
                "address": Out(ADDRESS_BITS),
                "beats_less_1": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        burst = Signal.like(self.requests[0])
        for i in reversed(range(self._clients)):
            with m.If(self.valid[i]):
                m.d.comb += [self.client.eq(i), burst.eq(self.requests[i])]
        region = Signal(region_layout())
        with m.Switch(burst.region):
            for i in range(REGIONS):
                with m.Case(i):
                    m.d.comb += region.eq(self.regions[i])
        end = Signal(OFFSET_BITS + 1)
        inside = Signal()
        right = region.writable if self._write else 1
        m.d.comb += [
            end.eq(burst.offset + burst.beats_less_1 + 1),
            inside.eq((end <= region.size) & region.open & right),
            self.leaves.eq(self.may & self.valid.any() & inside),
            self.violation.eq(self.may & self.valid.any() & ~inside),
            self.address.eq((region.page << PAGE_BITS) + (burst.offset << LOG2_BEAT)),
            self.beats_less_1.eq(burst.beats_less_1),
        ]
        for i in range(self._clients):
            m.d.comb += self.accept[i].eq(self.leaves & (self.client == i))
        return m
