"""Bench of the weight-update engine: RTL against sim.update.wuve, bit by bit and cycle by cycle.

Job: lanes, beats (of a job), jobs, stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.hw.update.wuve import Wuve as WuveRtl
from nmsat.sim.update.wuve import UpdateBeat, Wuve, wuve_latency
from nmsat.tb.drive.lockstep import Job, OneStream, run_jobs
from nmsat.tb.run.jobs import load_job, save_result
from nmsat.tb.update.operands import random_constants, random_weights, update_word, updated_word

if TYPE_CHECKING:
    from collections.abc import Iterator


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[UpdateBeat]]:
    """Yield jobs with random constants and gaps, every other one with operands of every magnitude."""
    engine: Wuve | None = None
    cycles = wuve_latency(*job["stages"])
    for number in range(job["jobs"]):
        spread = number % 2 == 1
        constants = random_constants(rng, spread)
        hold = bool(rng.random() < 0.2)
        before = engine is not None and engine.overflow
        engine = Wuve(constants, hold, cycles)
        engine.overflow = before
        bits = np.array([constants.lr, constants.momentum, constants.weight_decay, constants.decay], np.float32)
        names = dict(zip(("lr", "mu", "wd", "lam"), bits.view(np.uint32).tolist(), strict=True))
        beats = [random_weights(rng, job["lanes"], spread, constants) for _ in range(job["beats"])]
        reset = int(rng.integers(2, len(beats))) if number % 4 == 3 else None
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        yield Job(
            OneStream(engine, updated_word, ("idle", "overflow")),
            {**names, "shift": constants.shift, "hold": int(hold)},
            [(beat, update_word(beat)) for beat in beats],
            gap,
            stall,
            {"clear": 0.02},
            reset,
        )
        if reset is not None:
            engine = None


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Random constants, operands of every magnitude, gaps, back-pressure, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    counts = await run_jobs(dut, jobs(job, rng), rng, WuveRtl(job["lanes"], *job["stages"]))
    save_result(**counts.as_dict())
