"""The loader: its RTL against its model and the tables of docs/machine/load.md."""

from __future__ import annotations

import gc
from collections import deque

import pytest

from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Instruction, Opcode
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.hw.load.loader import Loader
from nmsat.hw.parts.verilog import emit
from nmsat.sim.load.loader import Loader as LoaderModel
from nmsat.sim.memory.channel import Channel
from nmsat.tb.load.jobs import as_dict
from nmsat.tb.run.runner import build, run
from tests.benches import in_amaranth


def sized(rows: int, columns: int, lanes: int) -> SatConfig:
    return SatConfig(
        name="bench", rows=rows, columns=columns, act_lanes=lanes, act_depth=512, weight_depth=512, stage_depth=64
    )


def check_rtl(config: SatConfig, count: int, seed: int) -> dict[str, int]:
    built = build(emit(Loader(config), "sat_loader"), "sat_loader")
    return (
        run(built, "nmsat.tb.load.bench_loader", job={"config": as_dict(config), "count": count}, seed=seed)
        .check()
        .saved
    )


@pytest.mark.rtl
@pytest.mark.parametrize(("rows", "columns", "lanes"), [(8, 4, 1), (4, 32, 2)])
def test_rtl_against_model(rows: int, columns: int, lanes: int) -> None:
    counts = check_rtl(sized(rows, columns, lanes), 120, seed=1)
    assert counts["done"] >= 120
    assert counts["resets"] >= 2
    assert counts["beats"] > 300
    assert counts["wraps"] >= 3


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize(
    ("rows", "columns", "lanes"), [(8, 8, 1), (4, 4, 2), (32, 32, 2), (1, 16, 1), (16, 2, 2), (2, 1, 1), (32, 32, 1)]
)
def test_rtl_against_model_long(rows: int, columns: int, lanes: int) -> None:
    assert check_rtl(sized(rows, columns, lanes), 600, seed=2)["done"] >= 600


def done_cycles(loads: list[Instruction]) -> list[int]:
    """Return when each is done on `vcu1525`, before its memory."""
    config = preset("vcu1525")
    loader, channel = LoaderModel(config), Channel(memory_timing(config))
    waiting, done = deque(loads), list[int]()
    cycle, beat = 0, None
    while waiting or loader.busy:
        burst = loader.request
        if burst is not None:
            channel.request(burst.beats)
        start = waiting.popleft() if waiting and loader.ready else None
        loader.tick(start, granted=burst is not None, arrives=beat is not None)
        beat = channel.tick()
        cycle += 1
        if loader.done:
            done.append(cycle)
    return done


def test_the_lines_of_the_next_tile_come_beside_the_loads_of_the_present_one() -> None:
    stage = Instruction(Opcode.STAGE, {"outer": 128, "inner": 2, "outer_step": 2, "region": 1})
    walk = {"log2_m_less_1": 2, "log2_a": 2, "rows": 128, "k": 64, "staged": 1, "x_step": 2}
    waits, beside = (Instruction(Opcode.LOAD_ACT, {**walk, "beside": bit}) for bit in (0, 1))
    after, along = done_cycles([stage, *[waits] * 9] * 3), done_cycles([stage, *[stage, *[beside] * 9] * 3])
    assert len(along) == len(after) + 1
    assert after[19] - after[9] > 9 * 128 + 256
    assert along[30] - along[20] < 9 * 128 + 9 * 3 + 8
    assert along == sorted(set(along))


@pytest.mark.parametrize(("rows", "columns", "wrong"), [(6, 4, "rows is 6"), (4, 64, "columns is 64")])
@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_array_that_no_beat_fits(rows: int, columns: int, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Loader(sized(rows, columns, 1))
    gc.collect()  # Amaranth warns of the unused object while this test ignores it


@pytest.mark.long
@pytest.mark.parametrize("lanes", [1, 2])
def test_in_amaranths_simulator(lanes: int) -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        counts = check_rtl(sized(4, 4, lanes), 80, seed=1)
    assert counts["beats"] > 100
    assert counts["wraps"] >= 1
