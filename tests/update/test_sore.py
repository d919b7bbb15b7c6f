"""The pruning engine: its model against algorithms.core.nm, its RTL against the model."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core import nm
from nmsat.hw.parts.verilog import emit
from nmsat.hw.update.sore import Sore as SoreRtl
from nmsat.sim.update.sore import GroupElements, Sore, prune_cycles, prune_groups
from nmsat.tb.run.runner import build, run
from nmsat.tb.update.operands import random_beats
from tests.benches import in_amaranth
from tests.streams import play

PATTERNS = [(n, m) for m in (2, 4, 8, 16) for n in range(1, m + 1)]


def full_beats(value: np.ndarray, width: int) -> list[GroupElements]:
    """Return uint16[k, lanes] as beats with all elements present."""
    return [
        GroupElements(value[k : k + width].T, np.ones((value.shape[1], width), np.bool_))
        for k in range(0, len(value), width)
    ]


def check_rtl(lanes: int, width: int, groups: int, seed: int) -> dict[str, int]:
    built = build(emit(SoreRtl(lanes, width), "sat_sore"), "sat_sore")
    job = {"lanes": lanes, "width": width, "groups": groups}
    return run(built, "nmsat.tb.update.bench_sore", job=job, seed=seed).check().saved


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_values_are_those_of_the_algorithm(n: int, m: int) -> None:
    rng = np.random.default_rng(n * 100 + m)
    value = rng.integers(0, 1 << 16, (16 * m, 5), dtype=np.uint16)
    value[: 8 * m] &= 0x8007
    packed = nm.pack(value.view(np.float16), n, m)
    pruned = prune_groups(value.reshape(16, m, 5), np.ones((16, m, 5), np.bool_), n)
    assert np.array_equal(pruned.value, packed.values.view(np.uint16))
    assert np.array_equal(pruned.index, packed.index)
    assert np.array_equal(pruned.filler, packed.filler)
    assert np.array_equal(pruned.keep.reshape(-1, 5), nm.mask(value.view(np.float16), n, m))


@pytest.mark.parametrize(("n", "m"), [(2, 8), (3, 4), (16, 16), (1, 2), (5, 16)])
def test_short_group_is_that_of_a_padded_axis(n: int, m: int) -> None:
    for k in range(1, m):
        value = np.random.default_rng(k).integers(0, 1 << 16, (k, 3), dtype=np.uint16)
        packed = nm.pack(value.view(np.float16), n, m)
        beats = full_beats(value, 1)
        beats[-1] = GroupElements(beats[-1].value, beats[-1].present, last=True)
        outputs = play(Sore(3, n, m), beats).outputs
        assert np.array_equal(np.concatenate([o.value.T for o in outputs]), packed.values[0].view(np.uint16))
        assert np.array_equal(np.concatenate([o.index.T for o in outputs]), packed.index[0])
        assert np.array_equal(np.concatenate([o.filler.T for o in outputs]), packed.filler[0])


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_full_throughput(n: int, m: int, width: int) -> None:
    value = np.random.default_rng(m).integers(0, 1 << 16, (12 * m, 2), dtype=np.uint16)
    played = play(Sore(2, n, m, width), full_beats(value, width))
    assert played.enters == list(range(12 * m // width))
    assert played.cycles == prune_cycles(12, n, m, width)
    assert len(played.outputs) == 12 * -(-n // width)


def test_gaps_change_cycles_but_no_pair() -> None:
    rng = np.random.default_rng(8)
    beats = random_beats(rng, 4, 1, 8, 40)
    straight = play(Sore(4, 3, 8), beats)
    gaps = play(Sore(4, 3, 8), beats, rng.random(900) > 0.5, rng.random(900) > 0.6)
    assert gaps.cycles > straight.cycles
    for field in ("value", "index", "filler", "keep", "last"):
        left, right = ([getattr(o, field) for o in p.outputs] for p in (straight, gaps))
        assert np.array_equal(left, right)


def test_group_without_elements_leaves_nothing() -> None:
    absent = GroupElements(np.ones((2, 1), np.uint16), np.zeros((2, 1), np.bool_))
    assert play(Sore(2, 1, 2), [absent] * 4).outputs == []


@pytest.mark.rtl
@pytest.mark.parametrize(("lanes", "width"), [(3, 1), (2, 2)])
def test_rtl_against_model(lanes: int, width: int) -> None:
    counts = check_rtl(lanes, width, 24, seed=1)
    assert counts["cycles"] > 4_000
    assert counts["resets"] >= 9


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize(("lanes", "width"), [(32, 1), (1, 1), (16, 2)])
def test_rtl_against_model_long(lanes: int, width: int) -> None:
    assert check_rtl(lanes, width, 400, seed=2)["cycles"] > 60_000


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_parameters_out_of_range() -> None:
    with pytest.raises(ValueError, match="lanes is 0"):
        SoreRtl(0)
    with pytest.raises(ValueError, match="width is 3"):
        SoreRtl(4, 3)


@pytest.mark.long
@pytest.mark.parametrize("width", [1, 2])
def test_in_amaranths_simulator(width: int) -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        assert check_rtl(1, width, 12, seed=1)["cycles"] > 2_000
