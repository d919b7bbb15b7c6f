"""Read streams of the update engine: weights, momenta, gradient, mask, each through a queue of its own.

The stream that is furthest behind asks next, so that rows become complete early; masks, which are few, come first.
"""

from __future__ import annotations

from typing import Any, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, LANES, OFFSET_BITS
from nmsat.dataflow.contract.limits import UPDATE_BEATS, UPDATE_BURST, UPDATE_READS
from nmsat.hw.parts.clients import ReadClient
from nmsat.hw.parts.steps import named

_BURSTS: Final = 64
"""Most bursts under way: 32 single beats of gradient, 5 bursts of each other stream at most."""

BEATS_BITS: Final = 28
"""Bits of the number of rows of all blocks."""

_BEAT: Final = 8 * BEAT_BYTES
_WIDTHS: Final = {"weights": _BEAT, "momenta": _BEAT, "gradient": 16 * LANES, "mask": 16 * LANES}


def read_layout() -> data.StructLayout:
    """One row of a block: weights and momenta as binary32, gradient as binary16, mask of its group (16 per lane)."""
    return data.StructLayout(_WIDTHS)


def pass_layout() -> data.StructLayout:
    """What a pass reads: offsets, rows k, blocks of columns, rows and groups of all blocks, step of the gradient."""
    offsets = dict.fromkeys(("weights_at", "momenta_at", "gradient_at", "mask_at"), OFFSET_BITS)
    sizes = {"k": 16, "blocks": 13, "rows": BEATS_BITS, "groups": BEATS_BITS}
    return data.StructLayout({"region": 2, **offsets, **sizes, "g_step": 10, "use_mask": 1})


