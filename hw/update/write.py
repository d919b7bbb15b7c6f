"""Write streams of the update engine: mask, W_bp, W_ff, momenta, weights, each through a queue of its own.

A burst is asked for when the queue holds all of it; the streams with the fewest beats come first.
"""

from __future__ import annotations

from typing import Any, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, LANES, OFFSET_BITS
from nmsat.dataflow.contract.limits import UPDATE_BEATS, UPDATE_BURST, UPDATE_WAITING, UPDATE_WRITES
from nmsat.dataflow.contract.links import PAIR_BITS
from nmsat.hw.parts.clients import WriteClient
from nmsat.hw.parts.links import pair_layout
from nmsat.hw.parts.steps import named
from nmsat.hw.update.sore import pairs_layout
from nmsat.hw.update.wuve import updated_layout

_BURSTS: Final = 32
"""Most bursts whose beats wait: 5 of each stream, as they lie between multiples of `UPDATE_BURST`, the last apart."""

_PAIR: Final = pair_layout().size
_WIDTHS: Final = {
    "mask": 16 * LANES,
    "bp": _PAIR * LANES,
    "ff": _PAIR * LANES,
    "momenta": 8 * BEAT_BYTES,
    "weights": 8 * BEAT_BYTES,
}


def targets_layout() -> data.StructLayout:
    """Region and offset of each stream."""
    return data.StructLayout({"region": 2, **dict.fromkeys((f"{name}_at" for name in UPDATE_WRITES), OFFSET_BITS)})


