"""The write side of the machine's memory port: bursts of several engines on one AXI4 master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.hw.memory.axi import WriteChannels, written_layout
from nmsat.hw.memory.port import Answers, arbitrate, port_members
from nmsat.hw.parts.clients import WriteClient
from nmsat.hw.parts.small_queue import SmallQueue
from nmsat.hw.parts.two_places import TwoPlaces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.hw.memory.port import Gate


class WritePort(wiring.Component):
    """Let the clients write, the first one first.

    Parameters: clients: how many.
    Members:

    clients : In(`WriteClient`) each, the engines, the first one first.
    regions : In(`hw.memory.axi.regions_layout`), stable during a run.
    halt : In(1), no burst leaves.
    watchdog : In(32), cycles in which memory may move nothing of what it owes, stable during a run; 0: any number.
    idle : Out(1), nothing is under way.
    error : Out(`hw.memory.axi.error_layout(clients)`), an error, for one cycle.
    gives_up : Out(1), memory has moved nothing for `watchdog` cycles, for one cycle, in which there is an error too.
    bursts : Out(1), one leaves for AW.
    beats : Out(1), one was taken by memory.
    axi : Out(`WriteChannels`), AW, W and B.

    Timing: a burst taken from its client in cycle t may be chosen from t + 1 on; one chosen in cycle t stands on AW
    from t + 1 on; its first beat is pulled in t + 1 and stands on W from t + 2 on, after those of earlier bursts, two
    of which are pulled ahead of memory; a response on B in cycle u is told to the client in u + 1. After an error none
    leaves until reset. `request.ready` of the clients, and all that goes to memory, are registers; `pull` depends on
    registers only.
    """

    clients: Sequence[Any]
    regions: Any
    halt: Signal
    watchdog: Signal
    idle: Signal
    error: Any
    gives_up: Signal
    bursts: Signal
    beats: Signal
    axi: Any

    def __init__(self, clients: int) -> None:
        super().__init__(port_members(clients, WriteClient(), WriteChannels()))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        gate, told = arbitrate(
            m, self, "aw", Answers(axi.bvalid, axi.bvalid, axi.bresp[1], ErrorCode.WRITE), self.beats
        )
        m.d.comb += [axi.bready.eq(1), self.beats.eq(axi.wvalid & axi.wready)]
        for i, client in enumerate(self.clients):
            m.d.comb += client.acknowledged.eq(told[i])
        self._beats(m, gate)
        return m

    def _beats(self, m: Module, gate: Gate) -> None:
        """Move the beats of the accepted bursts in order."""
        axi = self.axi
        layout = data.StructLayout({"client": gate.client.shape(), "beats_less_1": 4})
        m.submodules.order = order = SmallQueue(layout, UNDER_WAY)
        m.submodules.pulled = pulled = TwoPlaces(written_layout())
        number = Signal(4)
        takes = Signal()
        m.d.comb += [
            order.push.eq(gate.leaves),
            order.i.client.eq(gate.client),
            order.i.beats_less_1.eq(gate.beats_less_1),
            pulled.i.valid.eq(order.some),
            pulled.i.payload.last.eq(number == order.o.beats_less_1),
            takes.eq(pulled.i.valid & pulled.i.ready),
            order.pop.eq(takes & pulled.i.payload.last),
            axi.wvalid.eq(pulled.o.valid),
            axi.wdata.eq(pulled.o.payload.data),
            axi.wstrb.eq(pulled.o.payload.strobe),
            axi.wlast.eq(pulled.o.payload.last),
            pulled.o.ready.eq(axi.wready),
        ]
        with m.If(takes):
            m.d.sync += number.eq(Mux(pulled.i.payload.last, 0, number + 1))
        for i, client in enumerate(self.clients):
            with m.If(order.o.client == i):
                m.d.comb += [
                    pulled.i.payload.data.eq(client.data),
                    pulled.i.payload.strobe.eq(client.strobe),
                    client.pull.eq(takes),
                ]
