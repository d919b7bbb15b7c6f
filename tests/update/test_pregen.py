"""Pre-generation and its transposer: models against algorithms.core.nm, RTL against the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core import nm
from nmsat.algorithms.core.numeric import to_half
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.optim import SgdConstants, sgd_update
from nmsat.hw.parts.verilog import emit
from nmsat.hw.update.pregen import Pregen as PregenRtl
from nmsat.hw.update.transpose import Transposer as TransposerRtl
from nmsat.sim.update.pregen import (
    BRANCHES,
    Pregen,
    PregenSettings,
    backward_copy,
    forward_copy,
    matrix_beats,
    pregen_cycles,
)
from nmsat.sim.update.transpose import TransposedRow, Transposer
from nmsat.tb.run.runner import build, run
from nmsat.tb.update.operands import Matrix, random_matrix
from tests.benches import run as play_bench
from tests.streams import play

if TYPE_CHECKING:
    from nmsat.sim.update.sore import KeptPairs
    from nmsat.sim.update.wuve import UpdatedBeat

CONSTANTS = SgdConstants(lr=0.1, momentum=0.9, weight_decay=5e-4, decay=2e-4, shift=4)


def run_pass(
    matrix: Matrix, lanes: int, settings: PregenSettings, stall: float = 0.0
) -> tuple[list[UpdatedBeat], list[KeptPairs], list[KeptPairs], int]:
    """Return what leaves the model in one pass, and its cycles from the first beat in to the last beat out."""
    engine = Pregen(lanes, settings)
    beats = matrix_beats(*matrix, lanes)
    rng = np.random.default_rng(1)
    found: dict[str, list[Any]] = {name: [] for name in BRANCHES}
    cycle, final = 0, 0
    while beats or not engine.idle:
        taken = {name: bool(rng.random() >= stall) for name in BRANCHES}
        for name, out in zip(BRANCHES, engine.outputs(), strict=True):
            if out is not None and taken[name]:
                found[name].append(out)
                final = cycle
        engine.clock(beats.pop(0) if beats and engine.ready() else None, taken)
        cycle += 1
    return found["state"], found["ff"], found["bp"], final + 1


def assert_packed(left: nm.Packed, right: nm.Packed) -> None:
    assert np.array_equal(left.values.view(np.uint16), right.values.view(np.uint16))
    assert np.array_equal(left.index, right.index)
    assert np.array_equal(left.filler, right.filler)
    assert (left.k, left.n, left.m) == (right.k, right.n, right.m)


@pytest.mark.parametrize(
    ("k", "n", "ff", "bp"),
    [
        (32, 16, Pattern(2, 8), Pattern(2, 8)),
        (27, 10, Pattern(2, 4), Pattern(4, 8)),
        (5, 21, Pattern(3, 16), Pattern(1, 2)),
        (1, 1, Pattern(1, 2), Pattern(8, 8)),
        (64, 24, Pattern(16, 16), Pattern(5, 8)),
    ],
)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_both_copies_are_those_of_the_algorithm(k: int, n: int, ff: Pattern, bp: Pattern, stall: float) -> None:
    matrix = random_matrix(np.random.default_rng(k * n), k, n)
    settings = PregenSettings(constants=CONSTANTS, ff=ff, bp=bp)
    state, forward, backward, _ = run_pass(matrix, 8, settings, stall)
    w, v, g, kept = matrix
    new_w, _ = sgd_update(w, v, g, CONSTANTS, kept)
    assert len(state) == k * -(-n // 8)
    half = to_half(new_w)
    assert_packed(forward_copy(forward, k, n, ff), nm.pack(half, ff.n, ff.m))
    assert_packed(backward_copy(backward, k, n, bp), nm.pack(half, bp.n, bp.m, axis=1))


@pytest.mark.parametrize(
    ("k", "n", "ff", "bp"),
    [
        (32, 8, Pattern(2, 8), Pattern(2, 8)),
        (64, 20, Pattern(1, 2), Pattern(4, 4)),
        (16, 3, Pattern(16, 16), Pattern(1, 2)),
        (32, 16, None, Pattern(3, 8)),
        (32, 16, Pattern(2, 4), None),
        (32, 16, None, None),
    ],
)
def test_closed_form_of_the_cycles(k: int, n: int, ff: Pattern | None, bp: Pattern | None) -> None:
    matrix = random_matrix(np.random.default_rng(5), k, n)
    *_, cycles = run_pass(matrix, 8, PregenSettings(constants=CONSTANTS, ff=ff, bp=bp))
    assert cycles == pregen_cycles(k, n, 8, ff, bp)


def test_keep_is_the_mask_of_the_next_step() -> None:
    matrix = random_matrix(np.random.default_rng(6), 16, 8)
    settings = PregenSettings(constants=CONSTANTS, ff=Pattern(2, 8), bp=None)
    state, forward, _, _ = run_pass(matrix, 8, settings)
    half = np.array([beat.half for beat in state])
    keep = np.concatenate([beat.keep[:, :8].T for beat in forward if beat.last])
    assert np.array_equal(keep, nm.mask(half, 2, 8))


def test_transposer_turns_blocks() -> None:
    value = np.arange(16, dtype=np.uint16).reshape(4, 4)
    there = np.ones(4, np.bool_)
    rows = [TransposedRow(value[k], there, last=k == 3, end=k == 3) for k in range(4)]
    played = play(Transposer(4), rows)
    assert np.array_equal(np.concatenate([out.value for out in played.outputs], axis=1), value)
    assert played.leaves == [4, 5, 6, 7]


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="M must not exceed the 8 lanes"):
        Pregen(8, PregenSettings(constants=CONSTANTS, ff=None, bp=Pattern(2, 16)))
    with pytest.raises(ValueError, match="lanes is 12"):
        Pregen(12, PregenSettings(constants=CONSTANTS, ff=None, bp=None))
    with pytest.raises(ValueError, match="closed form"):
        pregen_cycles(30, 8, 8, Pattern(2, 8), None)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_lanes_out_of_range() -> None:
    with pytest.raises(ValueError, match="power of two"):
        TransposerRtl(6)


@pytest.mark.rtl
@pytest.mark.parametrize("lanes", [2, 8])
def test_transposer_rtl_against_model(lanes: int) -> None:
    built = build(emit(TransposerRtl(lanes), "sat_transposer"), "sat_transposer")
    counts = run(built, "nmsat.tb.update.bench_transpose", job={"lanes": lanes, "jobs": 80}).check().saved
    assert counts["resets"] == 20


@pytest.mark.rtl
def test_rtl_against_model() -> None:
    built = build(emit(PregenRtl(4), "sat_pregen"), "sat_pregen")
    counts = run(built, "nmsat.tb.update.bench_pregen", job={"lanes": 4, "jobs": 40, "k": 40, "n": 12}).check().saved
    assert counts["cycles"] > 3_000
    assert set(counts["beats_out"]) == set(BRANCHES)


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("lanes", [2, 16])
def test_rtl_against_model_long(lanes: int) -> None:
    built = build(emit(PregenRtl(lanes), "sat_pregen"), "sat_pregen")
    job = {"lanes": lanes, "jobs": 200, "k": 100, "n": 3 * lanes}
    assert run(built, "nmsat.tb.update.bench_pregen", job=job).check().saved["cycles"] > 20_000


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    bench = "nmsat.tb.update.bench_pregen"
    assert play_bench(PregenRtl(4), bench, {"lanes": 4, "jobs": 20, "k": 12, "n": 9}, 1)["beats_in"] > 200


@pytest.mark.long
def test_transposer_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    assert play_bench(TransposerRtl(4), "nmsat.tb.update.bench_transpose", {"lanes": 4, "jobs": 16}, 1)["resets"] == 4
