"""The read side of the machine's memory port: bursts of several engines on one AXI4 master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.hw.memory.axi import DATA_BITS, ReadChannels
from nmsat.hw.memory.port import Answers, arbitrate, port_members
from nmsat.hw.parts.clients import ReadClient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amaranth.hdl import Value


class ReadPort(wiring.Component):
    """Let the clients read, the first one first.

    Parameters: clients: how many; parts: transfers that are a beat of 64 bytes.
    Members:

    clients : In(`ReadClient`) each, the engines, the first one first.
    regions : In(`hw.memory.axi.regions_layout`), stable during a run.
    halt : In(1), no burst leaves.
    watchdog : In(32), cycles in which memory may move nothing of what it owes, stable during a run; 0: any number.
    idle : Out(1), nothing is under way.
    error : Out(`hw.memory.axi.error_layout(clients)`), an error, for one cycle.
    gives_up : Out(1), memory has moved nothing for `watchdog` cycles, for one cycle, in which there is an error too.
    bursts : Out(1), one leaves for AR.
    beats : Out(1), one arrived.
    axi : Out(`ReadChannels`), AR and R, of so many parts.

    Timing: a burst taken from its client in cycle t may be chosen from t + 1 on; one chosen in cycle t stands on AR
    from t + 1 on, one burst per cycle; a beat on R in cycle u stands at its client in u + 1; of a beat in parts u is
    the cycle of the last, and an error of any of them is told with it. After an error none leaves until reset.
    `request.ready` of the clients, and all that goes to memory, are registers.
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
        super().__init__(port_members(clients, ReadClient(), ReadChannels(parts)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        beat = Signal(DATA_BITS, reset_less=True)
        whole, wrong, moves = axi.rvalid, axi.rresp[1], 0
        if self._parts > 1:
            whole, wrong, moves = *self._gather(m, beat, wrong), axi.rvalid
        answers = Answers(whole, axi.rvalid & axi.rlast, wrong, ErrorCode.READ)
        _, arrived = arbitrate(m, self, "ar", answers, moves, self._parts)
        if self._parts == 1:
            m.d.sync += beat.eq(axi.rdata)
        m.d.comb += [axi.rready.eq(1), self.beats.eq(whole)]
        for i, client in enumerate(self.clients):
            m.d.comb += [client.valid.eq(arrived[i]), client.data.eq(beat)]
        return m

    def _gather(self, m: Module, beat: Signal, wrong: Value) -> tuple[Signal, Signal]:
        """Shift parts into a beat, the first to its lowest bits; return whether it is whole, and wrong by any of them.

        wrong: the part that is there.
        """
        axi = self.axi
        part = Signal(range(self._parts))
        spoiled = Signal()
        whole = Signal()
        any_wrong = Signal()
        m.d.comb += [whole.eq(axi.rvalid & part.all()), any_wrong.eq(wrong | spoiled)]
        with m.If(axi.rvalid):
            m.d.sync += [
                part.eq(part + 1),
                spoiled.eq(any_wrong & ~part.all()),
                beat.eq(Cat(beat[len(axi.rdata) :], axi.rdata)),
            ]
        return whole, any_wrong
