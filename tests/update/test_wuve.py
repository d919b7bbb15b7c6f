"""The weight-update engine: its model against algorithms.training.optim, its RTL against the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import to_half
from nmsat.algorithms.training.optim import SgdConstants, sgd_update
from nmsat.hw.parts.verilog import emit
from nmsat.hw.update.wuve import Wuve as WuveRtl
from nmsat.sim.update.wuve import UpdateBeat, Wuve, update, update_cycles, wuve_latency
from nmsat.tb.run.runner import build, run
from nmsat.tb.update.operands import random_weights
from tests.benches import in_amaranth
from tests.streams import play

CONSTANTS = SgdConstants(lr=0.1, momentum=0.9, weight_decay=5e-4, decay=2e-4, shift=8)


def finite_beats(lanes: int, count: int) -> list[UpdateBeat]:
    """Return beats with finite gradients in all lanes."""
    rng = np.random.default_rng(3)
    beats = [random_weights(rng, lanes, spread=False) for _ in range(count)]
    everywhere = np.ones(lanes, np.bool_)
    return [UpdateBeat(b.w, b.v, np.where(np.isfinite(b.g), b.g, np.float16(1)), b.kept, everywhere) for b in beats]


def check_rtl(lanes: int, beats: int, jobs: int, stages: tuple[int, int, int], seed: int) -> dict[str, Any]:
    built = build(emit(WuveRtl(lanes, *stages), "sat_wuve"), "sat_wuve")
    job = {"lanes": lanes, "beats": beats, "jobs": jobs, "stages": stages}
    return run(built, "nmsat.tb.update.bench_wuve", job=job, seed=seed).check().saved


def test_values_are_those_of_the_algorithm() -> None:
    beats = finite_beats(4, 50)
    played = play(Wuve(CONSTANTS), beats)
    for beat, out in zip(beats, played.outputs, strict=True):
        w, v = sgd_update(beat.w, beat.v, beat.g, CONSTANTS, beat.kept)
        assert np.array_equal(out.w.view(np.uint32), w.view(np.uint32))
        assert np.array_equal(out.v.view(np.uint32), v.view(np.uint32))
        assert np.array_equal(out.half.view(np.uint16), to_half(w).view(np.uint16))


def test_one_beat_per_cycle() -> None:
    played = play(Wuve(CONSTANTS), finite_beats(2, 200))
    assert played.enters == list(range(200))
    assert played.leaves == list(range(wuve_latency(), 200 + wuve_latency()))
    assert played.cycles == update_cycles(200)


def test_stalled_sink_stops_the_source_without_loss() -> None:
    beats = finite_beats(2, 100)
    played = play(Wuve(CONSTANTS), beats, takes=[False] * 80)
    assert played.enters[31] == 31
    assert played.enters[32] == 81  # the queue of 32 was full
    assert len(played.outputs) == 100


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_overflow_suppresses_the_element_and_raises_the_flag(bad: float) -> None:
    beat = finite_beats(3, 1)[0]
    beat.g[1] = bad
    engine = Wuve(CONSTANTS)
    out = play(engine, [beat]).outputs[0]
    assert engine.overflow
    assert out.w[1] == beat.w[1]
    assert out.v[1] == beat.v[1]
    assert out.w[0] != beat.w[0]


def test_overflow_in_an_absent_lane_raises_nothing() -> None:
    beat = finite_beats(3, 1)[0]
    beat.g[1], beat.present[1] = np.inf, False
    engine = Wuve(CONSTANTS)
    play(engine, [beat])
    assert not engine.overflow


def test_hold_keeps_weights_and_momenta() -> None:
    rng = np.random.default_rng(4)
    w, v = (rng.normal(size=64).astype(np.float32) for _ in range(2))
    w[:4] = [0.0, -0.0, 1e-44, -np.inf]
    new_w, new_v = update(w, v, np.ones(64, np.float16), np.ones(64, np.bool_), CONSTANTS, hold=True)
    assert np.array_equal(new_w.view(np.uint32), w.view(np.uint32))
    assert np.array_equal(new_v.view(np.uint32), v.view(np.uint32))


@pytest.mark.rtl
def test_rtl_against_model() -> None:
    counts = check_rtl(4, 400, 12, (4, 4, 2), seed=1)
    assert counts["cycles"] > 4_000
    assert counts["resets"] == 3


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("stages", [(4, 4, 2), (1, 1, 1), (5, 6, 2), (3, 5, 1)])
def test_rtl_against_model_long(stages: tuple[int, int, int]) -> None:
    counts = check_rtl(8, 2_500, 24, stages, seed=2)
    assert counts["beats_in"] * 8 > 200_000


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_lanes_out_of_range() -> None:
    with pytest.raises(ValueError, match="lanes is 0"):
        WuveRtl(0)


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        assert check_rtl(1, 200, 12, (4, 4, 2), seed=1)["resets"] == 3
