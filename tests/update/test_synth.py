"""Resources of the leaves of the update engines: no product or sum is written twice, DSP counts, upper limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nmsat.hw.fp.convert import F16ToF32, F32ToF16
from nmsat.hw.fp.f32 import F32Add, F32Normalise, F32Product
from nmsat.hw.parts.verilog import emit
from nmsat.hw.release.synth import synthesise
from nmsat.hw.store.epilogue import EpilogueLane
from nmsat.hw.update.sore import SoreLane
from nmsat.hw.update.transpose import Transposer
from nmsat.hw.update.wuve import WuveLane

if TYPE_CHECKING:
    from collections.abc import Callable

    from amaranth.lib.wiring import Component

pytestmark = [pytest.mark.synth, pytest.mark.long]

# unit, DSP48E2, multipliers, adders in the source, most lookup tables, most flip-flops
LEAVES: list[tuple[Callable[[], Component], int, int, int, int, int]] = [
    (lambda: F32Add(4), 0, 0, 4, 360, 220),
    (F32Normalise, 0, 0, 1, 115, 40),
    (lambda: F32Product(4), 2, 1, 5, 140, 210),
    (F16ToF32, 0, 0, 3, 55, 25),
    (lambda: F32ToF16(2), 0, 0, 3, 60, 40),
    (lambda: SoreLane(1), 0, 0, 31, 340, 460),
    (lambda: Transposer(8), 0, 0, 1, 580, 130),
]
NAMES = ["add", "normalise", "product", "widen", "round", "sore_lane", "transposer"]


@pytest.mark.parametrize(("unit", "dsp", "multipliers", "adders", "luts", "flip_flops"), LEAVES, ids=NAMES)
def test_leaf(
    unit: Callable[[], Component], dsp: int, multipliers: int, adders: int, luts: int, flip_flops: int
) -> None:
    found = synthesise(emit(unit(), "sat_leaf"), "sat_leaf")
    assert (found.dsp, found.multipliers, found.adders) == (dsp, multipliers, adders)
    assert found.luts <= luts
    assert found.flip_flops <= flip_flops


def test_lanes_hold_their_units_and_nothing_twice() -> None:
    add, product, normalise, widen, rounding = 4, 5, 1, 3, 3
    lane = synthesise(emit(WuveLane(), "sat_leaf"), "sat_leaf")
    assert (lane.dsp, lane.multipliers) == (8, 4)
    assert lane.adders == 4 * add + 4 * product + 3 * normalise + widen + rounding
    assert lane.luts <= 2650
    lane = synthesise(emit(EpilogueLane(), "sat_leaf"), "sat_leaf")
    assert (lane.dsp, lane.multipliers, lane.adders) == (0, 0, 2 * add + rounding)
    assert lane.luts <= 880
