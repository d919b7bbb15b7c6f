"""Bench of the weight-update engine: RTL against sim.update.wuve, bit by bit and cycle by cycle.

Job: lanes, beats (of a job), jobs, stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.algorithms.training.optim import SgdConstants
from nmsat.sim.update.wuve import Update, Updated, Wuve, latency
from nmsat.tb.drive.lockstep import Job, pack, run_jobs
from nmsat.tb.fp.f32_vectors import SIGN, SPECIAL, compose, significands
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray


class Bench:
    """`sim.update.wuve.Wuve` behind the interface of the lock-step driver."""

    def __init__(self, model: Wuve) -> None:
        self._model = model

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        return self._model.idle

    def outputs(self) -> dict[str, int | None]:
        """Return the payload on stream `o`."""
        return {"o": None if self._model.output is None else updated_word(self._model.output)}

    def signals(self) -> dict[str, int]:
        """Return the status ports."""
        return {"idle": int(self._model.idle), "overflow": int(self._model.overflow)}

    def ready(self, taken: Mapping[str, bool]) -> bool:
        """Return `i.ready`."""
        return self._model.ready(taken["o"])

    def clock(self, beat: Update | None, taken: Mapping[str, bool], pulses: Mapping[str, bool]) -> None:
        """Pass one clock edge."""
        self._model.clock(beat, taken["o"], pulses["clear"])


def update_word(beat: Update) -> int:
    """Return the payload of an input beat."""
    binary32 = [(beat.w.view(np.uint32), 32), (beat.v.view(np.uint32), 32)]
    flags = [(beat.kept, 1), (beat.present, 1), (beat.last, 1), (beat.end, 1)]
    return pack([*binary32, (beat.g.view(np.uint16), 16), *flags])


def updated_word(beat: Updated) -> int:
    """Return the payload of an output beat."""
    binary32 = [(beat.w.view(np.uint32), 32), (beat.v.view(np.uint32), 32)]
    return pack([*binary32, (beat.half.view(np.uint16), 16), (beat.present, 1), (beat.last, 1), (beat.end, 1)])


def random_floats(rng: np.random.Generator, count: int, spread: bool) -> NDArray[np.float32]:
    """Return binary32 numbers like weights, or (spread) of every magnitude with special ones among them."""
    if not spread:
        return rng.normal(0, 0.05, count).astype(np.float32)
    numbers = compose(rng.integers(0, 2, count), rng.integers(0, 255, count), significands(rng, count))
    special = SPECIAL[rng.integers(0, len(SPECIAL), count)] | (rng.integers(0, 2, count).astype(np.uint32) * SIGN)
    return np.where(rng.random(count) < 0.1, special, numbers).view(np.float32)


def random_beat(rng: np.random.Generator, lanes: int, spread: bool) -> Update:
    """Return one beat; gradients are any binary16 pattern if spread, else finite but for a rare infinity or NaN."""
    g = rng.integers(0, 1 << 16, lanes, dtype=np.uint16)
    if not spread:
        g = rng.normal(0, 8, lanes).astype(np.float16).view(np.uint16)
        rare = rng.random(lanes) < 0.005
        g[rare] = rng.choice(np.array([0x7C00, 0xFC00, 0x7E00, 0xFD55], np.uint16), int(rare.sum()))
    return Update(
        random_floats(rng, lanes, spread),
        random_floats(rng, lanes, spread),
        g.view(np.float16),
        rng.random(lanes) < 0.3,
        rng.random(lanes) < 0.9,
        bool(rng.random() < 0.1),
        bool(rng.random() < 0.1),
    )


def random_constants(rng: np.random.Generator, spread: bool) -> SgdConstants:
    """Return constants as training uses them, or (spread) of every magnitude, zeros and special ones among them."""
    if spread:
        lr, mu, wd, lam = random_floats(rng, 4, True).tolist()
    else:
        lr, mu, wd, lam = rng.uniform(0, 0.5), 0.9, float(rng.choice([0.0, 5e-4])), float(rng.choice([0.0, 2e-4]))
    return SgdConstants(lr, mu, wd, lam, int(rng.integers(0, 25)))


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[Update]]:
    """Yield jobs with random constants and gaps, every other one with operands of every magnitude."""
    engine: Wuve | None = None
    cycles = latency(*job["stages"])
    for number in range(job["jobs"]):
        spread = number % 2 == 1
        constants = random_constants(rng, spread)
        hold = bool(rng.random() < 0.2)
        before = engine is not None and engine.overflow
        engine = Wuve(constants, hold, cycles)
        engine.overflow = before
        bits = np.array([constants.lr, constants.momentum, constants.weight_decay, constants.decay], np.float32)
        names = dict(zip(("lr", "mu", "wd", "lam"), bits.view(np.uint32).tolist(), strict=True))
        beats = [random_beat(rng, job["lanes"], spread) for _ in range(job["beats"])]
        reset = int(rng.integers(2, len(beats))) if number % 4 == 3 else None
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        yield Job(
            Bench(engine),
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
    counts = await run_jobs(dut, jobs(job, rng), rng)
    save_result(**counts.as_dict())
