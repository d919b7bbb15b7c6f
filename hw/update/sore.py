"""The pruning engine (SORE): lanes that turn groups of M elements into their N largest, in ascending index.

Every lane ranks the elements of a group as they arrive: an element is compared with all earlier ones of its group at
once; its rank starts with the number of those that beat it, and every one it beats gets one rank more. Whoever ends
with a rank below N stays. No element moves: values wait in a memory of two banks, and the kept ones are read in
ascending index while the next group is ranked. Timing and formats: docs/machine/update.md; which elements stay:
docs/arithmetic.md, "Pruning".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import MAX_GROUP
from nmsat.hw.parts.links import pair_layout
from nmsat.hw.parts.steps import leading_zeros, named
from nmsat.hw.parts.verilog import place

if TYPE_CHECKING:
    from collections.abc import Sequence

DROPPED: Final = MAX_GROUP
"""Scores from here on mean: not kept. A score is a rank plus 16 - N."""


def elements_layout(lanes: int, width: int) -> data.StructLayout:
    """One beat into the engine: `width` elements per lane, lane 0 first, in a lane the lower index first.

    value: binary16; present: an absent element is never kept; last: the group ends with this beat.
    """
    count = lanes * width
    return data.StructLayout({"value": data.ArrayLayout(16, count), "present": data.ArrayLayout(1, count), "last": 1})


def pairs_layout(lanes: int, width: int) -> data.StructLayout:
    """One beat out of the engine: `width` pairs per lane, lane 0 first.

    keep: for each lane the places of the group that stay, the same in all beats of a group; last: last beat of a group.
    """
    pairs = data.ArrayLayout(pair_layout(), lanes * width)
    return data.StructLayout({"pair": pairs, "keep": data.ArrayLayout(MAX_GROUP, lanes), "last": 1})


class SoreLane(wiring.Component):
    """Data path of one lane, driven by `Sore`.

    Parameters: width: elements per cycle, 1 or 2.
    Members; places of beats are one-hot, in beats of `width` elements, 0 without a beat:

    value : In(16 * width), elements of the arriving beat, binary16.
    present : In(width), whether they are there.
    advance : In(1), all beats before the hand-over move on.
    at1 : In(16 // width), place of the beat in the compare stage.
    last1 : In(1), it ends its group.
    at2 : In(16 // width), place of the beat in the rank stage.
    slot2 : In(range(16 // width)), the same as a number.
    bank2 : In(1), bank of the memory that this beat is written to.
    take2 : In(1), it is taken in this cycle.
    last2 : In(1), it ends its group.
    drop : In(4), 16 - N.
    load : In(1), the finished group is handed over.
    step : In(1), pairs move to the output register.
    bank : In(1), bank of the memory from which they come.
    pair : Out(21 * width), pairs (`pair_layout`), the lower index at bit 0; a register.
    keep : Out(16), places of the group that stay; a register.

    Timing: compare, rank, hand-over and output take a cycle each; when they move is `Sore`'s to say.
    Numerics: magnitudes are compared as integers, docs/arithmetic.md, "Pruning".
    """

    value: Signal
    present: Signal
    advance: Signal
    at1: Signal
    last1: Signal
    at2: Signal
    slot2: Signal
    bank2: Signal
    take2: Signal
    last2: Signal
    drop: Signal
    load: Signal
    step: Signal
    bank: Signal
    pair: Signal
    keep: Signal

    def __init__(self, width: int) -> None:
        self._width = width
        beats = MAX_GROUP // width
        inputs = {"value": 16 * width, "present": width, "advance": 1, "at1": beats, "last1": 1}
        inputs |= {"at2": beats, "slot2": range(beats), "bank2": 1, "take2": 1, "last2": 1, "drop": 4}
        inputs |= {"load": 1, "step": 1, "bank": 1}
        outputs = {"pair": pair_layout().size * width, "keep": MAX_GROUP}
        super().__init__(
            {name: In(shape) for name, shape in inputs.items()} | {name: Out(size) for name, size in outputs.items()}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = Signal(16 * self._width, reset_less=True)
        present = Signal(self._width, reset_less=True)
        value2 = Signal(16 * self._width, reset_less=True)
        present2 = Signal(self._width, reset_less=True)
        with m.If(self.advance):
            m.d.sync += [value.eq(self.value), present.eq(self.present), value2.eq(value), present2.eq(present)]
        wins = self._compare(m, value, present)
        keep = self._rank(m, wins, present2)
        self._leave(m, keep, value2)
        return m

    def _compare(self, m: Module, value: Signal, present: Signal) -> list[list[Signal]]:
        """Return, registered, whether new element e beats place j of its group: wins[e][j].

        Places of the same beat stand last in wins[e]. An absent element has key 0 and a present one a greater key; so
        has an empty place, because all keys are cleared at the end of a group.
        """
        width = self._width
        magnitude = [Cat(value[16 * e : 16 * e + 15], 1) for e in range(width)]
        new = [named(m, f"new_{e}", magnitude[e] & present[e].replicate(16)) for e in range(width)]
        key = [Signal(16, name=f"key_{j}") for j in range(MAX_GROUP - width)]
        with m.If(self.advance):
            for j in range(MAX_GROUP - width):
                with m.If(self.last1):
                    m.d.sync += key[j].eq(0)
                with m.Elif(self.at1[j // width]):
                    m.d.sync += key[j].eq(new[j % width])
        wins: list[list[Signal]] = []
        for e in range(width):
            row = [Signal(name=f"wins_{e}_{j}", reset_less=True) for j in range(MAX_GROUP - width + e)]
            with m.If(self.advance):
                m.d.sync += [win.eq(new[e] > old) for win, old in zip(row, [*key, *new[:e]], strict=True)]
            wins.append(row)
        return wins

    def _rank(self, m: Module, wins: list[list[Signal]], present: Signal) -> Value:
        """Keep the scores of the group; return which places stay if the beat in the rank stage is the last one."""
        width = self._width
        first = []
        for e in range(width):
            # every earlier place that the element does not beat comes before it: ties keep the lower index
            later = wins[e + 1][MAX_GROUP - width + e] if e + 1 < width else Const(0, 1)
            lost = named(m, f"lost_{e}", _count([~win for win in wins[e]]) + later)
            first.append(named(m, f"first_{e}", (self.drop + lost)[:5] | Cat(Const(0, 4), ~present[e])))
        keep = []
        for j in range(MAX_GROUP):
            score = Signal(5, name=f"score_{j}", init=DROPPED)
            beaten = sum((wins[e][j] for e in range(width) if j < MAX_GROUP - width), Const(0, 1))
            total = named(m, f"total_{j}", (score[:4] + beaten)[:5])
            # a dropped element stays dropped
            aged = Cat(total[:4], total[4] | score[4])
            following = named(m, f"following_{j}", Mux(self.at2[j // width], first[j % width], aged))
            with m.If(self.take2):
                m.d.sync += score.eq(Mux(self.last2, DROPPED, following))
            keep.append(~following[4])
        return Cat(keep)

    def _leave(self, m: Module, keep: Value, value: Signal) -> None:
        """Read the kept pairs in ascending index."""
        width = self._width
        keeping = Signal(MAX_GROUP, reset_less=True)
        left = Signal(MAX_GROUP, reset_less=True)
        rest: Value = left
        index, filler = [], []
        for e in range(width):
            index.append(leading_zeros(m, f"index_{e}", Cat(rest[j] for j in reversed(range(MAX_GROUP)))))
            filler.append(named(m, f"filler_{e}", ~rest.any()))
            rest = named(m, f"rest_{e}", rest & (rest - 1)[:MAX_GROUP])
        with m.If(self.step):
            m.d.sync += left.eq(rest)
        with m.If(self.load):
            m.d.sync += [left.eq(keep), keeping.eq(keep)]
        read = self._memory(m, value, index)
        pair = Signal(pair_layout().size * width, reset_less=True)
        keep_out = Signal(MAX_GROUP, reset_less=True)
        with m.If(self.step):
            packed = [Cat(Mux(f, 0, v), Mux(f, 0, i), f) for v, i, f in zip(read, index, filler, strict=True)]
            m.d.sync += [pair.eq(Cat(packed)), keep_out.eq(keeping)]
        m.d.comb += [self.pair.eq(pair), self.keep.eq(keep_out)]

    def _memory(self, m: Module, value: Signal, index: Sequence[Signal]) -> list[Value]:
        """Write the beat of the rank stage; return the values of the group that leaves at the given places."""
        width = self._width
        shift = width.bit_length() - 1
        reads: list[list[Value]] = []
        for e in range(width):
            memory = Memory(shape=16, depth=2 * MAX_GROUP // width, init=[], attrs={"ram_style": "distributed"})
            m.submodules[f"memory_{e}"] = memory
            write = memory.write_port()
            m.d.comb += [
                write.en.eq(self.take2),
                write.addr.eq(Cat(self.slot2, self.bank2)),
                write.data.eq(value[16 * e : 16 * e + 16]),
            ]
            ports = [memory.read_port(domain="comb") for _ in index]
            m.d.comb += [port.addr.eq(Cat(i[shift:], self.bank)) for port, i in zip(ports, index, strict=True)]
            reads.append([Value.cast(port.data) for port in ports])
        if width == 1:
            return reads[0]
        return [named(m, f"read_{e}", Mux(index[e][0], reads[1][e], reads[0][e])) for e in range(width)]


class Sore(wiring.Component):
    """Lanes that prune in step: all lanes take a beat, and end a group, in the same cycle.

    Parameters: lanes: 1 or more; width: elements per lane and cycle, 1 or 2.
    Members; the pattern may change while `idle`:

    n_less_1 : In(4), N of the pattern, less 1.
    log2_m_less_1 : In(2), log2 of M of the pattern, less 1.
    i : In(stream of `elements_layout(lanes, width)`), elements.
    o : Out(stream of `pairs_layout(lanes, width)`), kept pairs.
    idle : Out(1), no beat and no part of a group is inside.

    A group has M elements per lane, fewer if `last` ends it early. It leaves as ceil(N / width) beats: the kept pairs
    in ascending index, then fillers (value 0, index 0). A group without a present element in any lane leaves nothing.
    Timing: first pair 4 cycles after the last beat of its group; a group takes M / width cycles, back to back.
    `i.ready` falls only while a finished group waits for the previous one to leave.
    Numerics: docs/arithmetic.md, "Pruning"; values pass unchanged.
    """

    n_less_1: Signal
    log2_m_less_1: Signal
    i: Any
    o: Any
    idle: Signal

    def __init__(self, lanes: int, width: int = 1) -> None:
        if lanes < 1:
            raise ValueError(f"lanes is {lanes!r}; it must be at least 1")
        if width not in (1, 2):
            raise ValueError(f"width is {width!r}; it must be 1 or 2 elements per lane and cycle")
        self.lanes = lanes
        self.width = width
        super().__init__(
            {
                "n_less_1": In(4),
                "log2_m_less_1": In(2),
                "i": In(stream.Signature(elements_layout(lanes, width))),
                "o": Out(stream.Signature(pairs_layout(lanes, width))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = [SoreLane(self.width) for _ in range(self.lanes)]
        for number, lane in enumerate(lanes):
            m.submodules[f"lane_{number}"] = place(lane, f"sat_sore_lane_{self.width}", platform, parameters=self.width)
        shared = {name: Signal.like(getattr(lanes[0], name), name=name) for name in self._SHARED}
        for number, lane in enumerate(lanes):
            first, stop = number * self.width, (number + 1) * self.width
            m.d.comb += [getattr(lane, name).eq(signal) for name, signal in shared.items()]
            m.d.comb += [
                lane.value.eq(Cat(self.i.payload.value[k] for k in range(first, stop))),
                lane.present.eq(Cat(self.i.payload.present[k] for k in range(first, stop))),
                Cat(self.o.payload.pair[k].as_value() for k in range(first, stop)).eq(lane.pair),
                self.o.payload.keep[number].eq(lane.keep),
            ]
        self._control(m, **shared)
        return m

    _SHARED = ("advance", "at1", "last1", "at2", "slot2", "bank2", "take2", "last2", "drop", "load", "step", "bank")

    def _control(self, m: Module, **lane: Signal) -> None:
        free, ended, seen, valid1, valid2 = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            lane["advance"].eq(free | ~ended),
            lane["take2"].eq(valid2 & lane["advance"]),
            lane["load"].eq(free & ended),
            lane["drop"].eq(~self.n_less_1),
            self.i.ready.eq(lane["advance"]),
            ended.eq(valid2 & lane["last2"] & seen),
        ]
        filling = self._arrive(m, lane, valid1, valid2, seen)
        leaving = self._depart(m, lane, free)
        m.d.comb += self.idle.eq(~(filling | valid1 | valid2 | leaving))

    def _arrive(self, m: Module, lane: dict[str, Signal], valid1: Signal, valid2: Signal, seen: Signal) -> Value:
        """Number the beats of a group and follow them through compare and rank stage."""
        beats = MAX_GROUP // self.width
        at = Signal(range(beats))
        slot1 = Signal(range(beats))
        some1 = Signal()
        limit = named(m, "limit", (Const(0xF, 4) >> ~self.log2_m_less_1)[(self.width.bit_length() - 1) :])
        ends = named(m, "ends", self.i.payload.last | (at == limit))
        with m.If(lane["advance"]):
            m.d.sync += [
                valid1.eq(self.i.valid),
                lane["at1"].eq(self.i.valid << at),
                slot1.eq(at),
                lane["last1"].eq(self.i.valid & ends),
                some1.eq(Value.cast(self.i.payload.present).any()),
                valid2.eq(valid1),
                lane["at2"].eq(lane["at1"]),
                lane["slot2"].eq(slot1),
                lane["last2"].eq(lane["last1"]),
            ]
            with m.If(self.i.valid):
                m.d.sync += at.eq(Mux(ends, 0, at + 1))
            with m.If(valid1):
                m.d.sync += seen.eq(some1 | (seen & ~lane["at1"][0]))
        with m.If(lane["load"]):
            m.d.sync += [lane["bank2"].eq(~lane["bank2"]), lane["bank"].eq(lane["bank2"])]
        return at.any()

    def _depart(self, m: Module, lane: dict[str, Signal], free: Signal) -> Value:
        """Count the beats of the group that leaves, and hold the output register."""
        active, valid, last = Signal(), Signal(), Signal()
        slot = Signal(4)
        final = named(m, "final", slot == self.n_less_1[(self.width.bit_length() - 1) :])
        m.d.comb += [
            lane["step"].eq(active & (~valid | self.o.ready)),
            free.eq(~active | (lane["step"] & final)),
            self.o.valid.eq(valid),
            self.o.payload.last.eq(last),
        ]
        with m.If(lane["step"]):
            m.d.sync += [valid.eq(1), last.eq(final), slot.eq(slot + 1), active.eq(~final)]
        with m.Elif(self.o.ready):
            m.d.sync += valid.eq(0)
        with m.If(lane["load"]):
            m.d.sync += [active.eq(1), slot.eq(0)]
        return active | valid


def _count(bits: Sequence[Value]) -> Value:
    """Return how many bits are set, as a balanced tree of sums."""
    level: list[Value] = list(bits)
    while len(level) > 1:
        level = [level[i] + level[i + 1] if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
    return level[0]