class UpdateRead(wiring.Component):
    """Ask for what a pass reads and put it together row by row.

    Members:

    start : In(1), a pass begins; the queues are empty.
    settings : In(`pass_layout`), what it reads; held still from `start` on.
    o : Out(stream of `read_layout`), rows.
    next_mask : In(1), the row taken in this cycle is the last of its group.
    read : Out(`ReadClient`), memory.

    Timing: a request stands from the 3rd cycle after `start` on, one in two cycles: in the first its stream is chosen,
    in the second it goes on. A beat is on `o` a cycle after it came.
    """

    start: Signal
    settings: Any
    o: Any
    next_mask: Signal
    read: Any

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "settings": In(pass_layout()),
                "o": Out(stream.Signature(read_layout())),
                "next_mask": In(1),
                "read": Out(ReadClient()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queues = {name: SyncFIFO(width=_WIDTHS[name], depth=UPDATE_BEATS) for name in UPDATE_READS}
        for name, queue in queues.items():
            m.submodules[name] = queue
            m.d.comb += self.o.payload[name].eq(queue.r_data)
        there = [queues[name].r_rdy for name in UPDATE_READS[:3]]
        masked = queues["mask"].r_rdy | ~self.settings.use_mask
        m.d.comb += self.o.valid.eq(Value.cast(there[0]) & there[1] & there[2] & masked)
        taken = named(m, "taken", self.o.valid & self.o.ready)
        for name, queue in queues.items():
            m.d.comb += queue.r_en.eq(taken & self.next_mask if name == "mask" else taken)
        self._arrive(m, queues, self._ask(m, {name: queue.r_en for name, queue in queues.items()}))
        return m

    def _ask(self, m: Module, popped: dict[str, Signal]) -> SyncFIFO:
        """Choose bursts and put them on the port; return the queue of what is under way (`_burst_layout`)."""
        m.submodules.order = order = SyncFIFO(width=_burst_layout().size, depth=_BURSTS)
        taken = {name: Signal(name=f"{name}_taken") for name in UPDATE_READS}
        half = Signal()
        places = {
            name: self._linear(m, name, taken[name]) if name != "gradient" else self._gradient(m, taken[name], half)
            for name in UPDATE_READS
        }
        room = {name: Signal(range(UPDATE_BEATS + 1), name=f"{name}_room", init=UPDATE_BEATS) for name in UPDATE_READS}
        can = {}
        for name, (_, size, some) in places.items():
            # half of the queue is enough for masks; so they do not delay the first row
            enough = room[name] >= (UPDATE_BEATS // 2 if name == "mask" else size)
            can[name] = named(m, f"{name}_can", some & enough)
            promised = named(m, f"{name}_promised", Mux(taken[name], size, 0))
            m.d.sync += room[name].eq(room[name] - promised + popped[name])
        found = self._choose(m, can, room)
        free = named(m, "free", ~self.read.request.valid | self.read.request.ready)
        chosen = {name: Signal(name=f"{name}_chosen") for name in UPDATE_READS}
        some = named(m, "some_chosen", Cat(chosen.values()).any())
        for name, one in chosen.items():
            m.d.sync += one.eq(Mux(some, one & ~free, found[name]))
        asks = named(m, "asks", free & some)
        m.d.comb += [taken[name].eq(free & chosen[name]) for name in UPDATE_READS]
        burst = data.View(_burst_layout(), Signal(_burst_layout().size, name="burst"))
        at = Signal(OFFSET_BITS)
        for number, name in enumerate(UPDATE_READS):
            with m.If(chosen[name]):
                m.d.comb += [
                    at.eq(places[name][0]),
                    burst.stream.eq(number),
                    burst.beats_less_1.eq(places[name][1] - 1),
                ]
        m.d.comb += [burst.half.eq(half), order.w_en.eq(asks), order.w_data.eq(burst.as_value())]
        request = self.read.request
        m.d.comb += request.payload.region.eq(self.settings.region)
        with m.If(free):
            m.d.sync += [
                request.valid.eq(asks),
                request.payload.offset.eq(at),
                request.payload.beats_less_1.eq(burst.beats_less_1),
            ]
        return order

    def _choose(self, m: Module, can: dict[str, Signal], room: dict[str, Signal]) -> dict[str, Signal]:
        """Return for each stream whether it asks next: masks first, else who has the most room."""
        first = can["mask"]
        pick = {"mask": first}
        for i, name in enumerate(order := ("gradient", "weights", "momenta")):
            behind = [~can[other] | (room[name] > room[other]) for other in order[:i]]
            before = [~can[other] | (room[name] >= room[other]) for other in order[i + 1 :]]
            pick[name] = named(m, f"pick_{name}", Cat(~first, can[name], *behind, *before).all())
        return pick

    def _linear(self, m: Module, name: str, taken: Signal) -> tuple[Signal, Signal, Value]:
        """Walk a stream whose beats lie one behind the other; return offset and size of its next burst, and if any."""
        at, left = Signal(OFFSET_BITS, name=f"{name}_at"), Signal(BEATS_BITS, name=f"{name}_left")
        size = burst_size(m, name, at, left)
        with m.If(self.start):
            beats = Mux(self.settings.use_mask, self.settings.groups, 0) if name == "mask" else self.settings.rows
            m.d.sync += [at.eq(self.settings[f"{name}_at"]), left.eq(beats)]
        with m.Elif(taken):
            m.d.sync += [at.eq(at + size), left.eq(left - size)]
        return at, size, left.any()

    def _gradient(self, m: Module, taken: Signal, half: Signal) -> tuple[Signal, Signal, Value]:
        """Walk the gradient, block by block and row by row, `half` being the half of its beats that counts."""
        at, base = Signal(OFFSET_BITS, name="gradient_at"), Signal(OFFSET_BITS)
        rows, blocks = Signal(16), Signal(13)
        linear = named(m, "linear", self.settings.g_step == 1)
        run = burst_size(m, "gradient_run", at, rows)
        size = named(m, "gradient_size", Mux(linear, run, 1))
        following = named(m, "following", (base + half)[:OFFSET_BITS])
        with m.If(self.start):
            first = self.settings.gradient_at
            m.d.sync += [at.eq(first), base.eq(first), half.eq(0)]
            m.d.sync += [rows.eq(self.settings.k), blocks.eq(self.settings.blocks)]
        with m.Elif(taken):
            m.d.sync += [rows.eq(rows - size), at.eq(at + Mux(linear, size, self.settings.g_step))]
            with m.If(rows == size):
                m.d.sync += [rows.eq(self.settings.k), blocks.eq(blocks - 1), half.eq(~half)]
                m.d.sync += [at.eq(following), base.eq(following)]
        return at, size, blocks.any()

    def _arrive(self, m: Module, queues: dict[str, SyncFIFO], order: SyncFIFO) -> None:
        """Hand each beat to the queue of the stream that asked for it."""
        burst = data.View(_burst_layout(), order.r_data)
        beat = Signal(range(UPDATE_BURST))
        final = named(m, "final", beat == burst.beats_less_1)
        m.d.comb += order.r_en.eq(self.read.valid & final)
        with m.If(self.read.valid):
            m.d.sync += beat.eq(Mux(final, 0, beat + 1))
        upper, lower = self.read.data[_BEAT // 2 :], self.read.data[: _BEAT // 2]
        for number, (name, queue) in enumerate(queues.items()):
            m.d.comb += queue.w_en.eq(self.read.valid & (burst.stream == number))
            value = Mux(burst.half, upper, lower) if name == "gradient" else self.read.data
            m.d.comb += queue.w_data.eq(value[: _WIDTHS[name]])


def burst_size(m: Module, name: str, at: Signal, left: Signal) -> Signal:
    """Return the beats of the next burst: up to the next multiple of `UPDATE_BURST`, or what is left."""
    chunk = named(m, f"{name}_chunk", (Const(UPDATE_BURST, 4) - at[:3])[:4])
    return named(m, f"{name}_size", Mux(left < chunk, left[:4], chunk))


def _burst_layout() -> data.StructLayout:
    return data.StructLayout({"stream": 2, "beats_less_1": 3, "half": 1})
