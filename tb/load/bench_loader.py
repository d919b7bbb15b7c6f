"""Bench of the loader: RTL against sim.load.loader cycle by cycle, what it writes against the tables of
docs/machine/load.md.

Job: config (sizes), count (instructions).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from nmsat.dataflow.contract.codes import group_size
from nmsat.dataflow.contract.config import SatConfig
from nmsat.dataflow.contract.isa import OFFSET_MASK
from nmsat.hw.load.loader import Loader as LoaderRtl
from nmsat.sim.load.loader import Loader
from nmsat.tb.drive.decoded import difference, layouts
from nmsat.tb.load.jobs import Memory, Writes, as_act_writes, as_weight_writes, compare, expected, random_loads
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.memory.port import Burst


class ReadMemory:
    """Memory that answers in order. latency: cycles from a request to its first beat; gap: chance of no beat."""

    def __init__(self, memory: Memory, rng: np.random.Generator) -> None:
        self._memory, self._rng = memory, rng
        self._latency = int(rng.choice([1, 5, 28]))
        self._gap = float(rng.choice([0.0, 0.0, 0.2, 0.7]))
        self._busy = float(rng.choice([0.0, 0.0, 0.3, 0.8]))
        self._waiting: deque[tuple[int, int]] = deque()
        self._cycle = 0

    def accepts(self) -> bool:
        """Whether a request would be taken in the next cycle."""
        return self._rng.random() >= self._busy

    def request(self, burst: Burst) -> None:
        """Take a request in the present cycle."""
        for beat in range(burst.beats):
            self._waiting.append((self._cycle + self._latency, self._memory.word(burst.region, burst.offset + beat)))

    def answer(self) -> int | None:
        """Begin the next cycle; return the beat that comes in it."""
        self._cycle += 1
        if not self._waiting or self._waiting[0][0] > self._cycle or self._rng.random() < self._gap:
            return None
        return self._waiting.popleft()[1]


class _Found(dict[tuple[int, int], deque[int]]):
    """Writes that no instruction has been found for: of each place, in order.

    Loads behind a STAGE may write before it is done, and are done behind it.
    """

    def add(self, writes: Writes) -> None:
        """Add those of a cycle."""
        for place, value in writes.items():
            self.setdefault(place, deque()).append(value)

    def take(self, wanted: Writes) -> Writes:
        """Take away the first write of each of these places, and return them."""
        taken: Writes = {}
        for place in wanted:
            values = self.get(place)
            if values:
                taken[place] = values.popleft()
                if not values:
                    del self[place]
        return taken


class Bench:
    """The loader, its model and its memory, one cycle after the other.

    wraps: loads of dense weights with more rows than a group, whose places begin again, that are done.
    """

    def __init__(self, dut: Any, config: SatConfig, rng: np.random.Generator) -> None:
        self._dut, self._config, self._rng = dut, config, rng
        self._memory = Memory(rng)
        self._shapes = layouts(LoaderRtl(config))
        self.cycles = self.done = self.beats = self.writes = self.resets = self.wraps = 0

    async def reset(self) -> None:
        """Reset, in whatever state the loader is."""
        dut = self._dut
        dut.work__start__valid.value = 0
        dut.read__request__ready.value = 0
        dut.read__valid.value = 0
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0

    async def play(self, instructions: list[Instruction], reset_after: int | None = None) -> None:
        """Run instructions; stop after `reset_after` cycles if given, for a reset."""
        dut, model, memory = self._dut, Loader(self._config), ReadMemory(self._memory, self._rng)
        waiting, running = deque(enumerate(instructions)), deque[tuple[int, Any]]()
        pause = float(self._rng.choice([0.0, 0.9]))
        act, wgt = _Found(), _Found()
        cycle = 0
        while waiting or running or model.busy:
            if reset_after is not None and cycle == reset_after:
                return
            offered = bool(waiting) and self._rng.random() >= pause
            ready, beat = memory.accepts(), memory.answer()
            dut.work__start__valid.value = int(offered)
            if offered:
                dut.work__start__payload.value = waiting[0][1].encode()
            dut.read__request__ready.value = int(ready)
            dut.read__valid.value = int(beat is not None)
            if beat is not None:
                dut.read__data.value = beat
            await ReadOnly()
            self._compare(model)
            self._collect(act, wgt)
            if model.done:
                number, instruction = running.popleft()
                for found, wanted in zip((act, wgt), expected(self._config, instruction, self._memory), strict=True):
                    compare(number, instruction, found.take(wanted), wanted)
                    assert running or not found, f"instruction {number}, {instruction}: writes of no instruction"
                self.done += 1
                self.wraps += bool(instruction["dense"]) and instruction["outer"] > group_size(instruction)
            started = None
            if offered and model.ready:
                running.append(waiting.popleft())
                started = running[-1][1]
            granted = ready and model.request is not None
            if granted and model.request is not None:
                memory.request(model.request)
                self.beats += model.request.beats
            model.tick(started, granted, beat is not None)
            await RisingEdge(dut.clk)
            cycle += 1
            self.cycles += 1
        assert reset_after is None, f"the instructions ended after {cycle} cycles, before the reset"
        assert not act and not wgt, "a write after the end"

    def _compare(self, model: Loader) -> None:
        dut, burst = self._dut, model.request
        expected = {
            "work__start__ready": int(model.ready),
            "work__done": int(model.done),
            "read__request__valid": int(burst is not None),
        }
        if burst is not None:
            offset = burst.offset & OFFSET_MASK
            expected["read__request__payload"] = burst.region | offset << 2 | (burst.beats - 1) << 36
        for name, value in expected.items():
            got = int(getattr(dut, name).value)
            assert got == value, f"cycle {self.cycles}: {name} {difference(self._shapes.get(name), got, value)}"

    def _collect(self, act: _Found, wgt: _Found) -> None:
        """Add the writes of this cycle."""
        dut = self._dut
        for kind, found, split in (("act", act, as_act_writes), ("wgt", wgt, as_weight_writes)):
            enable = int(getattr(dut, f"{kind}_load_en").value)
            if enable:
                address, data = (int(getattr(dut, f"{kind}_load_{part}").value) for part in ("addr", "data"))
                found.add(split(self._config, enable, address, data))
                self.writes += 1


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Random instructions one behind the other, memories of all kinds, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    config = SatConfig(**job["config"])
    bench = Bench(dut, config, rng)
    Clock(dut.clk, 10, "ns").start()
    await bench.reset()
    while bench.done < job["count"]:
        await bench.play(random_loads(rng, config, 8))
        instructions = random_loads(rng, config, 30)
        await bench.play(instructions, reset_after=int(rng.integers(1, 100)))
        await bench.reset()
        bench.resets += 1
    names = ("cycles", "done", "beats", "writes", "resets", "wraps")
    save_result(**{name: getattr(bench, name) for name in names})
