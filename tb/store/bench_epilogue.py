"""Bench of the epilogue: RTL against sim.store.epilogue, bit by bit and cycle by cycle.

Job: lanes, beats (of a job), stages.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.sim.store.epilogue import Epilogue, Results, Sums, Switches, latency
from nmsat.tb.drive.lockstep import Job, pack, run_jobs
from nmsat.tb.run.jobs import load_job, save_result
from nmsat.tb.update.bench_wuve import random_floats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Bench:
    """`sim.store.epilogue.Epilogue` behind the interface of the lock-step driver."""

    def __init__(self, model: Epilogue) -> None:
        self._model = model

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        return self._model.idle

    def outputs(self) -> dict[str, int | None]:
        """Return the payload on stream `o`."""
        return {"o": None if self._model.output is None else results_word(self._model.output)}

    def signals(self) -> dict[str, int]:
        """Return the status ports."""
        return {"idle": int(self._model.idle), "special": int(self._model.special)}

    def ready(self, taken: Mapping[str, bool]) -> bool:
        """Return `i.ready`."""
        return self._model.ready(taken["o"])

    def clock(self, beat: Sums | None, taken: Mapping[str, bool], pulses: Mapping[str, bool]) -> None:
        """Pass one clock edge."""
        self._model.clock(beat, taken["o"], pulses["clear"])


def sums_word(beat: Sums) -> int:
    """Return the payload of an input beat."""
    binary32 = [(values.view(np.uint32), 32) for values in (beat.x, beat.bias, beat.tile)]
    return pack([*binary32, (beat.mask, 1), (beat.present, 1)])


def results_word(beat: Results) -> int:
    """Return the payload of an output beat."""
    bits = beat.y.view(np.uint16 if beat.y.dtype == np.float16 else np.uint32)
    return pack([(bits, 32), (beat.mask, 1), (beat.present, 1)])


def random_beat(rng: np.random.Generator, lanes: int, spread: bool) -> Sums:
    """Return one beat of moderate numbers or (spread) numbers of every magnitude, special ones among them."""
    x, bias, tile = (random_floats(rng, lanes, spread) for _ in range(3))
    if not spread:
        x = np.ldexp(x, 4 * rng.integers(-5, 6, lanes)).astype(np.float32)
    return Sums(x, bias, tile, rng.random(lanes) < 0.5, rng.random(lanes) < 0.9)


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[Sums]]:
    """Yield one job for every setting of the switches, in random order, with random gaps; every fifth one is reset."""
    engine: Epilogue | None = None
    for number, code in enumerate(rng.permutation(32).tolist()):
        spread = bool(rng.random() < 0.5)
        switches = Switches(*(bool(code >> bit & 1) for bit in range(5)))
        before = engine is not None and engine.special
        engine = Epilogue(switches, latency(*job["stages"]))
        engine.special = before
        beats = [random_beat(rng, job["lanes"], spread) for _ in range(job["beats"])]
        reset = int(rng.integers(2, len(beats))) if number % 5 == 4 else None
        gap, stall = (float(rng.choice([0.0, 0.1, 0.5])) for _ in range(2))
        settings = {name: int(value) for name, value in dataclasses.asdict(switches).items()}
        words = [(beat, sums_word(beat)) for beat in beats]
        yield Job(Bench(engine), settings, words, gap, stall, {"clear": 0.02}, reset)
        if reset is not None:
            engine = None


@cocotb.test()
async def against_model(dut: Any) -> None:
    """All switches, operands of every magnitude, gaps, back-pressure, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    counts = await run_jobs(dut, jobs(job, rng), rng)
    save_result(**counts.as_dict())
