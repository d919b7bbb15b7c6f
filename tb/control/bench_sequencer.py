"""Bench of the sequencer: RTL against sim.control.sequencer in every cycle, engines and memory played at random.

Job: config (fields of `SatConfig`), runs (programs).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import cocotb
import numpy as np
from cocotb.triggers import Timer

from nmsat.dataflow.contract.config import SatConfig
from nmsat.dataflow.contract.isa import (
    INSTRUCTION_BITS,
    INSTRUCTIONS,
    QUEUE_OF,
    SEMAPHORES,
    ErrorCode,
    Instruction,
    Opcode,
    Queue,
)
from nmsat.dataflow.contract.limits import READERS, WRITERS
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.sim.control.fetch import Words
from nmsat.sim.control.sequencer import Sequencer
from nmsat.tb.drive.decoded import difference, instruction_difference
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT: Final = 20_000
"""Cycles within which a program of this bench ends."""

HOLDS: Final = (20, 5, 2, 1)
"""Instructions that an engine takes, by queue: the loads more than may be under way."""
"""Most instructions that each played engine holds, in order of `Queue`."""

_READ_ERRORS: Final = (ErrorCode.READ, ErrorCode.REGION, ErrorCode.TIMEOUT)
_WRITE_ERRORS: Final = (ErrorCode.WRITE, ErrorCode.REGION, ErrorCode.TIMEOUT)
"""What a port of memory may say."""

_LEGAL: Final[dict[Opcode, dict[str, int]]] = {
    Opcode.LOAD_ACT: {"rows": 4, "k": 8},
    Opcode.LOAD_WGT: {"blocks": 1, "outer": 1, "inner": 2},
    Opcode.STAGE: {"outer": 1, "inner": 2},
    Opcode.COMPUTE: {"windows": 2},
    Opcode.STORE: {"rows": 2, "columns": 3},
    Opcode.UPDATE: {"k": 3, "n": 5},
}
"""Fields that make a legal instruction on any machine, for each opcode of an engine; all others are 0."""


def random_program(rng: np.random.Generator, *, hoard: bool) -> list[int]:
    """Return the words of a program: semaphores now and then as in real programs, now and then at random.

    hoard: two queues raise one semaphore until it overflows.
    """
    count = int(rng.integers(1, 60))
    wild, wrong = float(rng.choice([0, 0, 0.1, 0.5])), float(rng.choice([0, 0, 0.05]))
    waits: list[int] = []
    words = []
    for number in range(600 if hoard else count):
        opcode = list(QUEUE_OF)[int(rng.integers(len(QUEUE_OF)))]
        wait = signal = 0
        if rng.random() < 0.4:
            signal = 1 << int(rng.integers(SEMAPHORES))
            waits.append(signal)
        if waits and rng.random() < 0.5:
            wait = waits.pop(int(rng.integers(len(waits))))
            wait = 0 if wait == signal else wait
        if rng.random() < wild:
            wait, signal = (int(rng.integers(1 << 16)) & int(rng.integers(1 << 16)) for _ in range(2))
        if hoard:
            opcode, wait, signal = (Opcode.UPDATE, Opcode.STORE)[number % 2], 0, 1 << 3
        word = Instruction(opcode, {**_LEGAL[opcode], "wait": wait, "signal": signal}).encode()
        if rng.random() < wrong:
            # a quarter in the opcode, which is 4 bits of 512
            word ^= 1 << int(rng.integers(4 if rng.random() < 0.25 else INSTRUCTION_BITS))
        words.append(word)
    ends = INSTRUCTIONS[Opcode.END].pack(opcode=int(Opcode.END), wait=0, signal=0, zero=0)
    return [*words, ends] if rng.random() < 0.95 else words


class Engine:
    """An engine that takes instructions and is done with them when it likes."""

    def __init__(self, holds: int, rng: np.random.Generator) -> None:
        self._holds = holds
        self._rng = rng
        self._speed = float(rng.choice([0.05, 0.3, 1.0]))
        self._left = 0
        self.done = self.ready = False

    def tick(self, starts: bool) -> None:
        """End the cycle."""
        self._left += starts
        self.done = self._left > 0 and bool(self._rng.random() < self._speed)
        self._left -= self.done
        self.ready = self._left < self._holds and bool(self._rng.random() < 0.8)


class Bench:
    """One program after the other, each after a reset."""

    def __init__(self, dut: Any, config: SatConfig, rng: np.random.Generator) -> None:
        self.dut = dut
        self.config = config
        self.rng = rng
        self.cycles = 0
        self.count = 0
        self.ends: dict[str, int] = {}

    async def reset(self, words: Sequence[int]) -> None:
        """Reset, set up the program and everything that is played."""
        dut, rng = self.dut, self.rng
        self.words = words
        count = 0 if rng.random() < 0.02 else len(words)
        self.launch = Launch((Region(0, 1 << 20, True),), 0, int(rng.integers(1 << 10)), count)
        self.model = Sequencer(self.launch, Words(self.config, words))
        self.engines = [Engine(holds, rng) for holds in HOLDS]
        self.beats: deque[int] = deque()
        self.speed = float(rng.choice([0.1, 0.6, 1.0]))
        self.errors = [(0.0, 0.0), (0.0, 0.02), (0.02, 0.0), (0.0, 0.0)][self.count % 4]
        self.count += 1
        self.arrives = False
        self.read_error: Any = None
        self.write_error: Any = None
        values = {"run": 0, "read__request__ready": 0, "read__valid": 0, "read_error": 0, "write_error": 0}
        values |= {"region": 0, "at": self.launch.program_at, "count": count, "clk": 0, "rst": 1}
        values |= {f"work__{q}__{name}": 0 for q in range(len(Queue)) for name in ("done", "start__ready")}
        for name, value in values.items():
            getattr(dut, name).value = value
        for _ in range(2):
            await self.clock()
        dut.rst.value = 0
        dut.run.value = 1

    async def clock(self) -> None:
        """Pass the edge of the clock."""
        await Timer(4, "ns")
        self.dut.clk.value = 1
        await Timer(4, "ns")
        self.dut.clk.value = 0

    async def run(self, words: Sequence[int]) -> None:
        """Run a program to its end, now and then only to a reset."""
        await self.reset(words)
        stop = int(self.rng.integers(200)) if self.rng.random() < 0.1 else LIMIT
        for cycle in range(stop):
            if await self.step():
                return
            assert cycle < LIMIT - 1, f"a program of {len(words)} instructions has not ended"

    async def step(self) -> bool:
        """Pass one cycle; return whether the run ends with it."""
        dut, model, rng = self.dut, self.model, self.rng
        grants = bool(rng.random() < 0.7)
        inputs: dict[str, int] = {
            "read__request__ready": grants and model.fetch.request is not None,
            "read__valid": self.arrives,
        }
        if self.arrives:
            inputs["read__data"] = self.words[model.fetch.received]
        for q, engine in enumerate(self.engines):
            inputs |= {f"work__{q}__done": engine.done, f"work__{q}__start__ready": engine.ready}
        inputs["read_error"] = _error(self.read_error)
        inputs["write_error"] = _error(self.write_error)
        for name, value in inputs.items():
            getattr(dut, name).value = int(value)
        await Timer(2, "ns")
        ready = sum(1 << q for q, engine in enumerate(self.engines) if engine.ready)
        start = model.offer(ready)
        failure = model.failure(self.read_error, self.write_error)
        ends = self.compare(start, failure)
        granted = bool(inputs["read__request__ready"])
        if granted and model.fetch.request is not None:
            self.beats.extend([1] * model.fetch.request.beats)
        done = [q for q, engine in enumerate(self.engines) if engine.done]
        model.tick(True, granted, self.arrives, start[0] if start else -1, done, ready)
        self.advance(start[0] if start else -1)
        await self.clock()
        self.cycles += 1
        return ends

    def advance(self, start: int) -> None:
        """Let engines and memory play on."""
        rng = self.rng
        self.arrives = bool(self.beats) and bool(rng.random() < self.speed)
        if self.arrives:
            self.beats.popleft()
        for q, engine in enumerate(self.engines):
            engine.tick(start == q)
        self.read_error = self._draw(_READ_ERRORS, READERS, self.errors[0])
        self.write_error = self._draw(_WRITE_ERRORS, WRITERS, self.errors[1])

    def _draw(
        self, codes: Sequence[ErrorCode], clients: Sequence[Queue | None], chance: float
    ) -> tuple[ErrorCode, int] | None:
        """Return now and then an error of a client that has an instruction."""
        client = int(self.rng.integers(len(clients)))
        queue = clients[client]
        wrong = self.rng.random() < chance and (queue is None or self.model.busy >> queue & 1)
        return (codes[int(self.rng.integers(len(codes)))], client) if wrong else None

    def compare(self, start: tuple[int, Instruction] | None, failure: tuple[ErrorCode, int] | None) -> bool:
        """Compare all outputs; return whether the run ends with this cycle."""
        model, request = self.model, self.model.fetch.request
        self.expect("finished", int(model.finished))
        self.expect("busy", model.busy)
        self.expect("blocked", model.blocked)
        self.expect("read__request__valid", int(request is not None))
        if request is not None:
            self.expect("read__request__payload", request.region | request.offset << 2 | (request.beats - 1) << 36)
        for q, engine in enumerate(self.engines):
            starts = start is not None and start[0] == q
            valid = int(getattr(self.dut, f"work__{q}__start__valid").value)
            assert bool(valid and engine.ready) == starts, (
                f"cycle {self.cycles}: queue {q} starts {valid}, not {starts}"
            )
            if start is not None and starts:
                self.expect(f"work__{q}__start__payload", start[1].encode())
        got = int(self.dut.failure.value)
        wanted = 0 if failure is None else 1 | int(failure[0]) << 1 | failure[1] << 5
        assert got == wanted or (not wanted and not got & 1), f"cycle {self.cycles}: failure {got:#x}, not {failure}"
        ends = failure is not None or model.finished
        if ends:
            name = failure[0].name if failure else "NONE"
            self.ends[name] = self.ends.get(name, 0) + 1
        return ends

    def expect(self, name: str, value: int) -> None:
        """Compare an output port with the model."""
        got = int(getattr(self.dut, name).value)
        if got != value:
            said = (
                instruction_difference(got, value) if name.endswith("start__payload") else difference(None, got, value)
            )
            raise AssertionError(f"cycle {self.cycles}: {name} {said}")


def _error(error: tuple[ErrorCode, int] | None) -> int:
    return 0 if error is None else 1 | int(error[0]) << 1 | error[1] << 5


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Programs with every kind of end, engines and memory of every speed, resets in between."""
    job = load_job()
    config = SatConfig(**job["config"])
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut, config, rng)
    for number in range(job["runs"]):
        await bench.run(random_program(rng, hoard=number % 12 == 0))
    save_result(cycles=bench.cycles, ends=bench.ends)
