"""Bench of the transposer: RTL against sim.update.transpose, cycle by cycle. Job: lanes, jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.sim.update.transpose import Row, Transposer
from nmsat.tb.drive.lockstep import Job, pack, run_jobs
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Bench:
    """`sim.update.transpose.Transposer` behind the interface of the lock-step driver."""

    def __init__(self, model: Transposer) -> None:
        self._model = model

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        return self._model.idle

    def outputs(self) -> dict[str, tuple[int, int] | None]:
        """Return the payload on stream `o`; only values of present elements mean something."""
        out = self._model.output
        if out is None:
            return {"o": None}
        word = pack([(out.value, 16), (out.present, 1), (0, 1)])
        everywhere = np.ones_like(out.present)
        return {"o": (word, pack([(out.present * 0xFFFF, 16), (everywhere, 1), (1, 1)]))}

    def signals(self) -> dict[str, int]:
        """Return the status ports."""
        return {"idle": int(self._model.idle)}

    def ready(self, taken: Mapping[str, bool]) -> bool:
        """Return `i.ready`."""
        return self._model.ready(taken["o"])

    def clock(self, beat: Row | None, taken: Mapping[str, bool], pulses: Mapping[str, bool]) -> None:
        """Pass one clock edge."""
        del pulses  # the engine has no such input
        self._model.clock(beat, taken["o"])


def random_rows(rng: np.random.Generator, lanes: int) -> list[Row]:
    """Return a pass of a few blocks of columns with any number of rows each."""
    rows = []
    blocks = int(rng.integers(1, 4))
    for block in range(blocks):
        count = int(rng.integers(1, 3 * lanes + 1))
        for place in range(count):
            last = place == count - 1
            value = rng.integers(0, 1 << 16, lanes, dtype=np.uint16)
            rows.append(Row(value, rng.random(lanes) < 0.8, last, last and block == blocks - 1))
    return rows


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[Row]]:
    """Yield passes with random gaps; every fourth ends in a reset."""
    for number in range(job["jobs"]):
        rows = random_rows(rng, job["lanes"])
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        words = [(row, pack([(row.value, 16), (row.present, 1), (row.last, 1), (row.end, 1)])) for row in rows]
        reset = int(rng.integers(1, len(rows) + 1)) if number % 4 == 3 else None
        yield Job(Bench(Transposer(job["lanes"])), {}, words, gap, stall, reset_after=reset)


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Blocks of every height, random gaps and back-pressure, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    counts = await run_jobs(dut, jobs(job, rng), rng)
    save_result(**counts.as_dict())
