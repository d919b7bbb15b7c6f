"""A walk over pixels: one offset per step, line by line and image by image (docs/machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import OFFSET_BITS, SIZE_BITS, STEP_BITS
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amaranth.hdl import ValueLike

COUNT_BITS: Final = 16
"""Bits of width and height: those of the runs of LOAD_WGT, which needs the most."""

IMAGE_STEP_BITS: Final = STEP_BITS + 6
"""Bits of the step from image to image: those of the step from block to block of LOAD_WGT."""

PLACE_BITS: Final = COUNT_BITS + 5
"""Bits of an input place with sign: a count, times a step of 4 bits."""


def walk_layout() -> data.StructLayout:
    """What shapes a walk; the names are those of the instruction fields.

    at, line_at, image_at, x_step, y_step, image_step: offsets in beats; width, height: pixels of a line, lines of an
    image (width 0: one endless line); x0, y0: where the first step is. windowed: steps also have an input place: ix0,
    iy0 (first step), ix_line (at x = 0), iy_image (at y = 0), ix_step, iy_step, and are inside if it is within in_width
    x in_height.
    """
    place = signed(SIZE_BITS + 1)
    return data.StructLayout(
        {
            **dict.fromkeys(("at", "line_at", "image_at"), OFFSET_BITS),
            **dict.fromkeys(("x_step", "y_step"), signed(STEP_BITS)),
            "image_step": signed(IMAGE_STEP_BITS),
            **dict.fromkeys(("width", "height", "x0", "y0"), COUNT_BITS),
            "windowed": 1,
            **dict.fromkeys(("ix0", "iy0", "ix_line", "iy_image"), place),
            **dict.fromkeys(("ix_step", "iy_step"), 4),
            **dict.fromkeys(("in_width", "in_height"), SIZE_BITS),
        }
    )


def walk_fields(walk: Walk, values: Mapping[str, ValueLike], prefix: str = "") -> list[Any]:
    """Return the assignments that give a walk its fields, those that `values` does not name being 0.

    values: the fields of an instruction (`hw.parts.fields.fields_of`); prefix: of the names of its offsets and steps
    ("side_"); sizes and places have none. Also `windowed` is taken only if it is there.
    """
    found = {}
    for name in walk_layout().members:
        own = name in ("at", "line_at", "image_at", "x_step", "y_step", "image_step")
        key = prefix + name if own else name
        if key in values:
            found[name] = values[key]
    return [walk.fields[name].eq(value) for name, value in found.items()]


class Walk(wiring.Component):
    """Give the offset of one pixel per step.

    Members:

    fields : In(`walk_layout`), the walk, held still by the owner from `start` to the last step.
    start : In(1), begin, or begin anew.
    advance : In(1), go to the next step.
    offset : Out(34), of the present step, in beats.
    inside : Out(1), the present step has a place in the input; always unless `windowed`.
    line_end : Out(1), it is the last of its line.
    image_end : Out(1), it is the last of its image.

    Timing: after `start` or `advance` at cycle t (start counts if both are set) the outputs are those of the new step
    from t + 1 on. `offset` is a register.
    """

    fields: Any
    start: Signal
    advance: Signal
    offset: Signal
    inside: Signal
    line_end: Signal
    image_end: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "fields": In(walk_layout()),
                "start": In(1),
                "advance": In(1),
                "offset": Out(OFFSET_BITS),
                "inside": Out(1),
                "line_end": Out(1),
                "image_end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fields = self.fields
        x, y = Signal(COUNT_BITS), Signal(COUNT_BITS)
        line_end, last_line = Signal(), Signal()  # of the present step
        m.d.comb += [self.line_end.eq(line_end), self.image_end.eq(line_end & last_line)]

        def ends_line(step: Value) -> Value:
            return (step + 1 == fields.width) & fields.width.any()

        def ends_image(line: Value) -> Value:
            return line + 1 == fields.height

        right, below = (x + 1)[:COUNT_BITS], (y + 1)[:COUNT_BITS]
        with m.If(self.start):
            m.d.sync += [x.eq(fields.x0), y.eq(fields.y0)]
            m.d.sync += [line_end.eq(ends_line(fields.x0)), last_line.eq(ends_image(fields.y0))]
        with m.Elif(self.advance):
            m.d.sync += [x.eq(right), line_end.eq(ends_line(right))]
            with m.If(line_end):
                m.d.sync += [x.eq(0), line_end.eq(ends_line(Const(0, 1)))]
                m.d.sync += [y.eq(below), last_line.eq(ends_image(below))]
            with m.If(self.image_end):
                m.d.sync += [y.eq(0), last_line.eq(ends_image(Const(0, 1)))]
        self._offsets(m)
        self._places(m)
        return m

    def _offsets(self, m: Module) -> None:
        fields = self.fields
        line_at = Signal(OFFSET_BITS, reset_less=True)
        image_at = Signal(OFFSET_BITS, reset_less=True)
        line = named(m, "next_line", (line_at + fields.y_step)[:OFFSET_BITS])
        image = named(m, "next_image", (image_at + fields.image_step)[:OFFSET_BITS])
        with m.If(self.start):
            m.d.sync += [self.offset.eq(fields.at), line_at.eq(fields.line_at), image_at.eq(fields.image_at)]
        with m.Elif(self.advance):
            m.d.sync += self.offset.eq(self.offset + fields.x_step)
            with m.If(self.line_end):
                m.d.sync += [self.offset.eq(line), line_at.eq(line)]
            with m.If(self.image_end):
                m.d.sync += [self.offset.eq(image), line_at.eq(image), image_at.eq(image)]

    def _places(self, m: Module) -> None:
        """Follow the place in the input, and see whether there is one."""
        fields = self.fields
        ix = Signal(signed(PLACE_BITS), reset_less=True)
        iy = Signal(signed(PLACE_BITS), reset_less=True)
        with m.If(self.start):
            m.d.sync += [ix.eq(fields.ix0), iy.eq(fields.iy0)]
        with m.Elif(self.advance):
            m.d.sync += ix.eq(ix + fields.ix_step)
            with m.If(self.line_end):
                m.d.sync += [ix.eq(fields.ix_line), iy.eq(iy + fields.iy_step)]
            with m.If(self.image_end):
                m.d.sync += iy.eq(fields.iy_image)
        m.d.comb += self.inside.eq(~fields.windowed | (_within(ix, fields.in_width) & _within(iy, fields.in_height)))


def _within(place: Signal, size: Value) -> Value:
    """Return whether 0 <= place < size."""
    return ~place[-1] & (place.as_unsigned() < size)
