"""Drives a stream engine and its model side by side and compares every handshake and every beat, cycle by cycle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from nmsat.tb.drive.decoded import difference, layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from amaranth.lib import data, wiring


Beat = TypeVar("Beat")
Beat_contra = TypeVar("Beat_contra", contravariant=True)


class Model(Protocol[Beat_contra]):
    """A model of an engine with one input stream `i` and any number of output streams, between two clock edges."""

    def outputs(self) -> Mapping[str, int | tuple[int, int] | None]:
        """Return for each output stream the payload that stands there, None when it is not valid.

        A pair is a payload and the mask of its bits that mean something.
        """
        ...

    def signals(self) -> Mapping[str, int]:
        """Return other output ports and their values in this cycle."""
        ...

    def ready(self, taken: Mapping[str, bool]) -> bool:
        """Return `i.ready`; taken: the ready signals of the output streams."""
        ...

    def clock(self, beat: Beat_contra | None, taken: Mapping[str, bool], pulses: Mapping[str, bool]) -> None:
        """Pass one clock edge; beat: what `i` transfers, if anything; pulses: single-bit inputs that change at will."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        ...


class PulsedEngine(Protocol):
    """An engine as `sim.parts.stream.StreamEngine`, whose `clock` may take inputs of one bit behind beat and taken."""

    @property
    def output(self) -> Any: ...
    @property
    def idle(self) -> bool: ...
    @property
    def clock(self) -> Callable[..., None]: ...
    def ready(self, taken: bool) -> bool: ...


class OneStream(Generic[Beat]):
    """An engine with output stream `o` behind the interface of the driver.

    word: payload of what stands on the output (a pair: with the mask of its bits that mean something); flags: output
    ports that the model has under the same name. Pulses go to the model's `clock` in the order of the job.
    """

    def __init__(
        self,
        engine: PulsedEngine,
        word: Callable[[Any], int | tuple[int, int]],
        flags: Sequence[str] = ("idle",),
    ) -> None:
        self._engine = engine
        self._word = word
        self._flags = flags

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        return self._engine.idle

    def outputs(self) -> dict[str, int | tuple[int, int] | None]:
        """Return the payload on stream `o`."""
        out = self._engine.output
        return {"o": None if out is None else self._word(out)}

    def signals(self) -> dict[str, int]:
        """Return the status ports."""
        return {name: int(getattr(self._engine, name)) for name in self._flags}

    def ready(self, taken: Mapping[str, bool]) -> bool:
        """Return `i.ready`."""
        return self._engine.ready(taken["o"])

    def clock(self, beat: Beat | None, taken: Mapping[str, bool], pulses: Mapping[str, bool]) -> None:
        """Pass one clock edge."""
        self._engine.clock(beat, taken["o"], *pulses.values())


@dataclass
class Job(Generic[Beat]):
    """One run through the engine.

    model: fresh; settings: input ports and their values; beats: (what the model takes, its bits); gap, stall:
    probability that the source has nothing, that a sink is not ready, in a cycle; pulses: single-bit inputs and the
    probability that they are set; reset_after: cycles after which a reset cuts the job short.
    """

    model: Model[Beat]
    settings: Mapping[str, int]
    beats: Sequence[tuple[Beat, int]]
    gap: float = 0.0
    stall: float = 0.0
    pulses: Mapping[str, float] = field(default_factory=dict)
    reset_after: int | None = None


@dataclass
class Counts:
    """What a bench saw: cycles compared, beats in, beats out by stream, resets in mid-operation."""

    cycles: int = 0
    beats_in: int = 0
    beats_out: dict[str, int] = field(default_factory=dict)
    resets: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {"cycles": self.cycles, "beats_in": self.beats_in, "beats_out": self.beats_out, "resets": self.resets}


def pack(fields: Iterable[tuple[Any, int]]) -> int:
    """Return a word of (array or number, width of an element) fields; the first element of the first is at bit 0."""
    word, at = 0, 0
    for values, width in fields:
        for value in np.ravel(values).tolist():
            word |= int(value) << at
            at += width
    return word


async def start(dut: Any) -> None:
    """Start the clock and leave reset."""
    Clock(dut.clk, 10, "ns").start()
    dut.i__valid.value = 0
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    dut.rst.value = 0


async def run_jobs(
    dut: Any, jobs: Iterable[Job[Any]], rng: np.random.Generator, component: wiring.Component | None = None
) -> Counts:
    """Run jobs one after the other, without reset in between unless a job asks for it.

    component: what the RTL was made of, so that a difference is told by field. Raises AssertionError with cycle, port
    and both values at the first difference.
    """
    shapes = layouts(component) if component is not None else {}
    counts = Counts()
    await start(dut)
    for job in jobs:
        for name, value in job.settings.items():
            getattr(dut, name).value = value
        await _run(dut, job, rng, counts, shapes)
        if job.reset_after is not None:
            dut.i__valid.value = 0
            dut.rst.value = 1
            await RisingEdge(dut.clk)
            dut.rst.value = 0
            counts.resets += 1
    return counts


async def _run(
    dut: Any, job: Job[Any], rng: np.random.Generator, counts: Counts, shapes: Mapping[str, data.Layout]
) -> None:
    model = job.model
    waiting = deque(job.beats)
    streams = list(model.outputs())
    offered = False
    cycle = 0
    while waiting or not model.idle:
        if job.reset_after is not None and cycle >= job.reset_after:
            return
        draws = rng.random(1 + len(streams))
        offered = (offered or draws[0] >= job.gap) and bool(waiting)
        taken = {name: bool(draw >= job.stall) for name, draw in zip(streams, draws[1:], strict=True)}
        dut.i__valid.value = int(offered)
        if offered:
            dut.i__payload.value = waiting[0][1]
        for name, value in taken.items():
            getattr(dut, f"{name}__ready").value = int(value)
        pulses = {name: bool(rng.random() < chance) for name, chance in job.pulses.items()}
        for name, value in pulses.items():
            getattr(dut, name).value = int(value)
        await ReadOnly()
        _compare(dut, model, model.ready(taken), counts, shapes)
        beat = waiting[0][0] if offered and model.ready(taken) else None
        for name, payload in model.outputs().items():
            if payload is not None and taken[name]:
                counts.beats_out[name] = counts.beats_out.get(name, 0) + 1
        model.clock(beat, taken, pulses)
        if beat is not None:
            waiting.popleft()
            offered = False
            counts.beats_in += 1
        await RisingEdge(dut.clk)
        cycle += 1
        counts.cycles += 1
    if job.reset_after is not None:
        raise AssertionError(f"the job ended after {cycle} cycles, before its reset after {job.reset_after}")


def _compare(dut: Any, model: Model[Any], ready: bool, counts: Counts, shapes: Mapping[str, data.Layout]) -> None:
    expected: dict[str, int | tuple[int, int]] = {"i__ready": int(ready), **model.signals()}
    for name, payload in model.outputs().items():
        expected[f"{name}__valid"] = int(payload is not None)
        if payload is not None:
            expected[f"{name}__payload"] = payload
    for name, wanted in expected.items():
        value, mask = wanted if isinstance(wanted, tuple) else (wanted, -1)
        got = int(getattr(dut, name).value)
        if (got ^ value) & mask:
            raise AssertionError(f"cycle {counts.cycles}: {name} {difference(shapes.get(name), got, value, mask)}")
