"""The store engine: Verilated RTL against its model cycle by cycle, what it writes against the tables."""

from __future__ import annotations

import pytest

from nmsat.dataflow.contract.config import SatConfig
from nmsat.hw.parts.verilog import emit
from nmsat.hw.store.beats import chunk_beats
from nmsat.hw.store.store import Store as StoreRtl
from nmsat.tb.run.runner import build, run


def check(rows: int, columns: int, count: int, seed: int) -> dict[str, int]:
    """Run random instructions; return the counts of the bench."""
    config = SatConfig(name="bench", rows=rows, columns=columns, sum_depth=256)
    built = build(emit(StoreRtl(config), "sat_store"), "sat_store")
    job = {"rows": rows, "columns": columns, "sum_depth": config.sum_depth, "count": count, "resets": count // 5}
    return run(built, "nmsat.tb.store.bench_store", job=job, seed=seed).check().saved


@pytest.mark.rtl
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5)])
def test_rtl_against_model(rows: int, columns: int) -> None:
    saved = check(rows, columns, 50, seed=1)
    assert saved["beats"] > 300
    assert saved["resets"] >= 3


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 8), (2, 16), (2, 32), (1, 1), (2, 31)])
def test_rtl_against_model_long(rows: int, columns: int) -> None:
    assert check(rows, columns, 300, seed=2)["beats"] > 1_500


@pytest.mark.parametrize(("columns", "beats"), [(1, 1), (4, 1), (16, 1), (32, 2), (5, 2), (31, 3)])
def test_beats_over_which_a_chunk_spreads(columns: int, beats: int) -> None:
    assert chunk_beats(columns) == beats
