"""Model of the walk over pixels (hw/parts/walk.py): one offset per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import OFFSET_MASK

if TYPE_CHECKING:
    from collections.abc import Mapping


class Walk:
    """The walk between two clock edges.

    fields: of the instruction, steps and input places with sign; those that are missing count as 0. prefix: of the
    names of offsets and steps ("side_"). offset, inside, line_end, image_end: of the present step, as in the circuit.
    """

    def __init__(self, fields: Mapping[str, int], prefix: str = "") -> None:
        get = fields.get
        self._start = tuple(get(prefix + name, 0) for name in ("at", "line_at", "image_at"))
        self._steps = tuple(get(prefix + name, 0) for name in ("x_step", "y_step", "image_step"))
        self._sizes = get("width", 0), get("height", 0)
        self._first = get("x0", 0), get("y0", 0)
        self._windowed = bool(get("windowed", 0))
        self._place = tuple(get(name, 0) for name in ("ix0", "iy0", "ix_line", "iy_image", "ix_step", "iy_step"))
        self._input = get("in_width", 0), get("in_height", 0)
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self.offset, self._line_at, self._image_at = self._start
        self._x, self._y = self._first
        self._ix, self._iy = self._place[:2]
        self._look()

    def advance(self) -> None:
        """Go to the next step."""
        x_step, y_step, image_step = self._steps
        _, _, ix_line, iy_image, ix_step, iy_step = self._place
        if not self.line_end:
            self.offset = (self.offset + x_step) & OFFSET_MASK
            self._x += 1
            self._ix += ix_step
        elif not self.image_end:
            self.offset = self._line_at = (self._line_at + y_step) & OFFSET_MASK
            self._x, self._y = 0, self._y + 1
            self._ix, self._iy = ix_line, self._iy + iy_step
        else:
            self.offset = self._line_at = self._image_at = (self._image_at + image_step) & OFFSET_MASK
            self._x, self._y = 0, 0
            self._ix, self._iy = ix_line, iy_image
        self._look()

    def _look(self) -> None:
        self.line_end = self._x + 1 == self._sizes[0]
        self.image_end = self.line_end and self._y + 1 == self._sizes[1]
        width, height = self._input
        self.inside = not self._windowed or (0 <= self._ix < width and 0 <= self._iy < height)
