"""The write side of the machine's memory port: bursts of several engines on one AXI4 master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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

_SPLIT: Final = ("wdata", "wstrb")
"""What of channel W leaves in parts."""


class WritePort(wiring.Component):
    """Let the clients write, the first one first.

    Parameters: clients: how many; parts: transfers that are a beat of 64 bytes.
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
    axi : Out(`WriteChannels`), AW, W and B, of so many parts.

    Timing: a burst taken from its client in cycle t may be chosen from t + 1 on; one chosen in cycle t stands on AW
    from t + 1 on; its first beat is pulled in t + 1 and stands on W from t + 2 on, after those of earlier bursts, two
    of which are pulled ahead of memory, each in its parts, the lowest bytes first; a response on B in cycle u is told
    to the client in u + 1. After an error none leaves until reset. `request.ready` of the clients, and all that goes to
    memory, are registers, but that a part is chosen from its beat; `pull` depends on registers only.
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

    def __init__(self, clients: int, parts: int = 1) -> None:
        self._parts = parts
        super().__init__(port_members(clients, WriteClient(), WriteChannels(parts)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        beats, moves = (axi, self.beats) if self._parts == 1 else (self._deal(m), axi.wvalid & axi.wready)
        answers = Answers(axi.bvalid, axi.bvalid, axi.bresp[1], ErrorCode.WRITE)
        gate, told = arbitrate(m, self, "aw", answers, moves, self._parts)
        m.d.comb += [axi.bready.eq(1), self.beats.eq(beats.wvalid & beats.wready)]
        for i, client in enumerate(self.clients):
            m.d.comb += client.acknowledged.eq(told[i])
        self._beats(m, gate, beats)
        return m

    def _deal(self, m: Module) -> Any:
        """Return a channel W for whole beats, which leave in parts."""
        axi, members = self.axi, WriteChannels().members.items()
        wide: Any = wiring.Signature({name: flow for name, flow in members if name.startswith("w")}).create()
        part = Signal(range(self._parts))
        m.d.comb += [
            axi.wvalid.eq(wide.wvalid),
            axi.wlast.eq(wide.wlast & part.all()),
            wide.wready.eq(axi.wready & part.all()),
        ]
        with m.Switch(part):
            for i in range(self._parts):
                with m.Case(i):
                    for name in _SPLIT:
                        out = getattr(axi, name)
                        m.d.comb += out.eq(getattr(wide, name).word_select(i, len(out)))
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += part.eq(part + 1)
        return wide

    def _beats(self, m: Module, gate: Gate, axi: Any) -> None:
        """Move the beats of the accepted bursts in order. axi: a channel W for whole beats."""
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
