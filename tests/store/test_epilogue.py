"""The epilogue: its model against the contract, its RTL against the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nmsat.hw.parts.verilog import emit
from nmsat.hw.store.epilogue import EpilogueEngine as EpilogueRtl
from nmsat.sim.store.epilogue import EpilogueEngine, EpilogueOptions, Sums, epilogue_latency, finish
from nmsat.tb.run.runner import build, run
from nmsat.tb.store.operands import random_sums
from tests.benches import in_amaranth
from tests.streams import play

EDGES = np.array([0.0, -0.0, 1.0, -1.0, 2e-8, -2e-8, 65519.0, 65520.0, np.inf, -np.inf, np.nan], np.float32)


def edge_sums() -> Sums:
    """Return one beat with a lane for each edge case, bias and tile 0, every other mask bit set."""
    zero = np.zeros_like(EDGES)
    return Sums(EDGES, zero, zero, np.arange(EDGES.size) % 2 == 0, np.ones(EDGES.size, np.bool_))


def check_rtl(lanes: int, beats: int, stages: tuple[int, int], seed: int) -> dict[str, Any]:
    built = build(emit(EpilogueRtl(lanes, *stages), "sat_epilogue"), "sat_epilogue")
    job = {"lanes": lanes, "beats": beats, "stages": stages}
    return run(built, "nmsat.tb.store.bench_epilogue", job=job, seed=seed).check().saved


def test_relu_in_binary16_looks_at_the_rounded_value() -> None:
    y, mask = finish(edge_sums(), EpilogueOptions(to_half=True, use_relu=True))
    assert y.dtype == np.float16
    assert y.view(np.uint16).tolist() == [0, 0, 0x3C00, 0, 0, 0, 0x7BFF, 0x7C00, 0x7C00, 0, 0x7E00]
    assert mask.tolist() == [False, False, True, False, False, False, True, True, True, False, True]


def test_relu_in_binary32() -> None:
    y, mask = finish(edge_sums(), EpilogueOptions(use_relu=True))
    kept = EDGES.view(np.uint32).copy()
    kept[[1, 3, 5, 9]] = 0
    assert np.array_equal(y.view(np.uint32), kept)
    assert mask.tolist() == [False, False, True, False, True, False, True, True, True, False, True]


def test_mask_lets_pass_or_gives_zero() -> None:
    sums = edge_sums()
    y, _ = finish(sums, EpilogueOptions(use_mask=True))
    assert np.array_equal(y.view(np.uint32), np.where(sums.mask, EDGES.view(np.uint32), 0))


def test_bias_comes_before_the_tile() -> None:
    one, tiny = np.ones(1, np.float32), np.full(1, 2.0**-24, np.float32)
    sums = Sums(one, tiny, tiny, one > 0, one > 0)
    y, _ = finish(sums, EpilogueOptions(use_bias=True, use_tile=True))
    assert y[0] == 1.0  # 1 + (2^-24 + 2^-24) would be above 1
    y, _ = finish(Sums(tiny, tiny, one, one > 0, one > 0), EpilogueOptions(use_bias=True, use_tile=True))
    assert y[0] > 1.0


@pytest.mark.parametrize("options", [EpilogueOptions(), EpilogueOptions(to_half=True)])
def test_flag(options: EpilogueOptions) -> None:
    sums = edge_sums()
    engine = EpilogueEngine(options)
    play(engine, [sums])
    assert engine.special
    engine.clock(None, taken=True, clear=True)
    assert not engine.special
    beat = Sums(sums.x, sums.bias, sums.tile, sums.mask, np.arange(EDGES.size) < 6)
    play(engine, [beat])
    assert not engine.special


def test_one_beat_per_cycle() -> None:
    rng = np.random.default_rng(5)
    played = play(
        EpilogueEngine(EpilogueOptions(use_bias=True)), [random_sums(rng, 2, spread=False) for _ in range(100)]
    )
    assert played.enters == list(range(100))
    assert played.leaves[0] == epilogue_latency()
    assert played.cycles == 100 + epilogue_latency()


@pytest.mark.rtl
def test_rtl_against_model() -> None:
    counts = check_rtl(4, 150, (4, 2), seed=1)
    assert counts["cycles"] > 4_000
    assert counts["resets"] == 6


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("stages", [(4, 2), (1, 1), (6, 2), (3, 1)])
def test_rtl_against_model_long(stages: tuple[int, int]) -> None:
    assert check_rtl(16, 1_000, stages, seed=2)["beats_in"] * 16 > 200_000


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_lanes_out_of_range() -> None:
    with pytest.raises(ValueError, match="lanes is 0"):
        EpilogueRtl(0)


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        assert check_rtl(1, 40, (4, 2), seed=1)["resets"] == 6
