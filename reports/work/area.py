"""What a whole machine takes by a table: LUTs, flip-flops and multipliers of its leaves, as `nmsat synth` counts them.

Leaves whose size does not depend on the machine are counted as Yosys maps them for UltraScale+; the loader and the
store engine lie on a line through the two machines that were mapped whole (`tiny`, `vcu1525`). What is not in it:
packing by Vivado, routing, another family of parts (docs/xilinx.md#what-it-takes-estimated).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import LANES

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


@dataclass(frozen=True)
class Area:
    """LUTs (logic, distributed RAM, shift registers), flip-flops, multipliers (DSP48)."""

    lut: int
    flip_flops: int
    dsp: int = 0

    def __mul__(self, times: int) -> Area:
        return Area(self.lut * times, self.flip_flops * times, self.dsp * times)

    def __add__(self, other: Area) -> Area:
        return Area(self.lut + other.lut, self.flip_flops + other.flip_flops, self.dsp + other.dsp)


ELEMENT: Final = {1: Area(389, 352, 1), 2: Area(412, 370, 1)}
"""An element in its machine, by the activations of its link."""

ROW: Final = {1: Area(119, 164), 2: Area(198, 186)}
"""The port of a row of elements, by the activations of its link."""

COLUMN: Final = Area(99, 95) + Area(876, 550)
"""The port of a column, and its lane of the epilogue with two sums and both conversions."""

LOADER: Final = Area(4315, 2736), Area(423, 321)
"""The loader: what it has anyway, and for each row and column."""

STORE: Final = Area(2325, 1731), Area(90, 66)
"""The store engine: what it has anyway, and for each column."""

UPDATE: Final = Area(17319, 15593, 2)
"""The update engine without its lanes of WUVE: streams, two SOREs of 16 lanes, transposer."""

WUVE_LANE: Final = Area(2512, 1816, 8)
"""A lane of WUVE."""

DEAL_LUT: Final = {1: 575, 2: 492, 4: 331, 8: 657, LANES: 0}
"""LUTs that deal a row to so many lanes of WUVE."""

GATHERED_BITS: Final = 81
"""Bits of a lane behind it, a register for all parts but the last."""

PORT: Final = Area(1090, 766)
"""Read and write port of a master, each with its watchdog."""

STEERS: Final = Area(2130, 56)
"""Steers of all clients in a machine of several masters (`hw.release.port_costs`)."""

REST: Final = Area(4830, 3820, 3)
"""Registers of the host, sequencer, head, tail, and what ties the array together."""


def machine_area(config: SatConfig) -> Area:
    """Return about what the machine takes without its buffers."""
    rows, columns, lanes = config.rows, config.columns, config.wuve_lanes
    array = row_area(config) * rows + COLUMN * columns
    loader = LOADER[0] + LOADER[1] * (rows + columns)
    store = STORE[0] + STORE[1] * columns
    update = UPDATE + WUVE_LANE * lanes + _parts(lanes)
    ports = PORT * config.ports + (STEERS if config.ports > 1 else Area(0, 0))
    return array + loader + store + update + ports + REST


def row_area(config: SatConfig) -> Area:
    """Return about what a row of the array takes: its port and its elements."""
    return ROW[config.act_lanes] + ELEMENT[config.act_lanes] * config.columns


def _parts(lanes: int) -> Area:
    """Return what deals rows to fewer lanes than they have, and gathers them."""
    if lanes > LANES:
        return Area(0, 0)  # planned, not built
    return Area(DEAL_LUT.get(lanes, 0), GATHERED_BITS * (LANES - lanes))