class UpdateWrite(wiring.Component):
    """Write what leaves pre-generation.

    Members:

    start : In(1), a pass begins.
    settings : In(`targets_layout`), where its results go; held still from `start` on.
    state : In(stream of `updated_layout(LANES)`), new weights and momenta.
    ff : In(stream of `pairs_layout(LANES, 1)`), W_ff, and the mask it keeps.
    bp : In(stream of `pairs_layout(LANES, 1)`), W_bp.
    flush : In(1), nothing more comes: all that is left goes out.
    empty : Out(1), nothing is held, everything is acknowledged.
    write : Out(`WriteClient`), memory.

    Timing: a request stands at the earliest in the 2nd cycle after the last beat of its burst came, one per cycle.
    """

    start: Signal
    settings: Any
    state: Any
    ff: Any
    bp: Any
    flush: Signal
    empty: Signal
    write: Any

    def __init__(self) -> None:
        pairs = pairs_layout(LANES, 1)
        super().__init__(
            {
                "start": In(1),
                "settings": In(targets_layout()),
                "state": In(stream.Signature(updated_layout(LANES))),
                "ff": In(stream.Signature(pairs)),
                "bp": In(stream.Signature(pairs)),
                "flush": In(1),
                "empty": Out(1),
                "write": Out(WriteClient()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queues = {name: SyncFIFO(width=_WIDTHS[name], depth=UPDATE_BEATS) for name in UPDATE_WRITES}
        for name, queue in queues.items():
            m.submodules[name] = queue
        self._take(m, queues)
        order = self._ask(m, queues)
        self._send(m, queues, order)
        return m

    def _take(self, m: Module, queues: dict[str, SyncFIFO]) -> None:
        """Put beats into the queues; what belongs to absent lanes becomes +0."""
        state, ff, bp = self.state, self.ff, self.bp
        m.d.comb += [
            state.ready.eq(queues["weights"].w_rdy & queues["momenta"].w_rdy),
            ff.ready.eq(queues["ff"].w_rdy & queues["mask"].w_rdy),
            bp.ready.eq(queues["bp"].w_rdy),
        ]
        present = state.payload.present
        values = {
            "weights": Cat(Mux(present[lane], state.payload.w[lane], 0) for lane in range(LANES)),
            "momenta": Cat(Mux(present[lane], state.payload.v[lane], 0) for lane in range(LANES)),
            "ff": Value.cast(ff.payload.pair),
            "mask": Value.cast(ff.payload.keep),
            "bp": Value.cast(bp.payload.pair),
        }
        moves = {"weights": state, "momenta": state, "ff": ff, "mask": ff, "bp": bp}
        for name, queue in queues.items():
            moved = moves[name].valid & moves[name].ready
            last = ff.payload.last if name == "mask" else Const(1)
            m.d.comb += [queue.w_data.eq(values[name]), queue.w_en.eq(moved & last)]

    def _ask(self, m: Module, queues: dict[str, SyncFIFO]) -> SyncFIFO:
        """Choose bursts and put them on the port; return the queue of those whose beats wait (`_burst_layout`)."""
        m.submodules.order = order = SyncFIFO(width=_burst_layout().size, depth=_BURSTS)
        request = self.write.request
        waiting = Signal(range(UPDATE_WAITING + 1))
        free = named(m, "free", (~request.valid | request.ready) & (waiting != UPDATE_WAITING))
        burst = data.View(_burst_layout(), Signal(_burst_layout().size, name="burst"))
        at = Signal(OFFSET_BITS)
        earlier: Value = Const(0)
        held: Value = Const(0)
        for number, name in enumerate(UPDATE_WRITES):
            offset, unasked = (
                Signal(OFFSET_BITS, name=f"{name}_at"),
                Signal(range(UPDATE_BEATS + 1), name=f"{name}_unasked"),
            )
            chunk = named(m, f"{name}_chunk", (Const(UPDATE_BURST, 4) - offset[:3])[:4])
            whole = named(m, f"{name}_whole", unasked >= chunk)
            size = named(m, f"{name}_size", Mux(whole, chunk, unasked[:4]))
            can = named(m, f"{name}_can", whole | (self.flush & unasked.any()))
            chosen = named(m, f"{name}_chosen", can & ~earlier)
            asked = named(m, f"{name}_asked", Mux(free & chosen, size, 0))
            m.d.sync += unasked.eq(unasked - asked + queues[name].w_en)
            with m.If(self.start):
                m.d.sync += offset.eq(self.settings[f"{name}_at"])
            with m.Else():
                m.d.sync += offset.eq(offset + asked)
            with m.If(chosen):
                m.d.comb += [at.eq(offset), burst.stream.eq(number), burst.beats_less_1.eq(size - 1)]
            earlier, held = earlier | can, held | unasked.any()
        asks = named(m, "asks", free & earlier)
        m.d.comb += [
            order.w_en.eq(asks),
            order.w_data.eq(burst.as_value()),
            request.payload.region.eq(self.settings.region),
            self.empty.eq(~(held | waiting.any())),
        ]
        m.d.sync += waiting.eq(waiting + asks - self.write.acknowledged)
        with m.If(asks):
            m.d.sync += [request.payload.offset.eq(at), request.payload.beats_less_1.eq(burst.beats_less_1)]
        m.d.sync += request.valid.eq(asks | (request.valid & ~request.ready))
        return order

    def _send(self, m: Module, queues: dict[str, SyncFIFO], order: SyncFIFO) -> None:
        """Show the next beat of the oldest burst."""
        burst = data.View(_burst_layout(), order.r_data)
        beat = Signal(range(UPDATE_BURST))
        final = named(m, "final", beat == burst.beats_less_1)
        m.d.comb += [order.r_en.eq(self.write.pull & final), self.write.strobe.eq(Const(-1, BEAT_BYTES))]
        with m.If(self.write.pull):
            m.d.sync += beat.eq(Mux(final, 0, beat + 1))
        for number, (name, queue) in enumerate(queues.items()):
            with m.If(burst.stream == number):
                m.d.comb += [queue.r_en.eq(self.write.pull), self.write.data.eq(_spread(name, queue.r_data))]


def _spread(name: str, value: Value) -> Value:
    """Return a beat of a stream as it lies in memory; each pair fills a slot of `PAIR_BITS`."""
    if name not in ("ff", "bp"):
        return value
    slots = [Cat(value[lane * _PAIR : (lane + 1) * _PAIR], Const(0, PAIR_BITS - _PAIR)) for lane in range(LANES)]
    return Cat(slots)


def _burst_layout() -> data.StructLayout:
    return data.StructLayout({"stream": 3, "beats_less_1": 3})
