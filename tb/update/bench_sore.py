"""Bench of the pruning engine: RTL against sim.update.sore, bit by bit and cycle by cycle. Job: lanes, width,
scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.sim.update.sore import Elements, Pairs, Sore
from nmsat.tb.drive.lockstep import Job, pack, run_jobs
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Bench:
    """`sim.update.sore.Sore` behind the interface of the lock-step driver."""

    def __init__(self, model: Sore) -> None:
        self._model = model

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        return self._model.idle

    def outputs(self) -> dict[str, int | None]:
        """Return the payload on stream `o`."""
        return {"o": None if self._model.output is None else pairs_word(self._model.output)}

    def signals(self) -> dict[str, int]:
        """Return the status ports."""
        return {"idle": int(self._model.idle)}

    def ready(self, taken: Mapping[str, bool]) -> bool:
        """Return `i.ready`."""
        return self._model.ready(taken["o"])

    def clock(self, beat: Elements | None, taken: Mapping[str, bool], pulses: Mapping[str, bool]) -> None:
        """Pass one clock edge."""
        del pulses  # the engine has no such input
        self._model.clock(beat, taken["o"])


def elements_word(beat: Elements) -> int:
    """Return the payload of an input beat."""
    return pack([(beat.value, 16), (beat.present, 1), (beat.last, 1)])


def pairs_word(beat: Pairs) -> int:
    """Return the payload of an output beat."""
    pairs = beat.value.astype(np.uint32) | beat.index.astype(np.uint32) << 16 | beat.filler.astype(np.uint32) << 20
    return pack([(pairs, 21), (beat.keep, 1), (beat.last, 1)])


def random_beats(rng: np.random.Generator, lanes: int, width: int, m: int, groups: int) -> list[Elements]:
    """Return groups of binary16 numbers: one group in four rich in ties, NaNs, zeros and infinities, some cut short."""
    beats = []
    special = np.array([0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x3C00, 0xBC00, 0x0001], np.uint16)
    for _ in range(groups):
        value = rng.integers(0, 1 << 16, (m, lanes), dtype=np.uint16)
        if rng.random() < 0.25:
            value = special[rng.integers(0, len(special), (m, lanes))]
        elif rng.random() < 0.25:
            value = (value & 0x8003).astype(np.uint16)
        length = int(rng.integers(1, m + 1)) if rng.random() < 0.2 else m
        beats += cut(value, rng.random((m, lanes)) > (rng.random() if rng.random() < 0.2 else 0), length, width)
    return beats


def cut(value: np.ndarray, present: np.ndarray, length: int, width: int) -> list[Elements]:
    """Return one group, [m, lanes], of which only the first `length` places exist, as beats."""
    present = present & (np.arange(len(present)) < length)[:, None]
    count = -(-length // width)
    return [
        Elements(
            value[b * width : (b + 1) * width].T,
            present[b * width : (b + 1) * width].T,
            last=b == count - 1 and (b + 1) * width < len(value),
        )
        for b in range(count)
    ]


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[Elements]]:
    """Yield one job per pattern in random order, with random gaps; every third ends in a reset."""
    lanes, width = job["lanes"], job["width"]
    patterns = [(n, m) for m in (2, 4, 8, 16) for n in range(1, m + 1) if m >= width]
    for number, place in enumerate(rng.permutation(len(patterns)).tolist()):
        n, m = patterns[place]
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        beats = random_beats(rng, lanes, width, m, job["groups"])
        yield Job(
            Bench(Sore(lanes, n, m, width)),
            {"n_less_1": n - 1, "log2_m_less_1": m.bit_length() - 2},
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
    counts = await run_jobs(dut, jobs(job, rng), rng)
    save_result(**counts.as_dict())
