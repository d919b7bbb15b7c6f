"""Pre-generation: one pass over the weights updates them and makes both pruned copies for the next step.

    weights, momenta, gradients -> WUVE -> state (new weights, momenta, binary16 copy)
                                     |
                                     +--> SORE along K ----------------> W_ff
                                     +--> transposer --> SORE along N -> W_bp

A beat holds one row k of a block of `lanes` columns n; rows follow one another, block by block. So a lane of the first
SORE sees consecutive k of its column, and behind the transposer a lane of the second sees consecutive n of its row.
Layout of the packed results: docs/machine/update.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import SHIFT_BITS
from nmsat.dataflow.contract.limits import ADD_STAGES, MULTIPLY_STAGES, ROUND_STAGES
from nmsat.hw.parts.steps import named
from nmsat.hw.update.parts import DealRow, GatherRow
from nmsat.hw.update.sore import Sore, pairs_layout
from nmsat.hw.update.transpose import Transposer
from nmsat.hw.update.wuve import COEFFICIENTS, Wuve, update_layout, updated_layout

if TYPE_CHECKING:
    from collections.abc import Mapping

PATTERN_PORTS = {"n_less_1": 4, "log2_m_less_1": 2}
"""Ports that set the pattern of one SORE, and their widths."""


class Pregen(wiring.Component):
    """WUVE, two SOREs and the transposer between them.

    Parameters: lanes: a power of two, 2 or more; stages: see `hw.update.wuve.WuveLane`; wuve_lanes: those of WUVE, a
    power of two up to `lanes`, all of them by default: with fewer a row passes it in parts, the first lanes first.
    Members; settings may change while `idle`:

    lr : In(32), setting: learning rate, binary32.
    mu : In(32), setting: momentum factor, binary32.
    wd : In(32), setting: weight decay, binary32.
    lam : In(32), setting: decay of pruned weights (SR-STE), binary32.
    shift : In(SHIFT_BITS), setting: s of the loss scale 2^s, 0 to 24.
    hold : In(1), setting: weights and momenta stay.
    ff_n_less_1 : In(4), setting: N of W_ff, less 1.
    ff_log2_m_less_1 : In(2), setting: log2 of M of W_ff, less 1.
    ff_use : In(1), setting: W_ff is made.
    bp_n_less_1 : In(4), setting: N of W_bp, less 1.
    bp_log2_m_less_1 : In(2), setting: log2 of M of W_bp, less 1; M must not exceed `lanes`.
    bp_use : In(1), setting: W_bp is made.
    i : In(stream of `update_layout(lanes)`), rows; `last`: last row of a block of columns, `end`: last row of the pass.
    state : Out(stream of `updated_layout(lanes)`), new weights and momenta.
    ff : Out(stream of `pairs_layout(lanes, 1)`), W_ff.
    bp : Out(stream of `pairs_layout(lanes, 1)`), W_bp.
    overflow : Out(1), sticky: a gradient of a present lane was infinite or NaN.
    clear : In(1), lower `overflow`.
    idle : Out(1), no beat is inside.

    Timing: one weight per lane of WUVE and cycle, a row is taken in the cycle of its last part; after a block whose
    rows `lanes` does not divide, W_bp takes the cycles of the missing rows too.
    Numerics: docs/arithmetic.md, "Weight update" and "Pruning".
    """

    hold: Signal
    ff_use: Signal
    bp_use: Signal
    i: Any
    state: Any
    ff: Any
    bp: Any
    overflow: Signal
    clear: Signal
    idle: Signal

    def __init__(
        self,
        lanes: int,
        multiply_stages: int = MULTIPLY_STAGES,
        add_stages: int = ADD_STAGES,
        round_stages: int = ROUND_STAGES,
        wuve_lanes: int | None = None,
    ) -> None:
        narrow = lanes if wuve_lanes is None else wuve_lanes
        if narrow < 1 or lanes % narrow:
            raise ValueError(f"wuve_lanes is {wuve_lanes!r}; {lanes} lanes must be equal parts of so many")
        self.lanes = lanes
        self._parts = lanes // narrow
        self._update = Wuve(narrow, multiply_stages, add_stages, round_stages)
        self._transposer = Transposer(lanes)
        self._engines = {"ff": Sore(lanes), "bp": Sore(lanes)}
        settings = dict.fromkeys(COEFFICIENTS, 32) | {"shift": SHIFT_BITS, "hold": 1}
        for copy in self._engines:
            settings |= {f"{copy}_{name}": width for name, width in PATTERN_PORTS.items()} | {f"{copy}_use": 1}
        super().__init__(
            {name: In(width) for name, width in settings.items()}
            | {
                "i": In(stream.Signature(update_layout(lanes))),
                "state": Out(stream.Signature(updated_layout(lanes))),
                "ff": Out(stream.Signature(pairs_layout(lanes, 1))),
                "bp": Out(stream.Signature(pairs_layout(lanes, 1))),
                "overflow": Out(1),
                "clear": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.update = update = self._update
        m.submodules.transposer = transposer = self._transposer
        ff, bp = self._engines.values()
        m.submodules.ff, m.submodules.bp = ff, bp
        for name in (*COEFFICIENTS, "shift", "hold", "clear"):
            m.d.comb += getattr(update, name).eq(getattr(self, name))
        for copy, engine in self._engines.items():
            m.d.comb += [getattr(engine, name).eq(getattr(self, f"{copy}_{name}")) for name in PATTERN_PORTS]
        rows, updated = update.i, update.o
        if self._parts > 1:
            m.submodules.deal = deal = DealRow(self.lanes, self._parts)
            m.submodules.gather = gather = GatherRow(self.lanes, self._parts)
            rows, updated = deal.i, gather.o
            wiring.connect(m, deal.o, update.i)
            wiring.connect(m, update.o, gather.i)
        wiring.connect(m, wiring.flipped(self.i), rows)
        wiring.connect(m, transposer.o, bp.i)
        wiring.connect(m, ff.o, wiring.flipped(self.ff))
        wiring.connect(m, bp.o, wiring.flipped(self.bp))
        beat = updated.payload
        m.d.comb += [
            self.state.payload.eq(beat),
            ff.i.payload.value.eq(beat.half),
            ff.i.payload.present.eq(beat.present),
            ff.i.payload.last.eq(beat.last | beat.end),
            transposer.i.payload.value.eq(beat.half),
            transposer.i.payload.present.eq(beat.present),
            transposer.i.payload.last.eq(beat.last),
            transposer.i.payload.end.eq(beat.end),
            self.overflow.eq(update.overflow),
        ]
        branches = {
            "state": (self.state, Value.cast(1)),
            "ff": (ff.i, self.ff_use),
            "bp": (transposer.i, self.bp_use),
        }
        self._fork(m, updated, branches)
        m.d.comb += self.idle.eq(update.idle & ff.idle & transposer.idle & bp.idle)
        return m

    def _fork(self, m: Module, source: Any, branches: Mapping[str, tuple[Any, Value]]) -> None:
        """Give every beat of the source to all branches in use, to each once and as soon as it is ready."""
        served = []
        for name, (sink, use) in branches.items():
            done = Signal(name=f"{name}_done")
            serves = named(m, f"{name}_served", done | ~use | sink.ready)
            m.d.comb += sink.valid.eq(source.valid & ~done & use)
            with m.If(source.valid):
                m.d.sync += done.eq(serves & ~source.ready)
            served.append(serves)
        m.d.comb += source.ready.eq(Cat(served).all())
