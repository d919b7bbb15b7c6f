"""The walk over pixels of LOAD_ACT and STORE, all steps at once (docs/machine/load.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.dataflow.contract.isa import OFFSET_MASK, Opcode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.isa import Instruction


@dataclass(frozen=True)
class WalkSteps:
    """Steps of a walk: offset of each (beats), and whether it lies inside the input."""

    offset: NDArray[np.int64]
    inside: NDArray[np.bool_]


def walk(instruction: Instruction, steps: int, prefix: str = "") -> WalkSteps:
    """Return the first `steps` steps of the walk of a LOAD_ACT (inside counts) or STORE."""
    f = instruction
    s = np.arange(steps, dtype=np.int64)
    everywhere = np.ones(steps, np.bool_)
    x_step = f[f"{prefix}x_step"]
    loads = f.opcode is Opcode.LOAD_ACT
    windowed = loads and bool(f["windowed"])
    if f["width"] == 0 or (loads and not windowed):
        offset = (f[f"{prefix}at"] + s * x_step) & OFFSET_MASK
        return WalkSteps(offset, _within(f, f["ix0"] + s * f["ix_step"], f["iy0"]) if windowed else everywhere)
    x, y, image, first_line, first_image = _pixels(f, s)
    line = np.where(
        first_image,
        f[f"{prefix}line_at"] + (y - f["y0"]) * f[f"{prefix}y_step"],
        f[f"{prefix}image_at"] + image * f[f"{prefix}image_step"] + y * f[f"{prefix}y_step"],
    )
    offset = np.where(first_line, f[f"{prefix}at"] + (x - f["x0"]) * x_step, line + x * x_step) & OFFSET_MASK
    if not loads:
        return WalkSteps(offset, everywhere)
    ix = np.where(first_line, f["ix0"] + (x - f["x0"]) * f["ix_step"], f["ix_line"] + x * f["ix_step"])
    iy = np.where(first_image, f["iy0"] + (y - f["y0"]) * f["iy_step"], f["iy_image"] + y * f["iy_step"])
    return WalkSteps(offset, _within(f, ix, iy))


def _within(f: Instruction, ix: NDArray[np.int64], iy: NDArray[np.int64] | int) -> NDArray[np.bool_]:
    return (ix >= 0) & (ix < f["in_width"]) & (iy >= 0) & (iy < f["in_height"])


def _pixels(f: Instruction, s: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    width, height = f["width"], f["height"]
    place = f["y0"] * width + f["x0"] + s
    line = place // width
    x, y, image = place % width, line % height, line // height
    return x, y, image, line == f["y0"], image == 0
