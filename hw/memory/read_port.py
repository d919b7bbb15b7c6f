"""The read side of the machine's memory port: bursts of several engines on one AXI4 master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.hw.memory.axi import DATA_BITS, Gate, Queue, ReadChannels, error_layout, regions_layout
from nmsat.hw.parts.clients import ReadClient, burst_layout

if TYPE_CHECKING:
    from collections.abc import Sequence


class ReadPort(wiring.Component):
    """Let the clients read, the first one first.

    Parameters: clients: how many.
    Members:

    clients : In(`ReadClient`) each, the engines, the first one first.
    regions : In(`regions_layout`), stable during a run.
    halt : In(1), no burst is accepted.
    idle : Out(1), nothing is under way.
    error : Out(`error_layout(clients)`), an error, for one cycle.
    bursts : Out(1), one was accepted.
    beats : Out(1), one arrived.
    axi : Out(`ReadChannels`), AR and R.

    Timing: a burst accepted in cycle t stands on AR from t + 1 on, one burst per cycle; a beat on R in cycle u stands
    at its client in u + 1. After an error no burst is accepted until reset.
    """

    clients: Sequence[Any]
    regions: Any
    halt: Signal
    idle: Signal
    error: Any
    bursts: Signal
    beats: Signal
    axi: Any

    def __init__(self, clients: int) -> None:
        self._count = clients
        super().__init__(
            {
                "clients": In(ReadClient()).array(clients),
                "regions": In(regions_layout()),
                "halt": In(1),
                "idle": Out(1),
                "error": Out(error_layout(clients)),
                "bursts": Out(1),
                "beats": Out(1),
                "axi": Out(ReadChannels()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.gate = gate = Gate(self._count, burst_layout(), write=False)
        m.submodules.order = order = Queue(gate.client.shape(), UNDER_WAY)
        failed = Signal()
        axi = self.axi
        m.d.comb += [
            gate.may.eq((~axi.arvalid | axi.arready) & ~self.halt & ~failed & (order.level != UNDER_WAY)),
            gate.regions.eq(self.regions),
            order.push.eq(gate.leaves),
            order.i.eq(gate.client),
            order.pop.eq(axi.rvalid & axi.rlast),
            axi.rready.eq(1),
            self.bursts.eq(gate.leaves),
            self.beats.eq(axi.rvalid),
        ]
        with m.If(gate.leaves):
            m.d.sync += [axi.arvalid.eq(1), axi.araddr.eq(gate.address), axi.arlen.eq(gate.beats_less_1)]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        arrived = self._beats(m, gate, order)
        wrong = Signal()
        m.d.comb += wrong.eq(axi.rvalid & axi.rresp[1])
        m.d.sync += [
            self.error.valid.eq(wrong | gate.violation),
            self.error.code.eq(Mux(wrong, ErrorCode.READ, ErrorCode.REGION)),
            self.error.client.eq(Mux(wrong, order.o, gate.client)),
        ]
        with m.If(wrong | gate.violation):
            m.d.sync += failed.eq(1)
        m.d.comb += self.idle.eq(~axi.arvalid & ~order.some & ~arrived.any())
        return m

    def _beats(self, m: Module, gate: Gate, order: Queue) -> Signal:
        """Connect the clients; return which of them gets a beat in this cycle."""
        arrived = Signal(self._count)
        beat = Signal(DATA_BITS, reset_less=True)
        m.d.sync += [beat.eq(self.axi.rdata), arrived.eq(self.axi.rvalid << order.o)]
        for i, client in enumerate(self.clients):
            m.d.comb += [
                gate.valid[i].eq(client.request.valid),
                gate.requests[i].eq(client.request.payload),
                client.request.ready.eq(gate.accept[i]),
                client.valid.eq(arrived[i]),
                client.data.eq(beat),
            ]
        return arrived
