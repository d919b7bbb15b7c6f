"""A record of a demonstration that no run made, for the tests of pages and pictures."""

from __future__ import annotations

import dataclasses

from nmsat.dataflow.contract.config import preset
from nmsat.reports.work.records import Check, DemoRecord, ProductRun, Span, Timeline, TrainingRun, Zoom


def product(layer: str, stage: str, cycles: int, cycles_dense: int) -> ProductRun:
    """Return a run of 64 x 64 x 64 on 16 elements, 2:8 unless it is a weight gradient."""
    kept = 64**3 if stage == "wu" else 64**3 // 4
    pattern = "dense" if stage == "wu" else "2:8"
    return ProductRun(layer, stage, 64, 64, 64, pattern, 16, kept, cycles, cycles_dense, {"fill": 10, "drain": 30})


def made_up(difference: str | None = None) -> DemoRecord:
    """Return a record of two layers."""
    products = (
        product("conv<1>", "ff", 4200, 16500),
        product("fc", "ff", 4300, 16500),
        product("fc", "wu", 16500, 16500),
        product("fc", "bp", 4100, 16500),
        product("conv<1>", "wu", 16500, 16500),
    )
    runs = (
        TrainingRun("dense", tuple(2.0 / (i + 1) for i in range(60)), (0.5, 0.9), 1.0),
        TrainingRun("BDWP 2:8", tuple(2.2 / (i + 1) for i in range(60)), (0.4, 0.875), 1.5),
    )
    timeline = Timeline("dense", (0, 16, 4000, 4200), (0.0, 0.99, 0.0), (Span("conv<1>", "ff", 0, 4200),))
    check = Check("fc", "ff", 8, 64, 8, "2:8", False, 300, 300, 64, None)
    checks = (check, dataclasses.replace(check, stage="bp", difference=difference))
    zoom = Zoom("fc", "ff", 8, 64, 8, "2:8", 16, (0, 4, 16, 16, 4, 0))
    return DemoRecord(
        preset("tiny"),
        "2:8",
        7,
        runs,
        products,
        (timeline,),
        zoom,
        checks,
        {"numpy": "2.0"},
        {"training": 2.5},
        "nmsat demo --seed 7",
    )
