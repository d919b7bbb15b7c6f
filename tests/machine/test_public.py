"""Programs three ways: the circuit behind parts of others, the simulator, the oracle; memory and flags are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import Status
from nmsat.hw.release.register_map import python_module
from nmsat.reports.work.verify import build_machine
from nmsat.sim.sat import Sat, launch
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.run.runner import run
from tests.machine.oracle import Oracle

TINY = preset("tiny")

SEEDS = (107, 118, 627)
"""Random programs; results of 107 and 627 are infinite or NaN, watched, and hold the UPDATE behind them."""

HELD = (107, 627)


@pytest.mark.rtl
def test_programs_three_ways() -> None:
    """The host has the register map that a release brings, and nothing else; regions lie anywhere in 62 bits."""
    rng = np.random.default_rng(1)
    job: dict[str, Any] = {"registers": python_module(1), "count": len(SEEDS)}
    for number, seed in enumerate(SEEDS):
        drawn = random_job(TINY, seed)
        assert len(drawn.image.regions) <= 4
        pages = np.sort(rng.choice(1 << 18, len(drawn.image.regions), replace=False)).astype(np.uint64)
        job[f"base_{number}"] = (pages << np.uint64(44)) + (
            rng.integers(1 << 20, size=len(pages), dtype=np.uint64) << np.uint64(12)
        )
        job[f"writable_{number}"] = np.arange(len(pages)) > 0
        place = drawn.place
        job[f"program_{number}"] = np.array([place.region, place.at, place.beats])
        for region, content in enumerate(drawn.image.regions):
            job[f"memory_{number}_{region}"] = content
    saved = run(build_machine(TINY), "nmsat.tb.machine.bench_public", ["programs"], job=job).check().saved
    for number, seed in enumerate(SEEDS):
        drawn, mine = random_job(TINY, seed), random_job(TINY, seed)
        oracle = Oracle(
            TINY.rows,
            TINY.columns,
            TINY.act_lanes,
            TINY.stage_depth,
            [bytearray(region.tobytes()) for region in mine.image.regions],
        )
        for instruction in mine.code.instructions:
            oracle.run(instruction.opcode.name, instruction.values())
        report = Sat(TINY).run(launch(drawn.image.regions, drawn.place), drawn.image.regions)
        status = Status.IDLE | Status.DONE | Status.SPECIAL * oracle.special | Status.OVERFLOW * oracle.overflow
        assert saved[f"status_{number}"].tolist() == [status, ErrorCode.NONE, 0], seed
        assert (report.special, report.overflow) == (oracle.special, oracle.overflow)
        assert oracle.special or seed not in HELD
        for region, content in enumerate(oracle.regions):
            found = saved[f"memory_{number}_{region}"]
            assert bytes(content[:]) == found.tobytes() == drawn.image.regions[region].tobytes(), (seed, region)
