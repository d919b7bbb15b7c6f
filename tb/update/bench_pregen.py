"""Bench of pre-generation: RTL against sim.update.pregen, bit by bit and cycle by cycle. Job: lanes, jobs, largest k
and n."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np

from nmsat.algorithms.training.optim import SgdConstants
from nmsat.dataflow.contract.codes import codes
from nmsat.hw.update.pregen import Pregen as PregenRtl
from nmsat.sim.update.pregen import Pregen, PregenSettings, matrix_beats
from nmsat.tb.drive.lockstep import Job, run_jobs
from nmsat.tb.run.jobs import load_job, save_result
from nmsat.tb.update.operands import pairs_word, random_matrix, random_pattern, update_word, updated_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nmsat.sim.update.wuve import UpdateBeat


class ThreeStreams:
    """`sim.update.pregen.Pregen` behind the interface of the lock-step driver."""

    def __init__(self, model: Pregen) -> None:
        self._model = model

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        return self._model.idle

    def outputs(self) -> dict[str, int | None]:
        """Return the payloads on the three output streams."""
        state, ff, bp = self._model.outputs()
        return {
            "state": None if state is None else updated_word(state),
            "ff": None if ff is None else pairs_word(ff),
            "bp": None if bp is None else pairs_word(bp),
        }

    def signals(self) -> dict[str, int]:
        """Return the status ports."""
        return {"idle": int(self._model.idle), "overflow": int(self._model.update.overflow)}

    def ready(self, taken: Mapping[str, bool]) -> bool:
        """Return `i.ready`."""
        del taken  # a queue stands between the input and the outputs
        return self._model.ready()

    def clock(self, beat: UpdateBeat | None, taken: Mapping[str, bool], pulses: Mapping[str, bool]) -> None:
        """Pass one clock edge."""
        self._model.clock(beat, taken, pulses["clear"])


def settings_ports(settings: PregenSettings) -> dict[str, int]:
    """Return the input ports of `hw.update.pregen.Pregen` for the settings."""
    c = settings.constants
    bits = np.array([c.lr, c.momentum, c.weight_decay, c.decay], np.float32).view(np.uint32)
    ports = dict(zip(("lr", "mu", "wd", "lam"), bits.tolist(), strict=True))
    ports |= {"shift": c.shift, "hold": int(settings.hold)}
    for name, pattern in (("ff", settings.ff), ("bp", settings.bp)):
        n, m = (pattern.n, pattern.m) if pattern else (1, 2)
        ports |= codes(n=n, m=m, prefix=f"{name}_")
        ports[f"{name}_use"] = int(pattern is not None)
    return ports


def jobs(job: dict[str, Any], rng: np.random.Generator) -> Iterator[Job[UpdateBeat]]:
    """Yield passes over matrices of random shape and patterns with random gaps; every fifth ends in a reset."""
    lanes = job["lanes"]
    for number in range(job["jobs"]):
        constants = SgdConstants(float(rng.uniform(0, 0.5)), 0.9, 5e-4, 2e-4, int(rng.integers(0, 25)))
        settings = PregenSettings(
            constants=constants,
            ff=random_pattern(rng, 16),
            bp=random_pattern(rng, lanes),
            hold=bool(rng.random() < 0.1),
        )
        k, n = int(rng.integers(1, job["k"] + 1)), int(rng.integers(1, job["n"] + 1))
        beats = [(beat, update_word(beat)) for beat in matrix_beats(*random_matrix(rng, k, n), lanes)]
        gap, stall = (float(rng.choice([0.0, 0.0, 0.1, 0.5])) for _ in range(2))
        reset = int(rng.integers(1, len(beats) + 1)) if number % 5 == 4 else None
        yield Job(
            ThreeStreams(Pregen(lanes, settings)), settings_ports(settings), beats, gap, stall, {"clear": 0.02}, reset
        )


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Matrices of any shape, all patterns, random gaps and back-pressure on each stream, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    counts = await run_jobs(dut, jobs(job, rng), rng, PregenRtl(job["lanes"]))
    save_result(**counts.as_dict())
