"""The head of the array: turns commands into windows for row 0, weight reads and seeds for column 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import INTERLEAVE, MAX_GROUP
from nmsat.dataflow.contract.isa import COMMAND
from nmsat.dataflow.contract.limits import SEED_DELAY
from nmsat.dataflow.contract.registers import Wait
from nmsat.dataflow.contract.timing import (
    drain_cycles,
    flush_cycles_os,
    flush_cycles_ws,
    load_cycles,
    row_hand_on,
    seed_cycles,
)
from nmsat.hw.parts.links import seed_layout, token_layout, weight_control_layout

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


def command_layout() -> data.StructLayout:
    """The command as a structure."""
    return data.StructLayout(COMMAND.widths())


class Head(wiring.Component):
    """Sequence commands.

    Members:

    commands : In(stream of `command_layout`), commands (`dataflow.contract.isa.COMMAND`).
    token : Out(`token_layout`), window for row 0.
    weight : Out(`weight_control_layout(config)`), request for a pair, to column 0.
    seed : Out(`seed_layout(config)`), request for a seed (WS), to column 0.
    begins : Out(1), the first computing window of a command starts, for the tail.
    begin_count : Out(20), beside `begins`: results of the command per column.
    begin_keep : Out(1), beside `begins`: they stay as seeds.
    tail_ready : In(1), the tail can take another command.
    cause : Out(3), why no window starts in this cycle (`dataflow.contract.registers.Wait`).
    idle : Out(1), no command is in progress.

    Timing: a window starts at most once every W cycles (docs/machine/array.md). All outputs but `commands.ready`,
    `cause` and `idle` are registered.
    """

    commands: stream.Interface
    token: data.View[data.StructLayout]
    weight: data.View[data.StructLayout]
    seed: data.View[data.StructLayout]
    begins: Signal
    begin_count: Signal
    begin_keep: Signal
    tail_ready: Signal
    cause: Signal
    idle: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "commands": In(stream.Signature(command_layout())),
                "token": Out(token_layout()),
                "weight": Out(weight_control_layout(config)),
                "seed": Out(seed_layout(config)),
                "begins": Out(1),
                "begin_count": Out(20),
                "begin_keep": Out(1),
                "tail_ready": In(1),
                "cause": Out(3),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._state(m)
        self._timers(m)
        self._decide(m)
        self._issue(m)
        self._weight_sequence(m)
        self._seed_sequence(m)
        return m

    def _state(self, m: Module) -> None:
        """The command in progress, and what the windows of its shape need."""
        self.current = Signal(command_layout())
        self.active = Signal()
        self.left = Signal(16)  # windows of the command still to start
        self.fresh = Signal()  # its first window has not started
        self.loaded = Signal()  # WS: the weights of the next command are on their way
        self.pace = Signal(9)  # cycles until the next window may start
        self.steps = Signal(8)  # 8 N of the command in progress
        self.following = Signal()  # the next command is here and has the same shape
        self.go = Signal()  # a computing window starts
        self.prime = Signal()  # a loading window starts
        self.ends = Signal()  # it is the command's last: `left` is 1
        self.chain = Signal()  # it fetches for the next command
        self.wload = Signal()  # it carries the next command's weights
        nxt = self.commands.payload
        self.same = Signal()
        m.d.comb += [
            self.steps.eq((self.current.n_less_1 + 1) << 3),
            self.same.eq(
                (nxt.ws == self.current.ws)
                & (nxt.n_less_1 == self.current.n_less_1)
                & (nxt.log2_m_less_1 == self.current.log2_m_less_1)
                & (nxt.log2_a == self.current.log2_a)
            ),
            self.following.eq(self.commands.valid & self.same),
        ]

    def _timers(self, m: Module) -> None:
        """Count down to the cycle in which each resource is free again."""
        config = self._config
        nxt = self.commands.payload
        self.drain_timer = Signal(range(drain_cycles(config) + 1))
        self.weight_timer = Signal(range(load_cycles(config, MAX_GROUP) + 1))
        sums = range(seed_cycles(config, MAX_GROUP) + 1)
        self.first_sums = Signal(sums)  # cycles until the previous command's first sums can be seeds
        self.last_sums = Signal(sums)  # ... and its last ones
        self.flush_timer = Signal(range(flush_cycles_ws(config, MAX_GROUP) + 1))
        for timer in (
            self.drain_timer,
            self.weight_timer,
            self.first_sums,
            self.last_sums,
            self.flush_timer,
            self.pace,
        ):
            with m.If(timer != 0):
                m.d.sync += timer.eq(timer - 1)
        load_steps = Signal(8)  # of the command whose weights are being requested
        ws_delay = Signal(8)  # `row_hand_on` of this N; what does not depend on N is taken from N = 1
        hand_on = row_hand_on(1) * config.rows
        m.d.comb += [
            load_steps.eq(Mux(self.prime, (nxt.n_less_1 + 1) << 3, self.steps)),
            ws_delay.eq(self.steps + 1),
        ]
        until_seed = Signal(sums)
        m.d.comb += until_seed.eq(ws_delay * config.rows + (seed_cycles(config, 1) - hand_on - 1))
        with m.If(self.go):
            with m.If(self.current.ws):
                m.d.sync += self.flush_timer.eq(ws_delay * config.rows + (flush_cycles_ws(config, 1) - hand_on))
                with m.If(self.fresh):
                    m.d.sync += self.first_sums.eq(until_seed)
                with m.If(self.ends):
                    m.d.sync += self.last_sums.eq(until_seed)
            with m.Else():
                m.d.sync += self.flush_timer.eq(self.steps + (flush_cycles_os(config, 1) - INTERLEAVE))
                with m.If(self.ends):
                    m.d.sync += self.drain_timer.eq(drain_cycles(config) - 1)
        with m.If(self.wload):
            m.d.sync += self.weight_timer.eq(load_steps * config.rows - 1)

    def _decide(self, m: Module) -> None:
        """Start a window if nothing speaks against it; otherwise say what does."""
        nxt, cur = self.commands.payload, self.current
        carries = Signal()  # this window could carry the next command's weights
        must_carry = Signal()  # ... and it is the last that can
        unsummed = Signal()  # its seeds are not there yet
        early = (self.fresh & (self.first_sums != 0)) | (self.ends & (self.last_sums != 0))
        m.d.comb += [
            unsummed.eq(cur.ws & cur.seed & early),
            carries.eq(cur.ws & self.following & ~self.loaded),
            must_carry.eq(carries & self.ends),
            self.idle.eq(~self.active),
        ]
        with m.If(self.pace == 0):
            with m.If(self.active):
                with m.If(self.fresh & ~self.tail_ready):
                    m.d.comb += self.cause.eq(Wait.TAIL)
                with m.Elif(~cur.ws & self.ends & (self.drain_timer != 0)):
                    m.d.comb += self.cause.eq(Wait.DRAIN)
                with m.Elif(unsummed):
                    m.d.comb += self.cause.eq(Wait.DEPENDENCY)
                with m.Elif(must_carry & (self.weight_timer != 0)):
                    m.d.comb += self.cause.eq(Wait.WEIGHT)
                with m.Else():
                    m.d.comb += [
                        self.go.eq(1),
                        self.chain.eq(self.ends & self.following),
                        self.wload.eq(carries & (self.weight_timer == 0)),
                    ]
            with m.Elif(~self.commands.valid):
                m.d.comb += self.cause.eq(Wait.OPERAND)
            with m.Elif(~self.same & (self.flush_timer != 0)):
                m.d.comb += self.cause.eq(Wait.FLUSH)
            with m.Elif(nxt.ws & (self.weight_timer != 0)):
                m.d.comb += self.cause.eq(Wait.WEIGHT)
            with m.Else():
                m.d.comb += [self.prime.eq(1), self.wload.eq(nxt.ws)]
        m.d.comb += self.commands.ready.eq(self.prime | self.chain)

    def _issue(self, m: Module) -> None:
        """Register the window and account for it."""
        nxt, cur, token = self.commands.payload, self.current, self.token
        shape = Signal(command_layout())  # of the window that starts
        m.d.comb += shape.eq(Mux(self.prime, nxt.as_value(), cur.as_value()))
        m.d.sync += [
            token.valid.eq(self.go | self.prime),
            self.begins.eq(self.go & self.fresh),
            self.begin_keep.eq(cur.keep),
            self.begin_count.eq(Mux(cur.ws, cur.windows << 3, INTERLEAVE * self._config.rows)),
        ]
        with m.If(self.go | self.prime):
            m.d.sync += [
                token.ws.eq(shape.ws),
                token.n_less_1.eq(shape.n_less_1),
                token.log2_m_less_1.eq(shape.log2_m_less_1),
                token.log2_a.eq(shape.log2_a),
                token.compute.eq(self.go),
                token.first.eq(self.fresh & self.go & (cur.ws | ~cur.seed)),  # OS: the sums are still in place
                token.last.eq(self.ends & self.go),
                token.fetch.eq(self.prime | self.chain | ~self.ends),
                token.rebase.eq(self.prime | self.chain),
                token.base.eq(nxt.act_base),
                token.wload.eq(self.wload),
                token.wflip.eq(self.go & self.fresh & cur.ws),
                self.pace.eq(self._window(m, shape) - 1),
                self.fresh.eq(self.prime | self.chain),
                self.loaded.eq(Mux(self.prime | self.ends, 0, self.loaded | self.wload)),
            ]
        with m.If(self.prime | self.chain):
            m.d.sync += [self.current.eq(nxt), self.active.eq(1), self.left.eq(nxt.windows)]
            m.d.sync += self.ends.eq(nxt.windows == 1)
        with m.Elif(self.go):
            m.d.sync += [self.left.eq(self.left - 1), self.ends.eq(self.left == 2)]
            with m.If(self.ends):
                m.d.sync += self.active.eq(0)

    def _window(self, m: Module, shape) -> Signal:
        """Length of a window: its steps or its activation beats, whichever take longer."""
        steps, beats, window = Signal(9), Signal(9), Signal(9)
        m.d.comb += [
            steps.eq((shape.n_less_1 + 1) << 3),
            beats.eq(((2 << shape.log2_m_less_1) << shape.log2_a) >> (self._config.act_lanes - 1)),
            window.eq(Mux(beats > steps, beats, steps)),
        ]
        return window

    def _weight_sequence(self, m: Module) -> None:
        """Ask for pairs: one window's worth in OS, a whole array's worth per load in WS, each pair for `a` cycles."""
        config = self._config
        nxt, cur = self.commands.payload, self.current
        left = Signal(range(load_cycles(config, MAX_GROUP) + 1))
        hold = Signal(3)  # cycles the pair is still asked for
        log2_a = Signal(2)
        ws = Signal()
        request = Signal(weight_control_layout(config))
        delayed = Signal(weight_control_layout(config))
        starts_os = Signal()
        m.d.comb += starts_os.eq(self.go & ~cur.ws)
        m.d.sync += delayed.eq(request)
        m.d.comb += self.weight.eq(Mux(ws, delayed.as_value(), request.as_value()))
        with m.If(starts_os | self.wload):
            m.d.sync += [request.read.eq(1), ws.eq(self.wload)]
            with m.If(self.wload):
                m.d.sync += [
                    log2_a.eq(nxt.log2_a),
                    hold.eq((1 << nxt.log2_a) - 1),
                    left.eq(((nxt.n_less_1 + 1) << 3) * config.rows - 1),
                    request.addr.eq(nxt.wgt_base),
                ]
            with m.Else():
                m.d.sync += [
                    log2_a.eq(cur.log2_a),
                    hold.eq((1 << cur.log2_a) - 1),
                    left.eq(self.steps - 1),
                    request.addr.eq(Mux(self.fresh, cur.wgt_base, request.addr + 1)),
                ]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
            with m.If(hold == 0):
                m.d.sync += [request.addr.eq(request.addr + 1), hold.eq((1 << log2_a) - 1)]
            with m.Else():
                m.d.sync += hold.eq(hold - 1)
        with m.Else():
            m.d.sync += request.read.eq(0)

    def _seed_sequence(self, m: Module) -> None:
        """Ask for the eight seeds of each WS window, in the order in which the sums were kept."""
        delay = Signal(SEED_DELAY)
        from_start, seeded = Signal(SEED_DELAY), Signal(SEED_DELAY)
        starts = Signal()
        address = Signal(self.seed.addr.shape())
        count = Signal(3)
        running, reads = Signal(), Signal()
        m.d.comb += [
            starts.eq(self.go & self.current.ws),
            self.seed.read.eq(running & reads),
            self.seed.addr.eq(address),
        ]
        m.d.sync += [
            delay.eq(Mux(starts, 1, 0) | (delay << 1)),
            from_start.eq((self.fresh & starts) | (from_start << 1)),
            seeded.eq((self.current.seed & starts) | (seeded << 1)),
            count.eq(count + 1),
        ]
        with m.If(running):
            m.d.sync += address.eq(address + 1)
        with m.If(delay[-1]):
            m.d.sync += [running.eq(1), count.eq(0), reads.eq(seeded[-1])]
            with m.If(from_start[-1]):
                m.d.sync += address.eq(0)
        with m.Elif(count == 7):
            m.d.sync += running.eq(0)
