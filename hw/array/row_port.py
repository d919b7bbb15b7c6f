"""The left edge of one row: its activation buffer and the control of its elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.limits import DRAIN_DELAY, NO_STEP
from nmsat.hw.array.load_link import entering
from nmsat.hw.fp.widen import WidenActivation
from nmsat.hw.parts.buffer import buffer_memory
from nmsat.hw.parts.links import activation_layout, control_layout, token_layout

if TYPE_CHECKING:
    from amaranth.lib.memory import Memory

    from nmsat.dataflow.contract.config import SatConfig


class RowPort(wiring.Component):
    """Feed one row: play windows as they arrive, hand them on to the row below.

    Members:

    load_en : In(1), a word is written to the activation buffer.
    load_addr : In(range(act_depth)), where.
    load_data : In(16 * act_lanes), the word, binary16 each, lane 0 at bit 0.
    token_i : In(`token_layout`), window from the row above or the head.
    token_o : Out(`token_layout`), the same for the row below.
    drain_i : In(1), OS: it is this row's turn to drain.
    drain_o : Out(1), OS: it is the turn of the row below.
    ended : Out(1), a tile has ended in this row; row 0 drains on it.
    act : Out(17 * act_lanes), row link: widened activations (`activation_layout`), lane 0 at bit 0.
    ctl : Out(`control_layout(config)`), row link: control of the elements.

    Timing: a word is in its buffer two cycles after it stands at the port. Step t of a window whose token is valid at
    cycle k stands on the row link at k + 3 + t. `token_o` follows `token_i` by 1 cycle (OS) or 8 N + 1
    cycles (WS); `drain_o` follows the row's first drain cycle by 8.
    Numerics: activations are widened exactly (`hw.fp.widen`).
    """

    load_en: Signal
    load_addr: Signal
    load_data: Signal
    token_i: data.View[data.StructLayout]
    token_o: data.View[data.StructLayout]
    drain_i: Signal
    drain_o: Signal
    ended: Signal
    act: Signal
    ctl: data.View[data.StructLayout]

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        self._lanes = config.act_lanes
        self._depth = config.act_depth
        self._control = control_layout(config)
        super().__init__(
            {
                "load_en": In(1),
                "load_addr": In(range(config.act_depth)),
                "load_data": In(16 * config.act_lanes),
                "token_i": In(token_layout()),
                "token_o": Out(token_layout()),
                "drain_i": In(1),
                "drain_o": Out(1),
                "ended": Out(1),
                "act": Out(activation_layout().size * config.act_lanes),
                "ctl": Out(self._control),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        token = Signal(token_layout())
        step = Signal(NO_STEP.bit_length(), init=NO_STEP)
        bank = Signal()
        weight_bank = Signal()
        toggle = Signal()
        m.d.sync += toggle.eq(~toggle)
        with m.If(self.token_i.valid):
            m.d.sync += [token.eq(self.token_i), step.eq(0), bank.eq(~bank)]
            with m.If(self.token_i.wflip):
                m.d.sync += weight_bank.eq(~weight_bank)
        with m.Elif(step != NO_STEP):
            m.d.sync += step.eq(step + 1)

        computing = Signal()
        control = Signal(self._control)
        m.d.comb += computing.eq(token.compute & (step[3:] <= token.n_less_1))
        self._step_control(m, token, step, computing, control)
        m.d.comb += [
            control.arb.eq(bank),
            control.wrb.eq(Mux(token.ws, weight_bank, toggle)),
        ]
        self._fetch(m, buffer_memory("activations", self._config, platform), token, step, control)
        self._drain(m, token, step, computing, control)
        self._hand_on(m, token, step)
        early = Signal(self._control)
        m.d.sync += [early.eq(control), self.ctl.eq(early)]
        return m

    def _step_control(self, m: Module, token, step: Signal, computing: Signal, control) -> None:
        """Form the control of a multiply-add from the step number."""
        row = Signal(3)  # i, the row of the interleave rectangle
        in_group = Signal(7)
        m.d.comb += [
            row.eq(step[:3] & ((1 << token.log2_a) - 1)),
            in_group.eq((row << 1) << token.log2_m_less_1),
            control.t4.eq(step[:4]),
            control.v.eq(computing),
            control.first.eq((step < 8) & (token.ws | token.first)),
            control.last.eq((step[3:] == token.n_less_1) & (token.ws | token.last)),
            control.ibits.eq(in_group),
            control.ws.eq(token.ws),
            control.wwe.eq(~token.ws | (token.wload & (step[3:] <= token.n_less_1))),
            control.wra.eq(Mux(token.ws, step >> token.log2_a, 0)),
        ]

    def _fetch(self, m: Module, memory: Memory, token, step: Signal, control) -> None:
        """Read the next window's activations, one beat per cycle, and widen them."""
        address = Signal(range(self._depth))
        beats = Signal(8)
        m.d.comb += [
            beats.eq(((2 << token.log2_m_less_1) << token.log2_a) >> (self._lanes - 1)),
            control.awe.eq(token.fetch & (step < beats)),
        ]
        with m.If(self.token_i.valid & self.token_i.rebase):
            m.d.sync += address.eq(self.token_i.base)
        with m.Elif(control.awe):
            m.d.sync += address.eq(address + 1)
        m.submodules.buffer = memory
        write, read = memory.write_port(), memory.read_port()
        enable, place, word = entering(m, self.load_en, self.load_addr, self.load_data)
        m.d.comb += [
            write.en.eq(enable),
            write.addr.eq(place),
            write.data.eq(word),
            read.addr.eq(address),
        ]
        wide = []
        for lane in range(self._lanes):
            widen = m.submodules[f"widen{lane}"] = WidenActivation()
            m.d.comb += widen.half.eq(read.data.word_select(lane, 16))
            wide.append(widen.wide.as_value())
        m.d.sync += self.act.eq(Cat(*wide))

    def _drain(self, m: Module, token, step: Signal, computing: Signal, control) -> None:
        """Read the eight results of each element out: after every window (WS) or when it is the row's turn (OS)."""
        ended = Signal()
        history = Signal(DRAIN_DELAY - 1)
        start, running, count = Signal(), Signal(), Signal(3)
        m.d.comb += [
            ended.eq(computing & control.last & (step[:3] == 0)),
            self.ended.eq(history[-1]),
            start.eq(Mux(token.ws, self.ended, self.drain_i)),
            control.dre.eq(running),
            control.dra.eq(count),
        ]
        m.d.sync += [
            history.eq(Cat(ended, history)),
            count.eq(count + 1),
            self.drain_o.eq(running & (count == 7)),
        ]
        with m.If(start):
            m.d.sync += [running.eq(1), count.eq(0)]
        with m.Elif(count == 7):
            m.d.sync += running.eq(0)

    def _hand_on(self, m: Module, token, step: Signal) -> None:
        """Pass the window to the row below: at once (OS), or when its sums will be there (WS)."""
        finished = Signal()
        m.d.comb += finished.eq((step[3:] == token.n_less_1) & (step[:3] == 7))
        with m.If(self.token_i.valid & ~self.token_i.ws):
            m.d.sync += self.token_o.eq(self.token_i)
        with m.Else():
            m.d.sync += [self.token_o.eq(token), self.token_o.valid.eq(token.ws & finished)]
