"""Bench of the pruning engine: RTL against sim.update.sore, bit by bit and cycle by cycle. Job: lanes, width,
scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.dataflow.contract.codes import codes
from nmsat.hw.update.sore import Sore as SoreRtl
from nmsat.sim.update.sore import GroupElements, Sore
from nmsat.tb.drive.lockstep import Job, OneStream, run_jobs
from nmsat.tb.run.jobs import load_job, save_result
from nmsat.tb.update.operands import elements_word, pairs_word, random_beats

if TYPE_CHECKING:
    from collections.abc import Iterator


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[GroupElements]]:
    """Yield one job per pattern in random order, with random gaps; every third ends in a reset."""
    lanes, width = job["lanes"], job["width"]
    patterns = [(n, m) for m in GROUP_SIZES for n in range(1, m + 1) if m >= width]
    for number, place in enumerate(rng.permutation(len(patterns)).tolist()):
        n, m = patterns[place]
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        beats = random_beats(rng, lanes, width, m, job["groups"])
        yield Job(
            OneStream(Sore(lanes, n, m, width), pairs_word),
            codes(n=n, m=m),
            [(beat, elements_word(beat)) for beat in beats],
            gap,
            stall,
            reset_after=int(rng.integers(2, len(beats))) if number % 3 == 2 else None,
        )


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Every N:M, random gaps and back-pressure, short groups, absent elements, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    counts = await run_jobs(dut, jobs(job, rng), rng, SoreRtl(job["lanes"], job["width"]))
    save_result(**counts.as_dict())
