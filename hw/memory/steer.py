"""Between a client of memory and several AXI4 masters: a burst leaves by the one behind which its region lies.

Answers reach a client in the order of its bursts, so a burst behind another master waits until nothing is under way.
A machine with one master has none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import REGIONS
from nmsat.dataflow.contract.limits import MAX_BURST, PORT_PLACES
from nmsat.hw.parts.clients import ReadClient, WriteClient

if TYPE_CHECKING:
    from collections.abc import Sequence

WAITING: Final = UNDER_WAY + PORT_PLACES
"""Bursts of a client that a master has taken and memory has not answered."""


def ports_layout(masters: int) -> data.ArrayLayout:
    """The master behind which each region lies."""
    return data.ArrayLayout((masters - 1).bit_length(), REGIONS)


class ReadSteer(wiring.Component):
    """Let a client read by several masters.

    Parameters: masters: how many, 2 or 4.
    Members:

    client : In(`ReadClient`), the engine.
    ports : In(`ports_layout(masters)`), stable during a run.
    masters : Out(`ReadClient`) each, its client at each master.

    Timing: no cycle passes between client and master; after the last beat in cycle t another master may be asked in
    t + 1.
    """

    client: Any
    ports: Any
    masters: Sequence[Any]

    def __init__(self, masters: int) -> None:
        self._masters = masters
        super().__init__(
            {
                "client": In(ReadClient()),
                "ports": In(ports_layout(masters)),
                "masters": Out(ReadClient()).array(masters),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        most = (WAITING + 1) * MAX_BURST  # the last beats of a burst pass when the next one may leave already
        arrives = Cat(one.valid for one in self.masters).any()
        at = _steer(m, self, most, self.client.request.payload.beats_less_1 + 1, arrives)
        beats = [one.data for one in self.masters]
        while len(beats) > 1:
            bit = (self._masters // len(beats)).bit_length() - 1
            beats = [Mux(at[bit], odd, even) for even, odd in zip(beats[::2], beats[1::2], strict=True)]
        m.d.comb += [self.client.valid.eq(arrives), self.client.data.eq(beats[0])]
        return m


class WriteSteer(wiring.Component):
    """Let a client write by several masters.

    Parameters: masters: how many, 2 or 4.
    Members:

    client : In(`WriteClient`), the engine.
    ports : In(`ports_layout(masters)`), stable during a run.
    masters : Out(`WriteClient`) each, its client at each master.

    Timing: no cycle passes between client and master; after the last acknowledgement in cycle t another master may be
    asked in t + 1.
    """

    client: Any
    ports: Any
    masters: Sequence[Any]

    def __init__(self, masters: int) -> None:
        super().__init__(
            {
                "client": In(WriteClient()),
                "ports": In(ports_layout(masters)),
                "masters": Out(WriteClient()).array(masters),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        acknowledged = Cat(one.acknowledged for one in self.masters).any()
        _steer(m, self, WAITING + 1, 1, acknowledged)
        for one in self.masters:
            m.d.comb += [one.data.eq(self.client.data), one.strobe.eq(self.client.strobe)]
        m.d.comb += [
            self.client.pull.eq(Cat(one.pull for one in self.masters).any()),
            self.client.acknowledged.eq(acknowledged),
        ]
        return m


def _steer(m: Module, steer: Any, most: int, answers: Value | int, answered: Value) -> Signal:
    """Hand requests to the masters; return the one at which the client is.

    most: answers that can be under way; answers: of the burst asked for; answered: one of them is there.
    """
    request = steer.client.request
    wanted = Signal((len(steer.masters) - 1).bit_length())
    at, left = Signal.like(wanted), Signal(range(most + 1))
    with m.Switch(request.payload.region):
        for i in range(REGIONS):
            with m.Case(i):
                m.d.comb += wanted.eq(steer.ports[i])
    free = Signal()
    m.d.comb += free.eq((left == 0) | (at == wanted))
    for port, one in enumerate(steer.masters):
        m.d.comb += [
            one.request.valid.eq(request.valid & free & (wanted == port)),
            one.request.payload.eq(request.payload),
        ]
    leaves = Cat(one.request.valid & one.request.ready for one in steer.masters).any()
    m.d.comb += request.ready.eq(leaves)
    m.d.sync += left.eq(left + Mux(leaves, answers, 0) - answered)
    with m.If(leaves):
        m.d.sync += at.eq(wanted)
    return at
