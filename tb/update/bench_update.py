"""Bench of the update engine: RTL against sim.update.update cycle by cycle, memory against sim.update.values.

Job: lanes: of WUVE; instructions: how many; k, n: largest sizes. Saves cycles, rows, holds, overflows, resets, most
writes that waited.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import BEAT_BYTES, OFFSET_MASK, Instruction
from nmsat.sim.memory.port import Burst
from nmsat.sim.update.update import Updater
from nmsat.sim.update.values import UpdateShape, apply_update
from nmsat.tb.run.jobs import load_job, save_result
from nmsat.tb.update.operands import REGION_BEATS, fill, random_update

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUIET: Final = 20
"""Cycles without a write after which a memory that is late with acknowledgements gives one."""


@dataclass
class Ports:
    """Memory behind the ports of the engine, with random delays.

    slow: probability that memory does not, in a cycle: accept a read, a write, return a beat, take one, acknowledge.
    late: it acknowledges only when nothing else is left to do, so that the engine comes to wait for it.
    """

    memory: list[NDArray[np.uint8]]
    slow: NDArray[np.float64]
    late: bool = False
    base: int = 0  # offset of the first beat of `memory`
    reads: deque[tuple[int, int]] = field(default_factory=deque)  # region, beat
    writes: deque[list[int]] = field(default_factory=deque)  # region, next beat, beats left
    unanswered: int = 0
    waiting: int = 0  # writes that were accepted and not acknowledged
    most: int = 0
    quiet: int = 0  # cycles since a write was accepted or a beat of it taken

    def accept(self, read: Burst | None, write: Burst | None) -> None:
        """Take note of requests that were accepted in this cycle."""
        self.quiet = 0 if self.writes or write is not None else self.quiet + 1
        if read is not None:
            self.reads.extend((read.region, read.offset - self.base + beat) for beat in range(read.beats))
        if write is not None:
            self.writes.append([write.region, write.offset - self.base, write.beats])
            self.waiting += 1
            self.most = max(self.most, self.waiting)

    def answer(self) -> None:
        """Acknowledge the oldest write."""
        self.unanswered -= 1
        self.waiting -= 1

    def fetch(self) -> int:
        """Return the next beat that was asked for."""
        region, beat = self.reads.popleft()
        return int.from_bytes(self.memory[region][beat * BEAT_BYTES : (beat + 1) * BEAT_BYTES].tobytes(), "little")

    def store(self, data: int) -> None:
        """Take the next beat of the oldest write."""
        burst = self.writes[0]
        place = burst[1] * BEAT_BYTES
        self.memory[burst[0]][place : place + BEAT_BYTES] = np.frombuffer(data.to_bytes(BEAT_BYTES, "little"), np.uint8)
        burst[1] += 1
        burst[2] -= 1
        if burst[2] == 0:
            self.writes.popleft()
            self.unanswered += 1


def moved(update: Instruction, base: int) -> Instruction:
    """Return an UPDATE with all offsets higher by `base`."""
    ats = {name: at + base for name, at in update.fields.items() if name.endswith("_at")}
    return Instruction(update.opcode, update.fields | ats)


def random_delays(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return `Ports.slow`."""
    slow = np.full(5, rng.choice([0.0, 0.0, 0.1, 0.5, 0.9]))
    return slow if rng.random() < 0.5 else rng.choice([0.0, 0.0, 0.5, 0.9], 5)


def burst_of(word: int) -> Burst:
    """Return the burst of a request payload (hw.parts.clients.burst_layout)."""
    return Burst(word & 3, word >> 2 & OFFSET_MASK, (word >> 36 & 15) + 1)


