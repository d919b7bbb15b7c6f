"""Bench of the epilogue: RTL against sim.store.epilogue, bit by bit and cycle by cycle.

Job: lanes, beats (of a job), stages.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.hw.store.epilogue import EpilogueEngine as EpilogueRtl
from nmsat.sim.store.epilogue import EpilogueEngine, EpilogueOptions, Sums, epilogue_latency
from nmsat.tb.drive.lockstep import Job, OneStream, run_jobs
from nmsat.tb.run.jobs import load_job, save_result
from nmsat.tb.store.operands import random_sums, results_word, sums_word

if TYPE_CHECKING:
    from collections.abc import Iterator


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[Sums]]:
    """Yield one job for every setting of the options, in random order, with random gaps; every fifth one is reset."""
    engine: EpilogueEngine | None = None
    for number, code in enumerate(rng.permutation(32).tolist()):
        spread = bool(rng.random() < 0.5)
        options = EpilogueOptions(*(bool(code >> bit & 1) for bit in range(5)))
        before = engine is not None and engine.special
        engine = EpilogueEngine(options, epilogue_latency(*job["stages"]))
        engine.special = before
        beats = [random_sums(rng, job["lanes"], spread) for _ in range(job["beats"])]
        reset = int(rng.integers(2, len(beats))) if number % 5 == 4 else None
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        settings = {name: int(value) for name, value in dataclasses.asdict(options).items()}
        words = [(beat, sums_word(beat)) for beat in beats]
        yield Job(
            OneStream(engine, results_word, ("idle", "special")), settings, words, gap, stall, {"clear": 0.02}, reset
        )
        if reset is not None:
            engine = None


@cocotb.test()
async def against_model(dut: Any) -> None:
    """All options, operands of every magnitude, gaps, back-pressure, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    counts = await run_jobs(dut, jobs(job, rng), rng, EpilogueRtl(job["lanes"], *job["stages"]))
    save_result(**counts.as_dict())
