"""The loader: its RTL against its model and the tables of docs/machine.md."""

from __future__ import annotations

import gc

import pytest

from nmsat.dataflow.contract.config import SatConfig
from nmsat.hw.load.loader import Loader
from nmsat.hw.parts.verilog import emit
from nmsat.tb.load.jobs import as_dict
from nmsat.tb.run.runner import build, run


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
    counts = check_rtl(sized(rows, columns, lanes), 40, seed=1)
    assert counts["done"] >= 40
    assert counts["resets"] >= 2
    assert counts["beats"] > 300


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize(
    ("rows", "columns", "lanes"), [(8, 8, 1), (4, 4, 2), (32, 32, 2), (1, 16, 1), (16, 2, 2), (2, 1, 1), (32, 32, 1)]
)
def test_rtl_against_model_long(rows: int, columns: int, lanes: int) -> None:
    assert check_rtl(sized(rows, columns, lanes), 600, seed=2)["done"] >= 600


@pytest.mark.parametrize(("rows", "columns", "wrong"), [(6, 4, "rows is 6"), (4, 64, "columns is 64")])
@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_array_that_no_beat_fits(rows: int, columns: int, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Loader(sized(rows, columns, 1))
    gc.collect()  # Amaranth warns of the unused object while this test ignores it
