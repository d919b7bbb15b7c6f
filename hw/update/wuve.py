"""The weight-update engine (WUVE): momentum SGD on binary32 master weights, one weight per lane and cycle.

Order of operations and numerics: docs/arithmetic.md, "Weight update"; timing: docs/machine/update.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import SHIFT_BITS
from nmsat.dataflow.contract.limits import ADD_STAGES, MULTIPLY_STAGES, ROUND_STAGES
from nmsat.dataflow.contract.timing import wuve_path
from nmsat.hw.fp.convert import F16ToF32, F32ToF16
from nmsat.hw.fp.f32 import NEGATIVE_ZERO, F32Add, F32Normalise, F32Product, normal_layout
from nmsat.hw.parts.result_queue import queue_behind
from nmsat.hw.parts.steps import delayed, named, sticky
from nmsat.hw.parts.verilog import place

if TYPE_CHECKING:
    from amaranth.hdl import ValueLike

COEFFICIENTS: Final = ("lr", "mu", "wd", "lam")
"""The binary32 constants of a step."""


def update_layout(lanes: int) -> data.StructLayout:
    """One beat in, lane 0 first.

    w, v: master weight and momentum, binary32; g: gradient, binary16; kept: mask_ff, the forward copy keeps the weight;
    present: the lane holds a weight at all; last, end: passed on (a block of columns ends, the pass ends).
    """
    return data.StructLayout(
        {
            "w": data.ArrayLayout(32, lanes),
            "v": data.ArrayLayout(32, lanes),
            "g": data.ArrayLayout(16, lanes),
            "kept": data.ArrayLayout(1, lanes),
            "present": data.ArrayLayout(1, lanes),
            "last": 1,
            "end": 1,
        }
    )


def updated_layout(lanes: int) -> data.StructLayout:
    """One beat out, lane 0 first: new master weight and momentum, the weight rounded to binary16 (half), the rest."""
    return data.StructLayout(
        {
            "w": data.ArrayLayout(32, lanes),
            "v": data.ArrayLayout(32, lanes),
            "half": data.ArrayLayout(16, lanes),
            "present": data.ArrayLayout(1, lanes),
            "last": 1,
            "end": 1,
        }
    )


class WuveLane(wiring.Component):
    """Data path of one lane, always advancing.

    Parameters: multiply_stages: registers of a product behind its normalised operands, 1 to 5; add_stages: of a sum, 1
    to 6; round_stages: of the rounding to binary16, 1 or 2.
    Members:

    w : In(32), master weight, binary32.
    v : In(32), momentum, binary32.
    g : In(16), gradient, binary16, scaled by 2^s.
    kept : In(1), the forward copy keeps the weight.
    down : In(SHIFT_BITS), s of the loss scale 2^s, 0 to 24.
    hold : In(1), weight and momentum stay as they are.
    lr : In(`normal_layout`), learning rate.
    mu : In(`normal_layout`), momentum factor.
    wd : In(`normal_layout`), weight decay.
    lam : In(`normal_layout`), decay of pruned weights (SR-STE).
    new_w : Out(32), new master weight.
    new_v : Out(32), new momentum.
    half : Out(16), the new weight in binary16.
    special : Out(1), the gradient of one cycle ago is infinite or NaN.

    Timing: latency 2 + 2 multiply_stages + 4 add_stages + round_stages, II = 1.
    Numerics: docs/arithmetic.md, "Weight update". With `hold`, or a gradient that is infinite or NaN, v stays bit for
    bit, w too except that a NaN becomes the canonical one.
    """

    w: Signal
    v: Signal
    g: Signal
    kept: Signal
    lr: data.View[data.StructLayout]
    mu: data.View[data.StructLayout]
    wd: data.View[data.StructLayout]
    lam: data.View[data.StructLayout]
    down: Signal
    hold: Signal
    new_w: Signal
    new_v: Signal
    half: Signal
    special: Signal

    def __init__(
        self, multiply_stages: int = MULTIPLY_STAGES, add_stages: int = ADD_STAGES, round_stages: int = ROUND_STAGES
    ) -> None:
        self.stages = (multiply_stages, add_stages, round_stages)
        self.latency = wuve_path(*self.stages)
        inputs = {"w": 32, "v": 32, "g": 16, "kept": 1, "down": SHIFT_BITS, "hold": 1}
        outputs = {"new_w": 32, "new_v": 32, "half": 16, "special": 1}
        super().__init__(
            {name: In(size) for name, size in inputs.items()}
            | {name: In(normal_layout()) for name in COEFFICIENTS}
            | {name: Out(size) for name, size in outputs.items()}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        units = _Units(m, platform, self.stages)
        P, A, R = self.stages
        # Comments give the cycle of each value, counted from that of the operands.
        widened, special = units.widen(self.g, self.down)  # 1
        keep = delayed(m, "keep_early", named(m, "keep", self.hold | special), P + 3 * A)  # 1 + P + 3 A
        w = units.normalise("w", self.w)  # 1
        t1 = units.multiply("t1", w, self.wd)  # 1 + P
        t2 = units.multiply("t2", w, self.lam)
        kept = delayed(m, "kept_late", self.kept, 1 + P)
        pruned_t2 = delayed(m, "t2_late", Mux(kept, 0, t2), A)  # 1 + P + A
        g1 = units.add("g1", delayed(m, "g_late", widened, P), t1)
        g2 = units.add("g2", g1, pruned_t2)  # 1 + P + 2 A
        v = delayed(m, "v_late", self.v, 2 * A)  # 2 A
        v1 = units.multiply("v1", units.normalise("v", v), self.mu)  # 1 + P + 2 A
        v2 = units.add("v2", v1, g2)  # 1 + P + 3 A
        new_v = named(m, "chosen_v", Mux(keep, delayed(m, "v_old", v, 1 + P + A), v2))
        d = units.multiply("d", units.normalise("v2", v2), self.lr)  # 2 + 2 P + 3 A
        held = delayed(m, "keep_late", keep, 1 + P)
        step = named(m, "step", Mux(held, NEGATIVE_ZERO, d ^ NEGATIVE_ZERO))
        new_w = units.add("new_w", delayed(m, "w_late", self.w, 2 + 2 * P + 3 * A), step)  # 2 + 2 P + 4 A
        m.d.comb += [
            self.special.eq(special),
            self.half.eq(units.round(new_w)),
            self.new_w.eq(delayed(m, "w_out", new_w, R)),
            self.new_v.eq(delayed(m, "v_out", new_v, 1 + P + A + R)),
        ]
        return m


class _Units:
    """Places the floating-point units of a lane."""

    def __init__(self, m: Module, platform: object, stages: tuple[int, int, int]) -> None:
        self._m = m
        self._platform = platform
        self._stages = stages

    def _place(self, name: str, unit: wiring.Component, module: str, *parameters: int) -> None:
        self._m.submodules[name] = place(unit, module, self._platform, parameters=parameters)

    def widen(self, g: Value, down: Value) -> tuple[Signal, Signal]:
        """Return g * 2^-down, and whether g is infinite or NaN."""
        unit = F16ToF32()
        self._place("widen_g", unit, "sat_f16_to_f32")
        self._m.d.comb += [unit.i.eq(g), unit.down.eq(down)]
        return unit.o, unit.special

    def normalise(self, name: str, x: Value) -> data.View[data.StructLayout]:
        """Return x prepared for `multiply`."""
        unit = F32Normalise()
        self._place(f"normalise_{name}", unit, "sat_f32_normalise")
        self._m.d.comb += unit.i.eq(x)
        return unit.o

    def multiply(self, name: str, a: ValueLike, b: ValueLike) -> Signal:
        """Return a * b of normalised operands."""
        unit = F32Product(self._stages[0])
        self._place(f"multiply_{name}", unit, f"sat_f32_product_{self._stages[0]}", self._stages[0])
        self._m.d.comb += [unit.a.eq(a), unit.b.eq(b)]
        return unit.o

    def add(self, name: str, a: Value, b: Value) -> Signal:
        """Return a + b."""
        unit = F32Add(self._stages[1])
        self._place(f"add_{name}", unit, f"sat_f32_add_{self._stages[1]}", self._stages[1])
        self._m.d.comb += [unit.a.eq(a), unit.b.eq(b)]
        return unit.o

    def round(self, x: Value) -> Signal:
        """Return x in binary16."""
        unit = F32ToF16(self._stages[2])
        self._place("round_w", unit, f"sat_f32_to_f16_{self._stages[2]}", self._stages[2])
        self._m.d.comb += unit.i.eq(x)
        return unit.o


class Wuve(wiring.Component):
    """Lanes that update weights, in order, behind a queue that keeps them from ever stalling.

    Parameters: lanes: 1 or more; stages: see `WuveLane`.
    Members; settings may change while `idle`:

    lr : In(32), setting: learning rate, binary32.
    mu : In(32), setting: momentum factor, binary32.
    wd : In(32), setting: weight decay, binary32.
    lam : In(32), setting: decay of pruned weights (SR-STE), binary32.
    shift : In(SHIFT_BITS), setting: s of the loss scale 2^s, 0 to 24.
    hold : In(1), setting: weights and momenta stay.
    i : In(stream of `update_layout(lanes)`), weights, momenta, gradients.
    o : Out(stream of `updated_layout(lanes)`), new weights and momenta.
    overflow : Out(1), sticky: a gradient of a present lane was infinite or NaN.
    clear : In(1), lower `overflow`.
    idle : Out(1), no beat is inside.

    Timing: latency `latency` cycles, one weight per lane and cycle. `overflow` rises 2 cycles after its beat entered.
    Numerics: `WuveLane`.
    """

    lr: Signal
    mu: Signal
    wd: Signal
    lam: Signal
    shift: Signal
    hold: Signal
    i: Any
    o: Any
    overflow: Signal
    clear: Signal
    idle: Signal

    def __init__(
        self,
        lanes: int,
        multiply_stages: int = MULTIPLY_STAGES,
        add_stages: int = ADD_STAGES,
        round_stages: int = ROUND_STAGES,
    ) -> None:
        if lanes < 1:
            raise ValueError(f"lanes is {lanes!r}; it must be at least 1")
        self.lanes = lanes
        self._stages = (multiply_stages, add_stages, round_stages)
        self._lanes = [WuveLane(*self._stages) for _ in range(lanes)]
        self._path = self._lanes[0].latency
        self.latency = self._path + 1
        super().__init__(
            {name: In(32) for name in COEFFICIENTS}
            | {
                "shift": In(SHIFT_BITS),
                "hold": In(1),
                "i": In(stream.Signature(update_layout(lanes))),
                "o": Out(stream.Signature(updated_layout(lanes))),
                "overflow": Out(1),
                "clear": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queue = queue_behind(m, self, self._path)
        beat = self.i.payload
        constants = self._constants(m, platform)
        name = "sat_wuve_lane_" + "_".join(str(stages) for stages in self._stages)
        for number, lane in enumerate(self._lanes):
            m.submodules[f"lane_{number}"] = place(lane, name, platform, parameters=self._stages)
            m.d.comb += [getattr(lane, key).eq(value) for key, value in constants.items()]
            m.d.comb += [getattr(lane, key).eq(getattr(beat, key)[number]) for key in ("w", "v", "g", "kept")]
            m.d.comb += [
                lane.down.eq(self.shift),
                lane.hold.eq(self.hold),
                queue.data.w[number].eq(lane.new_w),
                queue.data.v[number].eq(lane.new_v),
                queue.data.half[number].eq(lane.half),
            ]
        early = delayed(m, "aside_1", Cat(Value.cast(beat.present), beat.last, beat.end), 1)
        aside = delayed(m, "aside", early, self._path - 1)
        m.d.comb += Cat(Value.cast(queue.data.present), queue.data.last, queue.data.end).eq(aside)
        entered = Signal()
        m.d.sync += entered.eq(queue.enter)
        special = Cat(lane.special for lane in self._lanes) & early[: self.lanes]
        sticky(m, self.overflow, entered & special.any(), self.clear)
        return m

    def _constants(self, m: Module, platform: object) -> dict[str, data.View[data.StructLayout]]:
        constants = {}
        for key in COEFFICIENTS:
            unit = F32Normalise()
            m.submodules[f"normalise_{key}"] = place(unit, "sat_f32_normalise", platform)
            m.d.comb += unit.i.eq(getattr(self, key))
            constants[key] = unit.o
        return constants
