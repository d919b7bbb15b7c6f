"""The write side of the machine's memory port: bursts of several engines on one AXI4 master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.hw.memory.axi import Gate, Queue, WriteChannels, error_layout, regions_layout
from nmsat.hw.parts.clients import WriteClient, burst_layout

if TYPE_CHECKING:
    from collections.abc import Sequence


class WritePort(wiring.Component):
    """Let the clients write, the first one first.

    Parameters: clients: how many.
    Members:

    clients : In(`WriteClient`) each, the engines, the first one first.
    regions : In(`regions_layout`), stable during a run.
    halt : In(1), no burst is accepted.
    idle : Out(1), nothing is under way.
    error : Out(`error_layout(clients)`), an error, for one cycle.
    bursts : Out(1), one was accepted.
    beats : Out(1), one was taken by memory.
    axi : Out(`WriteChannels`), AW, W and B.

    Timing: a burst accepted in cycle t stands on AW from t + 1 on; its beats stand on W from then on, after those of
    earlier bursts; a response on B in cycle u is told to the client in u + 1. After an error no burst is accepted until
    reset.
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
                "clients": In(WriteClient()).array(clients),
                "regions": In(regions_layout()),
                "halt": In(1),
                "idle": Out(1),
                "error": Out(error_layout(clients)),
                "bursts": Out(1),
                "beats": Out(1),
                "axi": Out(WriteChannels()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.gate = gate = Gate(self._count, burst_layout(), write=True)
        m.submodules.answers = answers = Queue(gate.client.shape(), UNDER_WAY)
        failed = Signal()
        axi = self.axi
        m.d.comb += [
            gate.may.eq((~axi.awvalid | axi.awready) & ~self.halt & ~failed & (answers.level != UNDER_WAY)),
            gate.regions.eq(self.regions),
            answers.push.eq(gate.leaves),
            answers.i.eq(gate.client),
            answers.pop.eq(axi.bvalid),
            axi.bready.eq(1),
            self.bursts.eq(gate.leaves),
            self.beats.eq(axi.wvalid & axi.wready),
        ]
        with m.If(gate.leaves):
            m.d.sync += [axi.awvalid.eq(1), axi.awaddr.eq(gate.address), axi.awlen.eq(gate.beats_less_1)]
        with m.Elif(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        self._beats(m, gate)
        told = self._answers(m, answers)
        wrong = Signal()
        m.d.comb += wrong.eq(axi.bvalid & axi.bresp[1])
        m.d.sync += [
            self.error.valid.eq(wrong | gate.violation),
            self.error.code.eq(Mux(wrong, ErrorCode.WRITE, ErrorCode.REGION)),
            self.error.client.eq(Mux(wrong, answers.o, gate.client)),
        ]
        with m.If(wrong | gate.violation):
            m.d.sync += failed.eq(1)
        m.d.comb += self.idle.eq(~axi.awvalid & ~answers.some & ~told.any())
        return m

    def _beats(self, m: Module, gate: Gate) -> None:
        """Move the beats of the accepted bursts in order."""
        axi = self.axi
        layout = data.StructLayout({"client": gate.client.shape(), "beats_less_1": 4})
        m.submodules.order = order = Queue(layout, UNDER_WAY)
        number = Signal(4)
        takes = Signal()
        m.d.comb += [
            order.push.eq(gate.leaves),
            order.i.client.eq(gate.client),
            order.i.beats_less_1.eq(gate.beats_less_1),
            axi.wvalid.eq(order.some),
            axi.wlast.eq(number == order.o.beats_less_1),
            takes.eq(axi.wvalid & axi.wready),
            order.pop.eq(takes & axi.wlast),
        ]
        with m.If(takes):
            m.d.sync += number.eq(Mux(axi.wlast, 0, number + 1))
        for i, client in enumerate(self.clients):
            m.d.comb += [
                gate.valid[i].eq(client.request.valid),
                gate.requests[i].eq(client.request.payload),
                client.request.ready.eq(gate.accept[i]),
            ]
            with m.If(order.o.client == i):
                m.d.comb += [axi.wdata.eq(client.data), axi.wstrb.eq(client.strobe), client.pull.eq(takes)]

    def _answers(self, m: Module, answers: Queue) -> Signal:
        """Tell the clients what memory has taken; return who is told in this cycle."""
        told = Signal(self._count)
        m.d.sync += told.eq(self.axi.bvalid << answers.o)
        for i, client in enumerate(self.clients):
            m.d.comb += client.acknowledged.eq(told[i])
        return told
