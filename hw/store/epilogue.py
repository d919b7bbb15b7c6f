"""The epilogue: what happens to a sum on its way out of the array. Order of the steps: docs/machine/store.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.limits import ADD_STAGES, ROUND_STAGES
from nmsat.dataflow.contract.timing import epilogue_path
from nmsat.hw.fp.convert import F32ToF16
from nmsat.hw.fp.f32 import NEGATIVE_ZERO, F32Add
from nmsat.hw.parts.result_queue import queue_behind
from nmsat.hw.parts.steps import Cuts, delayed, named, sticky
from nmsat.hw.parts.verilog import place

if TYPE_CHECKING:
    from amaranth.hdl import ValueLike

OPTIONS: Final = ("use_bias", "use_tile", "to_half", "use_relu", "use_mask")
"""The steps that an instruction may ask for, in their order."""


def sums_layout(lanes: int) -> data.StructLayout:
    """One beat in, lane 0 first.

    x: sum of the array, bias, tile (value to add to): binary32; mask: what `use_mask` lets pass; present: whether the
    lane holds a result at all.
    """
    return data.StructLayout(
        {
            "x": data.ArrayLayout(32, lanes),
            "bias": data.ArrayLayout(32, lanes),
            "tile": data.ArrayLayout(32, lanes),
            "mask": data.ArrayLayout(1, lanes),
            "present": data.ArrayLayout(1, lanes),
        }
    )


def results_layout(lanes: int) -> data.StructLayout:
    """One beat out, lane 0 first.

    y: binary32, or binary16 in the low half with zeros above; mask: the value before ReLU was above 0 or NaN; present.
    """
    return data.StructLayout(
        {
            "y": data.ArrayLayout(32, lanes),
            "mask": data.ArrayLayout(1, lanes),
            "present": data.ArrayLayout(1, lanes),
        }
    )


class EpilogueLane(wiring.Component):
    """Data path of one lane, always advancing.

    Parameters: add_stages: registers of a sum, 1 to 6; round_stages: of the rounding to binary16, 1 or 2.
    Members; options are constant while operands are inside:

    x : In(32), sum of the array, binary32.
    bias : In(32), first value to add, binary32.
    tile : In(32), second value to add, binary32.
    mask : In(1), the result may pass if `use_mask`.
    use_bias : In(1), option: add `bias`.
    use_tile : In(1), option: add `tile`.
    to_half : In(1), option: round to binary16.
    use_relu : In(1), option: a result that is not above 0, nor NaN, becomes +0.
    use_mask : In(1), option: a result without `mask` becomes +0.
    y : Out(32), result: binary32, or binary16 in the low half with zeros above.
    y_mask : Out(1), the value before ReLU was above 0 or NaN.
    special : Out(1), y is infinite or NaN.

    Timing: latency 2 add_stages + round_stages + 1, II = 1.
    Numerics: docs/arithmetic.md, "Results"; a sum that is switched off changes NaNs only, which become canonical.
    """

    x: Signal
    bias: Signal
    tile: Signal
    mask: Signal
    use_bias: Signal
    use_tile: Signal
    to_half: Signal
    use_relu: Signal
    use_mask: Signal
    y: Signal
    y_mask: Signal
    special: Signal

    def __init__(self, add_stages: int = ADD_STAGES, round_stages: int = ROUND_STAGES) -> None:
        self._stages = (add_stages, round_stages)
        self.latency = epilogue_path(*self._stages)
        super().__init__(
            {"x": In(32), "bias": In(32), "tile": In(32), "mask": In(1)}
            | {name: In(1) for name in OPTIONS}
            | {"y": Out(32), "y_mask": Out(1), "special": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        A, R = self._stages
        tile = delayed(m, "tile_late", self.tile, A)
        biased = self._add(m, platform, "bias", self.x, Mux(self.use_bias, self.bias, NEGATIVE_ZERO))
        total = self._add(m, platform, "tile", biased, Mux(self.use_tile, tile, NEGATIVE_ZERO))
        half = F32ToF16(R)
        m.submodules.round = place(half, f"sat_f32_to_f16_{R}", platform, parameters=(R,))
        m.d.comb += half.i.eq(total)
        value = named(m, "value", Mux(self.to_half, half.o, delayed(m, "total_late", total, R)))
        # NaNs are canonical here, without sign, so they count as positive.
        above = named(m, "above", value.any() & ~Mux(self.to_half, value[15], value[31]))
        allowed = delayed(m, "mask_late", self.mask, 2 * A + R)
        passes = named(m, "passes", (above | ~self.use_relu) & (allowed | ~self.use_mask))
        special = Mux(self.to_half, value[10:15].all(), value[23:31].all())
        out = Cuts(m, ("out",))("out", y=Mux(passes, value, 0), mask=above, special=passes & special)
        m.d.comb += [self.y.eq(out.y), self.y_mask.eq(out.mask), self.special.eq(out.special)]
        return m

    def _add(self, m: Module, platform: object, name: str, a: Value, b: ValueLike) -> Signal:
        unit = F32Add(self._stages[0])
        m.submodules[f"add_{name}"] = place(
            unit, f"sat_f32_add_{self._stages[0]}", platform, parameters=(self._stages[0],)
        )
        m.d.comb += [unit.a.eq(a), unit.b.eq(b)]
        return unit.o


class EpilogueEngine(wiring.Component):
    """Lanes behind a queue that keeps them from ever stalling.

    Parameters: lanes: 1 or more; stages: see `EpilogueLane`.
    Members; options may change while `idle`:

    use_bias : In(1), option: add `bias`.
    use_tile : In(1), option: add `tile`.
    to_half : In(1), option: round to binary16.
    use_relu : In(1), option: a result that is not above 0, nor NaN, becomes +0.
    use_mask : In(1), option: a result without `mask` becomes +0.
    i : In(stream of `sums_layout(lanes)`), sums with what is added to them.
    o : Out(stream of `results_layout(lanes)`), results.
    special : Out(1), sticky: a result of a present lane was infinite or NaN.
    clear : In(1), lower `special`.
    idle : Out(1), no beat is inside.

    Timing: latency `latency` cycles, one result per lane and cycle. `special` rises in the cycle in which its result
    stands on `o` at the earliest.
    Numerics: `EpilogueLane`.
    """

    use_bias: Signal
    use_tile: Signal
    to_half: Signal
    use_relu: Signal
    use_mask: Signal
    i: Any
    o: Any
    special: Signal
    clear: Signal
    idle: Signal

    def __init__(self, lanes: int, add_stages: int = ADD_STAGES, round_stages: int = ROUND_STAGES) -> None:
        if lanes < 1:
            raise ValueError(f"lanes is {lanes!r}; it must be at least 1")
        self.lanes = lanes
        self._stages = (add_stages, round_stages)
        self._lanes = [EpilogueLane(*self._stages) for _ in range(lanes)]
        self._path = self._lanes[0].latency
        self.latency = self._path + 1
        super().__init__(
            {name: In(1) for name in OPTIONS}
            | {
                "i": In(stream.Signature(sums_layout(lanes))),
                "o": Out(stream.Signature(results_layout(lanes))),
                "special": Out(1),
                "clear": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queue = queue_behind(m, self, self._path)
        beat = self.i.payload
        name = f"sat_epilogue_lane_{self._stages[0]}_{self._stages[1]}"
        for number, lane in enumerate(self._lanes):
            m.submodules[f"lane_{number}"] = place(lane, name, platform, parameters=self._stages)
            m.d.comb += [getattr(lane, key).eq(getattr(beat, key)[number]) for key in ("x", "bias", "tile", "mask")]
            m.d.comb += [getattr(lane, key).eq(getattr(self, key)) for key in OPTIONS]
            m.d.comb += [queue.data.y[number].eq(lane.y), queue.data.mask[number].eq(lane.y_mask)]
        present = delayed(m, "present_late", Value.cast(beat.present), self._path)
        m.d.comb += Value.cast(queue.data.present).eq(present)
        special = (present & Cat(lane.special for lane in self._lanes)).any()
        sticky(m, self.special, queue.arrives & special, self.clear)
        return m
