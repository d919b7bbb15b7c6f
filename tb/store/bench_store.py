"""Bench of the store engine: RTL against sim.store.store cycle by cycle, what it writes against docs/machine/store.md.

Job: rows, columns (of the array), sum_depth, count (instructions), resets (of them cut short by a reset).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import cocotb
import numpy as np
from cocotb.triggers import Timer

from nmsat.algorithms.core.numeric import canonical, to_half
from nmsat.dataflow.contract.config import UNDER_WAY, SatConfig
from nmsat.dataflow.contract.isa import BEAT_BYTES, OFFSET_MASK, Instruction, Opcode, Side
from nmsat.dataflow.contract.limits import STORE_AHEAD
from nmsat.sim.memory.port import Burst
from nmsat.sim.parts.walk import Walk
from nmsat.sim.store.store import Store
from nmsat.tb.fp.f32_vectors import cancelling
from nmsat.tb.run.jobs import load_job, save_result

LIMIT: Final = 60_000
"""Cycles in which any instruction of the bench is done, however slow the memory."""

SPECIAL: Final = np.array([0, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0xFD01, 0x0001, 0x8001, 0x7BFF, 0x3C00], np.uint16)
"""Zeros, infinities, NaNs, subnormals and others in binary16."""


MAGNITUDES: Final = np.array([1.5, 1000 / 1024, 48.03125, 3e-5], np.float16)
"""What sums and second operands often are, so that they cancel."""


def random_instruction(rng: np.random.Generator, config: SatConfig) -> Instruction:
    """Return a legal STORE; rows may overlap, as steps are random."""
    columns, log2_a, ws = config.columns, int(rng.integers(4)), bool(rng.integers(2))
    a, side = 1 << log2_a, int(rng.choice([0, 0, 1, 2, 3]))
    most = (config.sum_depth // 8) * a if ws else a * config.rows
    fields: dict[str, int] = {
        "ws": int(ws),
        "log2_a": log2_a,
        "capture": int(rng.integers(config.sum_depth)),
        "rows": int(rng.integers(1, min(most, 24) + 1)),
        "columns": int(rng.integers(1, 8 // a * columns + 1)) if rng.random() < 0.5 else 8 // a * columns,
        "lane": int(rng.choice(np.arange(0, 32, columns))) if rng.random() < 0.6 else 0,
        "side": side,
        "region": int(rng.integers(2, 4)),
        "side_region": int(side == Side.TILE32),
        "width": int(rng.choice([0, 1, 3, 8])),
        "height": int(rng.integers(1, 4)),
    }
    fields |= {name: int(rng.integers(2)) for name in ("to_half", "relu", "watch", "beside")}
    fields |= {"x0": int(rng.integers(max(fields["width"], 1))), "y0": int(rng.integers(fields["height"]))}
    for prefix in ("", "side_"):
        fields |= {prefix + name: int(rng.integers(OFFSET_MASK + 1)) for name in ("at", "line_at", "image_at")}
        fields |= {prefix + name: int(rng.integers(-70, 70)) for name in ("x_step", "y_step", "image_step")}
        if rng.random() < 0.5:
            fields[prefix + "x_step"] = int(rng.integers(0, 3))
    if rng.random() < 0.2:  # all rows have the same second operand
        fields |= {"width": 0, "x0": 0, "y0": 0, "side_x_step": 0}
    return Instruction(Opcode.STORE, fields)


def random_instructions(rng: np.random.Generator, config: SatConfig, count: int) -> list[Instruction]:
    """Return legal STOREs; now and then one reads what the one in front writes, and some are alike but for places."""
    found = [random_instruction(rng, config)]
    while len(found) < count:
        last, work = found[-1], random_instruction(rng, config)
        if rng.random() < 0.4:
            places = {name: work[name] for name in ("at", "line_at", "image_at", "rows", "capture")}
            same = ("ws", "log2_a", "columns", "lane", "side", "to_half", "relu")
            if work["rows"] <= last["rows"]:
                work = Instruction(Opcode.STORE, {**work.fields, **places, **{name: last[name] for name in same}})
                work.fields["side_region"] = last["side_region"]
        if work["side"] in (Side.MASK, Side.TILE16) and last["to_half"] and rng.random() < 0.6:
            walk = ("at", "line_at", "image_at", "x_step", "y_step", "image_step")
            reads = {"side_region": last["region"], "beside": 0, **{f"side_{name}": last[name] for name in walk}}
            work = Instruction(Opcode.STORE, {**work.fields, **reads})
        found.append(work)
    return found


def random_results(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 sums, one in twenty infinite or NaN; one in three is of few magnitudes, to cancel with another."""
    values = (rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 18, shape)).astype(np.float32)
    near = cancelling(rng, few_halves(rng, shape).astype(np.float32))
    values = np.where(rng.random(shape) < 1 / 3, near, values)
    special = rng.choice(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40], np.float32), shape)
    return np.where(rng.random(shape) < 0.05 * rng.integers(2), special, values).astype(np.float32)