class Bench:
    """Engine and model side by side."""

    def __init__(self, dut: Any, rng: np.random.Generator, lanes: int) -> None:
        self.dut = dut
        self.rng = rng
        self.config = preset("tiny").replace(name="lanes", wuve_lanes=lanes)
        self.model = Updater(self.config)
        self.cycles = 0
        self.overflow = False  # the sticky flag, as seen in the last cycle

    async def reset(self) -> None:
        """Put the engine into its first state, from whatever state."""
        for name in ("work__start__valid", "read__valid", "write__pull", "write__acknowledged", "clear"):
            getattr(self.dut, name).value = 0
        self.dut.read__request__ready.value = 0
        self.dut.write__request__ready.value = 0
        self.dut.rst.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0
        self.model = Updater(self.config)

    def compare(self) -> None:
        """Compare all that the engine shows with the model."""
        dut, model = self.dut, self.model
        found: dict[str, Any] = {"ready": int(dut.work__start__ready.value), "done": int(dut.work__done.value)}
        wanted: dict[str, Any] = {"ready": int(model.ready), "done": int(model.done)}
        for name, port, burst in (
            ("read", dut.read__request__valid, model.request),
            ("write", dut.write__request__valid, model.write_request),
        ):
            payload = getattr(dut, f"{name}__request__payload")
            found[name] = burst_of(int(payload.value)) if int(port.value) else None
            wanted[name] = burst
        assert found == wanted, f"cycle {self.cycles}: the engine shows {found}, the model {wanted}"

    async def cycle(self, ports: Ports, start: Instruction | None, clear: bool = False) -> bool:
        """Pass one cycle; return whether `start` was taken."""
        dut, model = self.dut, self.model
        accept_read, accept_write, arrives, pulls, answers = (self.rng.random(5) >= ports.slow).tolist()
        arrives = arrives and bool(ports.reads)
        pulls = pulls and bool(ports.writes)
        answers = answers and ports.unanswered > 0 and (ports.quiet > QUIET or not ports.late)
        dut.work__start__valid.value = int(start is not None)
        dut.work__start__payload.value = start.encode() if start is not None else int(self.rng.integers(0, 1 << 62))
        dut.read__request__ready.value = int(accept_read)
        dut.write__request__ready.value = int(accept_write)
        dut.read__valid.value = int(arrives)
        if arrives:
            dut.read__data.value = ports.fetch()
        dut.write__pull.value = int(pulls)
        dut.write__acknowledged.value = int(answers)
        if answers:
            ports.answer()
        dut.clear.value = int(clear)
        await ReadOnly()
        self.compare()
        self.overflow = bool(int(dut.overflow.value))
        read, write = model.request if accept_read else None, model.write_request if accept_write else None
        if pulls:
            assert int(dut.write__strobe.value) == (1 << BEAT_BYTES) - 1
            ports.store(int(dut.write__data.value))
        ports.accept(read, write)
        taken = start is not None and model.ready
        model.tick(start if taken else None, read is not None, arrives, write is not None, pulls, answers)
        await RisingEdge(dut.clk)
        self.cycles += 1
        return taken


async def _run(bench: Bench, ports: Ports, update: Instruction, hold: bool, limit: int | None) -> bool:
    """Run one instruction to its end, or for `limit` cycles; return whether it ended."""
    bench.dut.hold.value = int(hold)
    while not await bench.cycle(ports, update):
        pass
    bench.dut.hold.value = int(not hold)
    begin = bench.cycles
    while not bench.model.done:
        if limit is not None and bench.cycles - begin >= limit:
            return False
        await bench.cycle(ports, None)
    return True


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Matrices of any shape, all patterns, random delays of memory, holds, gradients without value, resets."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut, rng, int(job["lanes"]))
    Clock(dut.clk, 10, "ns").start()
    await bench.reset()
    counts = {"held": 0, "overflows": 0, "resets": 0, "rows": 0, "writes_waiting": 0}
    sticky = False
    for number in range(job["instructions"]):
        update = random_update(rng, job["k"], job["n"])
        memory = [np.zeros(REGION_BEATS * BEAT_BYTES, np.uint8) for _ in range(2)]
        fill(memory, update, rng)
        wanted = [region.copy() for region in memory]
        hold = bool(rng.random() < 0.2)
        late = bool(rng.random() < 0.2)
        base = int(rng.integers(0, 1 << 33)) if rng.random() < 0.5 else 0
        ports = Ports(memory, np.zeros(5) if late else random_delays(rng), late, base)
        placed = moved(update, base)
        if number % 6 == 5:
            assert not await _run(bench, ports, placed, hold, int(rng.integers(1, 40 + update["k"])))
            await bench.reset()
            counts["resets"] += 1
            sticky = False
            continue
        await _run(bench, ports, placed, hold, None)
        sticky |= apply_update(update, wanted, hold)
        for name, region, expected in zip(("0", "1"), memory, wanted, strict=True):
            beats = np.flatnonzero((region != expected).reshape(-1, BEAT_BYTES).any(axis=1))
            assert not len(beats), f"instruction {number} {update.fields}: region {name} differs in beats {beats[:20]}"
        assert bench.overflow == sticky
        counts["writes_waiting"] = max(counts["writes_waiting"], ports.most)
        counts["held"] += hold
        counts["overflows"] += sticky
        counts["rows"] += UpdateShape.of(update).blocks * update["k"]
        if rng.random() < 0.5:
            await bench.cycle(ports, None, clear=True)
            sticky = False
    save_result(cycles=bench.cycles, **counts)
