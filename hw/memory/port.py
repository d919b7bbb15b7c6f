"""What the read and the write port of the machine share: whose burst leaves, and what is told when memory answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import OFFSET_BITS, REGIONS, ErrorCode
from nmsat.dataflow.contract.limits import PAGE_BITS, WATCHDOG_BITS
from nmsat.hw.memory.axi import ADDRESS_BITS, LOG2_BEAT, error_layout, region_layout, regions_layout
from nmsat.hw.memory.watchdog import Watchdog
from nmsat.hw.parts.clients import burst_layout
from nmsat.hw.parts.small_queue import SmallQueue
from nmsat.hw.parts.two_places import TwoPlaces

if TYPE_CHECKING:
    from amaranth.hdl import Value


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


@dataclass(frozen=True)
class Answers:
    """What memory answers to bursts, in their order: valid; ends: the last to its burst; wrong: an error, if valid."""

    valid: Value
    ends: Value
    wrong: Value
    code: ErrorCode


def port_members(clients: int, client: wiring.Signature, axi: wiring.Signature) -> dict[str, wiring.Member]:
    """Return the members that a port has; client: how an engine meets it; axi: its channels."""
    return {
        "clients": In(client).array(clients),
        "regions": In(regions_layout()),
        "halt": In(1),
        "watchdog": In(WATCHDOG_BITS),
        "idle": Out(1),
        "error": Out(error_layout(clients)),
        "gives_up": Out(1),
        "bursts": Out(1),
        "beats": Out(1),
        "axi": Out(axi),
    }


def arbitrate(
    m: Module, port: Any, channel: str, answers: Answers, moves: Value | int = 0, parts: int = 1
) -> tuple[Gate, Signal]:
    """Let bursts leave a port, whose elaboration calls this; return the gate, and which client is told in this cycle.

    channel: "ar" or "aw"; moves: something is taken that is neither address nor answer; parts: transfers that are a
    beat. A burst taken from its client in cycle t stands in a register of this client from t + 1 on, where it is
    chosen; one chosen in cycle t stands on the channel from t + 1 on. One burst per cycle; an answer in cycle u is told
    to its client in u + 1. After an error no burst is chosen until reset.
    """
    m.submodules.gate = gate = Gate(len(port.clients), burst_layout(), write=channel == "aw")
    m.submodules.waiting = waiting = SmallQueue(gate.client.shape(), UNDER_WAY)
    valid, ready = getattr(port.axi, f"{channel}valid"), getattr(port.axi, f"{channel}ready")
    address, length = getattr(port.axi, f"{channel}addr"), getattr(port.axi, f"{channel}len")
    if parts > 1:
        length = _in_parts(m, length, parts)
    failed = Signal()
    wrong = Signal()
    told = Signal(len(port.clients))
    m.d.comb += [
        gate.may.eq((~valid | ready) & ~port.halt & ~failed & (waiting.level != UNDER_WAY)),
        gate.regions.eq(port.regions),
        waiting.push.eq(gate.leaves),
        waiting.i.eq(gate.client),
        waiting.pop.eq(answers.ends),
        port.bursts.eq(gate.leaves),
    ]
    for i, client in enumerate(port.clients):
        m.submodules[f"asked_{i}"] = asked = TwoPlaces(burst_layout())
        m.d.comb += [
            asked.i.valid.eq(client.request.valid),
            asked.i.payload.eq(client.request.payload),
            client.request.ready.eq(asked.i.ready),
            gate.valid[i].eq(asked.o.valid),
            gate.requests[i].eq(asked.o.payload),
            asked.o.ready.eq(gate.accept[i]),
        ]
    with m.If(gate.leaves):
        m.d.sync += [valid.eq(1), address.eq(gate.address), length.eq(gate.beats_less_1)]
    with m.Elif(ready):
        m.d.sync += valid.eq(0)
    m.d.comb += wrong.eq(answers.valid & answers.wrong)
    m.d.sync += [
        told.eq(Cat(answers.valid & (waiting.o == i) for i in range(len(told)))),
        port.error.valid.eq(wrong | gate.violation),
        port.error.code.eq(Mux(wrong, answers.code, ErrorCode.REGION)),
        port.error.client.eq(Mux(wrong, waiting.o, gate.client)),
    ]
    with m.If(wrong | gate.violation):
        m.d.sync += failed.eq(1)
    m.submodules.watchdog = watchdog = Watchdog()
    m.d.sync += port.gives_up.eq(watchdog.late)
    m.d.comb += [
        watchdog.limit.eq(port.watchdog),
        watchdog.owes.eq(waiting.some),
        watchdog.moves.eq((valid & ready) | answers.valid | moves),
    ]
    with m.If(watchdog.late & ~gate.violation):
        m.d.sync += [
            port.error.valid.eq(1),
            port.error.code.eq(ErrorCode.TIMEOUT),
            port.error.client.eq(waiting.o),
            failed.eq(1),
        ]
    m.d.comb += port.idle.eq(~valid & ~waiting.some & ~told.any())
    return gate, told


def _in_parts(m: Module, length: Value, parts: int) -> Signal:
    """Return beats less 1 of a burst that stands on its channel; length, on the channel, counts transfers."""
    beats_less_1 = Signal(4)
    m.d.comb += length.eq(Cat(Const(-1, (parts - 1).bit_length()), beats_less_1))
    return beats_less_1