def few_halves(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return float16 numbers of either sign, of few magnitudes."""
    return (rng.choice(MAGNITUDES, shape) * rng.choice(np.array([1, -1], np.float16), shape)).astype(np.float16)


@dataclass
class Memory:
    """Beats by (region, offset); those of regions 0 (binary16) and 1 (binary32) appear when they are first read."""

    rng: np.random.Generator
    beats: dict[tuple[int, int], bytearray] = field(default_factory=dict)

    def read(self, region: int, offset: int) -> bytearray:
        """Return a beat."""
        key = (region, offset & OFFSET_MASK)
        if key not in self.beats and region == 0:
            halves = self.rng.standard_normal(32).astype(np.float16)
            halves = np.where(self.rng.random(32) < 1 / 3, few_halves(self.rng, (32,)), halves).view(np.uint16)
            beat = np.where(self.rng.random(32) < 0.1, self.rng.choice(SPECIAL, 32), halves)
            self.beats[key] = bytearray(beat.tobytes())
        elif key not in self.beats:
            self.beats[key] = bytearray(random_results(self.rng, (16,)).tobytes() if region == 1 else bytes(BEAT_BYTES))
        return self.beats[key]

    def write(self, region: int, offset: int, data: bytes, strobe: int) -> None:
        """Write the bytes of a beat whose strobe is set."""
        beat = self.read(region, offset)
        for i in range(BEAT_BYTES):
            if strobe >> i & 1:
                beat[i] = data[i]

    def elements(self, region: int, offset: int, lane: int, count: int, size: int) -> bytes:
        """Return `count` elements of `size` bytes from place `lane` of a row on."""
        first, last = lane * size // BEAT_BYTES, -(-(lane + count) * size // BEAT_BYTES)
        row = b"".join(self.read(region, offset + q) for q in range(first, last))
        return row[lane * size - first * BEAT_BYTES :][: count * size]


def apply_store(work: Instruction, config: SatConfig, captured: np.ndarray, memory: Memory) -> bool:
    """Write what an instruction writes; return whether it raises the flag.

    captured: float32[C, sum_depth]. Source: docs/machine/store.md; "Epilogue".
    """
    a, n, lane, side = 1 << work["log2_a"], work["columns"], work["lane"], Side(work["side"])
    result, operand = Walk(work.fields), Walk(work.fields, "side_")
    size, raised = (2 if work["to_half"] else 4), False
    for t in range(work["rows"]):
        block, i = (t // a, t % a) if work["ws"] else (t % config.rows, t // config.rows)
        j, c = np.arange(n) // config.columns, np.arange(n) % config.columns
        y = captured[c, (work["capture"] + 8 * block + j * a + i) % config.sum_depth]
        passes = np.full(n, True)
        if side is not Side.NONE:
            wide = side is Side.TILE32
            raw = memory.elements(work["side_region"], operand.offset, lane, n, 4 if wide else 2)
            values = np.frombuffer(raw, np.float32 if wide else np.float16)
            if side is Side.MASK:
                passes = np.isnan(values) | (values > 0)
            else:
                with np.errstate(all="ignore"):
                    y = y + values.astype(np.float32)
        y = to_half(y) if work["to_half"] else canonical(y)
        passes &= np.isnan(y) | (y > 0) | (not work["relu"])
        y = np.where(passes, y, y.dtype.type(0))
        raised |= bool(work["watch"]) and not bool(np.isfinite(y).all())
        for e, value in enumerate(y):
            beat, place = divmod((lane + e) * size, BEAT_BYTES)
            memory.read(work["region"], result.offset + beat)[place : place + size] = value.tobytes()
        result.advance()
        operand.advance()
    return raised


class Lockstep:
    """Circuit, model and memory, one clock at a time. most: bursts that have waited for acknowledgements at once."""

    def __init__(self, dut: Any, config: SatConfig, rng: np.random.Generator) -> None:
        self.dut, self.config, self.rng = dut, config, rng
        self.captured = random_results(rng, (config.columns, config.sum_depth))
        self.words = self.captured.view(np.uint32)
        self.expected, self.memory = Memory(np.random.default_rng(9)), Memory(rng)
        self.special = False
        self.cycles = self.beats = self.overlaps = self.most = 0

    async def reset(self) -> None:
        """Reset for two cycles with idle inputs; what was under way is forgotten."""
        dut = self.dut
        for name in ("work__start__valid", "side__valid", "side__request__ready", "write__request__ready"):
            getattr(dut, name).value = 0
        for name in ("write__pull", "write__acknowledged", "clear_special", "clk"):
            getattr(dut, name).value = 0
        dut.rst.value = 1
        for _ in range(2):
            await Timer(5, "ns")
            await self._edge()
        dut.rst.value = 0
        self.model = Store(self.config)
        self.side: deque[tuple[int, int]] = deque()  # (region, offset) of beats on their way
        self.writes: deque[Burst] = deque()  # bursts that have been granted
        self.sent = 0  # beats of the oldest of them that have left
        self.unacknowledged = 0
        self.late = 0  # before this cycle memory acknowledges nothing
        self.fast = False
        self.special = False

    async def _edge(self) -> None:
        self.dut.clk.value = 1
        await Timer(5, "ns")
        self.dut.clk.value = 0

    def _chance(self, chance: float) -> bool:
        return self.fast or bool(self.rng.random() < chance)

    async def cycle(self, start: int | None, speed: float, clear: bool = False) -> bool:
        """Compare one cycle in which instruction `start` is offered; return whether it was taken.

        speed: probability that memory does whatever it could do.
        """
        dut, model = self.dut, self.model
        room = len(self.writes) + self.unacknowledged < UNDER_WAY  # as the write port has it
        granted, write_granted = self._chance(speed), room and self._chance(speed)
        arrives = bool(self.side) and self._chance(speed)
        pulled = bool(self.writes) and self._chance(speed)
        acknowledged = self.unacknowledged > 0 and self._chance(speed) and self.cycles >= self.late
        dut.work__start__valid.value = int(start is not None)
        if start is not None:
            dut.work__start__payload.value = start
        dut.side__request__ready.value = int(granted)
        dut.write__request__ready.value = int(write_granted)
        dut.side__valid.value = int(arrives)
        if arrives:
            dut.side__data.value = int.from_bytes(self.memory.read(*self.side.popleft()), "little")
        dut.write__pull.value = int(pulled)
        dut.write__acknowledged.value = int(acknowledged)
        dut.clear_special.value = int(clear)
        await Timer(5, "ns")
        self._compare()
        read = int(dut.read_addr.value) if dut.read_en.value == 1 else None
        request, write_request = model.request, model.write_request
        granted &= request is not None
        write_granted &= write_request is not None
        self.unacknowledged -= acknowledged
        if pulled:
            self._pull()
        if granted and request is not None:
            self.side.extend((request.region, request.offset + i) for i in range(request.beats))
        if write_granted and write_request is not None:
            self.writes.append(write_request)
        taken = start is not None and model.ready
        work = Instruction.decode(start) if start is not None and taken else None
        model.tick(work, granted, arrives, write_granted, pulled, acknowledged)
        await self._edge()
        column = self.words[:, read] if read is not None else self.rng.integers(0, 1 << 32, self.config.columns)
        dut.read_data.value = sum(int(value) << 32 * c for c, value in enumerate(column))
        self.cycles += 1
        return taken

    def _compare(self) -> None:
        dut, model = self.dut, self.model
        for name, value in (("work__start__ready", model.ready), ("work__done", model.done)):
            got = int(getattr(dut, name).value)
            assert got == value, f"cycle {self.cycles}: {name} is {got}, the model says {int(value)}"
        for name, burst in (("side", model.request), ("write", model.write_request)):
            got = None
            if getattr(dut, f"{name}__request__valid").value == 1:
                word = int(getattr(dut, f"{name}__request__payload").value)
                got = Burst(word & 3, word >> 2 & OFFSET_MASK, (word >> 36) + 1)
            assert got == burst, f"cycle {self.cycles}: request of {name} is {got}, the model says {burst}"

    def _pull(self) -> None:
        """Take the beat that the engine shows."""
        burst = self.writes[0]
        data = int(self.dut.write__data.value).to_bytes(BEAT_BYTES, "little")
        strobe = int(self.dut.write__strobe.value)
        assert strobe, f"cycle {self.cycles}: a beat without a result is written"
        self.memory.write(burst.region, burst.offset + self.sent, data, strobe)
        self.sent += 1
        self.beats += 1
        if self.sent == burst.beats:
            self.sent = 0
            self.writes.popleft()
            self.unacknowledged += 1
            self.most = max(self.most, self.unacknowledged)

    async def run(self, works: list[Instruction], speed: float, stop: int | None = None) -> bool:
        """Offer instructions one behind the other until all are done, or (False) to cycle `stop`."""
        waiting, inside = deque(work.encode() for work in works), 0
        self.fast = speed >= 1
        pause = float(self.rng.choice([0.0, 0.0, 0.98]))
        for cycle in range(LIMIT * len(works)):
            if cycle == stop:
                return False
            inside -= self.model.done
            self.overlaps += inside > 1
            ends = not waiting and not inside
            offered = bool(waiting) and self.rng.random() >= pause
            if await self.cycle(waiting[0] if offered else None, speed):
                waiting.popleft()
                inside += 1
            if ends:
                return True
        raise AssertionError(f"{works} are not done after {LIMIT} cycles each")

    def check(self, works: list[Instruction]) -> None:
        """Hold memory and flag against the tables, carried out one by one."""
        expected = self.expected
        for key, beat in self.memory.beats.items():
            if key[0] < 2:
                expected.beats[key] = beat
        for work in works:
            self.special |= apply_store(work, self.config, self.captured, expected)
        assert int(self.dut.special.value) == self.special, f"special is not {self.special} after {works}"
        for key, beat in expected.beats.items():
            assert key in self.memory.beats, f"beat {key} was not written by {works}"
            assert self.memory.beats[key] == beat, f"beat {key} is {self.memory.beats[key].hex()}, not {beat.hex()}"
        assert len(expected.beats) == len(self.memory.beats), f"{works} wrote beats that it should not"


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Instructions of all kinds, memory of every speed, resets in mid-operation."""
    job = load_job()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    config = SatConfig(name="bench", rows=job["rows"], columns=job["columns"], sum_depth=job["sum_depth"])
    bench = Lockstep(dut, config, rng)
    await bench.reset()
    resets = 0
    for number in range(job["count"]):
        works = random_instructions(rng, config, int(rng.choice([1, 2, 4, 8])))
        speed = float(rng.choice([0.1, 0.4, 0.8, 1.0, 1.0]))
        stop = int(rng.integers(1, 200)) if number < job["resets"] else None
        bench.memory.beats.clear()
        bench.expected.beats.clear()
        if await bench.run(works, speed, stop):
            bench.check(works)
        else:
            resets += 1
            await bench.reset()
        if rng.random() < 0.3:
            await bench.cycle(None, speed, clear=True)
            bench.special = False
    save_result(cycles=bench.cycles, beats=bench.beats, resets=resets, overlaps=bench.overlaps)


@cocotb.test()
async def acknowledged_late(dut: Any) -> None:
    """All of many STOREs of a burst each are written before memory acknowledges the first, but for those that wait."""
    job = load_job()
    config = SatConfig(name="bench", rows=job["rows"], columns=job["columns"], sum_depth=job["sum_depth"])
    bench = Lockstep(dut, config, np.random.default_rng(cocotb.RANDOM_SEED))
    await bench.reset()
    fields = {"rows": 1, "columns": 1, "to_half": 1, "region": 2}
    works = [Instruction(Opcode.STORE, {**fields, "at": at, "capture": at}) for at in range(3 * STORE_AHEAD)]
    bench.late = 30 * len(works)
    await bench.run(works, 1.0)
    bench.check(works)
    assert bench.cycles > bench.late
    save_result(waited=bench.most)
