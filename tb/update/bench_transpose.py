"""Bench of the transposer: RTL against sim.update.transpose, cycle by cycle. Job: lanes, jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.hw.update.transpose import Transposer as TransposerRtl
from nmsat.sim.update.transpose import TransposedRow, Transposer
from nmsat.tb.drive.lockstep import Job, OneStream, pack, run_jobs
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Iterator


def row_word(out: TransposedRow) -> tuple[int, int]:
    """Return the payload of an output beat and its mask: only values of present elements mean something."""
    word = pack([(out.value, 16), (out.present, 1), (0, 1)])
    everywhere = np.ones_like(out.present)
    return word, pack([(out.present * 0xFFFF, 16), (everywhere, 1), (1, 1)])


def random_rows(rng: np.random.Generator, lanes: int) -> list[TransposedRow]:
    """Return a pass of a few blocks of columns with any number of rows each."""
    rows = []
    blocks = int(rng.integers(1, 4))
    for block in range(blocks):
        count = int(rng.integers(1, 3 * lanes + 1))
        for place in range(count):
            last = place == count - 1
            value = rng.integers(0, 1 << 16, lanes, dtype=np.uint16)
            rows.append(TransposedRow(value, rng.random(lanes) < 0.8, last, last and block == blocks - 1))
    return rows


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[TransposedRow]]:
    """Yield passes with random gaps; every fourth ends in a reset."""
    for number in range(job["jobs"]):
        rows = random_rows(rng, job["lanes"])
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        words = [(row, pack([(row.value, 16), (row.present, 1), (row.last, 1), (row.end, 1)])) for row in rows]
        reset = int(rng.integers(1, len(rows) + 1)) if number % 4 == 3 else None
        yield Job(OneStream(Transposer(job["lanes"]), row_word), {}, words, gap, stall, reset_after=reset)


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Blocks of every height, random gaps and back-pressure, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    counts = await run_jobs(dut, jobs(job, rng), rng, TransposerRtl(job["lanes"]))
    save_result(**counts.as_dict())
