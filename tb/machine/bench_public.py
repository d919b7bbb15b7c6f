"""Bench of whole runs by parts of others: memory and host of cocotbext-axi, who know the public register map only.

Every channel of both sides pauses now and then. Job of all tests: registers: text of `sat_registers.py`, which a
release brings; kernel: the model is that of `sat_kernel`; count: programs, and for each program i: memory_i_j (bytes of
region j, program among them), base_i (their addresses), writable_i, program_i (region, first beat, instructions);
turns: what is done, one row each:

    programs   program
    faults     program, address of a beat, 0 if it cannot be read or 1 if it cannot be written, response
    cuts       program, cycles, state (of `STATES`) that is waited for then, cycles of reset or 0: by a command

For each turn i all save memory_i_j as the run of the whole program has left it and status_i (status, code, index); the
last two also begun_i_j and begun_status_i of the run before it, which met a fault or was cut. A turn whose run is over
before the state is there saves nothing. Nothing outside of the regions is ever written.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRamRead, AxiRamWrite, AxiResp
from cocotbext.axi.sparse_memory import SparseMemory

from nmsat.hw.release.kernel import AP_RESET_STAGES, CONTROL, INNER_MEMORY, MEMORY
from nmsat.tb.drive.kernel import Kernel
from nmsat.tb.drive.protocol import Axi4, AxiLite
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Get = Callable[[str], int]

BEAT: Final = 64
PAGE: Final = 4096
"""Bytes in which the memory of cocotbext-axi keeps what was written."""

ADDRESSES: Final = 1 << 62
"""As many as Python tells the length of."""

LIMIT: Final = 400_000
"""Nanoseconds within which a program has ended."""

RESET_CYCLES: Final = 2
"""Cycles of the shortest reset of `sat`: its ports are held in reset from the second on."""

HALT_CYCLES: Final = 4
"""Cycles from an error on R or B until no burst is chosen any more."""

STATES: Final = ("address", "write address", "data", "read", "answer", "access")
"""States of the buses in which a run is cut: an address stands on AR, on AW, data stand on W; beats of R, an answer on
B, an access of the host are owed."""


def _pauses(seed: int) -> Iterator[bool]:
    rng = random.Random(seed)
    share = rng.uniform(0.2, 0.5)
    while True:
        yield rng.random() < share


class _Reads(AxiRamRead):
    """The reading side of a memory; a beat in `answers` is answered with what stands there, and with wrong data."""

    def __init__(self, *bus: Any, mem: Any) -> None:
        self.answers: dict[int, AxiResp] = {}
        self._answer = AxiResp.OKAY
        super().__init__(*bus, mem=mem)
        self._send: Any = self.r_channel.send
        self.r_channel.send = self._told

    async def _read(self, address: int, length: int) -> bytes:
        data: Any = await super()._read(address, length)
        self._answer = self.answers.get(address, AxiResp.OKAY)
        return data if self._answer is AxiResp.OKAY else bytes(byte ^ 0xFF for byte in data)

    async def _told(self, beat: Any) -> None:
        beat.rresp = self._answer
        await self._send(beat)


class _Writes(AxiRamWrite):
    """The writing side: a beat in `answers` is not written, its burst is answered with what stands there."""

    def __init__(self, *bus: Any, mem: Any) -> None:
        self.answers: dict[int, AxiResp] = {}
        self._answer = AxiResp.OKAY
        super().__init__(*bus, mem=mem)
        self._send: Any = self.b_channel.send
        self.b_channel.send = self._told

    async def _write(self, address: int, data: bytes) -> None:
        answer = self.answers.get(address // BEAT * BEAT, AxiResp.OKAY)
        if answer is AxiResp.OKAY:
            await super()._write(address, data)
        else:
            self._answer = answer

    async def _told(self, answer: Any) -> None:
        answer.bresp, self._answer = self._answer, AxiResp.OKAY
        await self._send(answer)


class Host:
    """A host that knows names and addresses of registers."""

    def __init__(self, dut: Any, text: str, reset: tuple[Any, Any, bool]) -> None:
        self._map: dict[str, int] = {}
        exec(text, self._map)  # what a release brings is a module
        bus: Any = AxiLiteBus.from_prefix(dut, CONTROL)
        self._master: Any = AxiLiteMaster(bus, *reset)
        into, out = self._master.write_if, self._master.read_if
        self.sides = (into, out)
        self.channels = (into.aw_channel, into.w_channel, into.b_channel, out.ar_channel, out.r_channel)
        self.waits = False
        """An access is under way."""

    def __getitem__(self, name: str) -> int:
        return self._map[name]

    async def write(self, name: str, value: int) -> None:
        """Write a register; one of 64 bits has an upper half of its own."""
        await self._master.write_dword(self._map[name], value & 0xFFFFFFFF)
        if f"{name}_HIGH" in self._map:
            await self._master.write_dword(self._map[f"{name}_HIGH"], value >> 32)

    async def read(self, name: str) -> int:
        """Read a register of 32 bits."""
        self.waits = True
        found = await self._master.read_dword(self._map[name])
        self.waits = False
        return found


class Board:
    """The machine, its host, its memory, and the rules of both buses, held in every cycle."""

    def __init__(self, dut: Any, job: dict[str, Any]) -> None:
        kernel = bool(job["kernel"])
        self.machine: Any = Kernel(dut) if kernel else dut
        self.settled = 1 + AP_RESET_STAGES if kernel else RESET_CYCLES
        """Cycles of a reset until nothing is offered any more."""
        self.machine.rst.value = 1
        line = (dut.ap_clk, dut.ap_rst_n, False) if kernel else (dut.clk, dut.rst, True)
        Clock(line[0], 10, "ns").start()
        self.job, self.clk = job, line[0]
        self.host = Host(dut, str(job["registers"]), line)
        bus: Any = AxiBus.from_prefix(dut, MEMORY if kernel else INNER_MEMORY)
        self.memory: Any = SparseMemory(ADDRESSES)
        into: Any = _Writes(bus.write, *line, mem=self.memory)
        out: Any = _Reads(bus.read, *line, mem=self.memory)
        self.answers: tuple[dict[int, AxiResp], ...] = (out.answers, into.answers)
        """To reads, to writes."""
        channels = (into.aw_channel, into.w_channel, into.b_channel, out.ar_channel, out.r_channel)
        for number, channel in enumerate((*channels, *self.host.channels)):
            channel.set_pause_generator(_pauses(10 * cocotb.RANDOM_SEED + number))
        for part in (into, out, *self.host.sides):
            part.log.setLevel("ERROR")
        self.axi, self.lite = Axi4(), AxiLite()
        self.owed = dict.fromkeys(("ar", "aw", "w"), 0)
        """Bursts that stood on AR and are not read whole; that stood on AW, whose data have left, without an answer."""
        self._late = -1  # cycles since memory told an error
        self._after: dict[str, int] = {}

    async def start(self) -> None:
        """Leave the first reset."""
        await self.reset(4)
        cocotb.start_soon(self._watch())
        assert await self.host.read("VERSION") == self.host["VERSION_VALUE"]
        await self.host.write("INTERRUPT", 1)

    async def reset(self, cycles: int) -> None:
        """Reset everything, memory and host too: they hang on the same line."""
        self.machine.rst.value = 1
        await ClockCycles(self.clk, cycles)
        self.machine.rst.value = 0
        await ClockCycles(self.clk, self.settled)

    def signal(self, prefix: str) -> Get:
        """Return what gives a signal of a bus of the machine."""
        return lambda name: int(getattr(self.machine, f"{prefix}_{name}").value)

    async def _watch(self) -> None:
        """Hold rules and count what is owed, for ever."""
        axi, lite = self.signal(INNER_MEMORY), self.signal(CONTROL)
        edge, held = RisingEdge(self.clk), 0
        while True:
            await edge
            if int(self.machine.rst.value):
                held += 1
                if held > self.settled:
                    self.axi.reset(axi, ("ar", "aw", "w"))
                    self.lite.reset(lite, ("r", "b"))
                self.axi, self.lite, self.owed = Axi4(), AxiLite(), dict.fromkeys(self.owed, 0)
                continue
            held = 0
            self.axi.tick(axi)
            self.lite.tick(lite)
            self._count(axi)

    def _count(self, axi: Get) -> None:
        moves = {name for name in ("ar", "r", "aw", "w", "b") if axi(f"{name}valid") and axi(f"{name}ready")}
        self.owed["ar"] += ("ar" in moves) - ("r" in moves and axi("rlast"))
        self.owed["aw"] += ("aw" in moves) - ("b" in moves)
        self.owed["w"] += ("w" in moves and axi("wlast")) - ("b" in moves)
        if any(name in moves and axi(f"{name}resp") for name in ("r", "b")) and self._late < 0:
            self._late, self._after = 0, {"ar": 0, "aw": 0}
        elif self._late >= 0:
            self._late += 1
            for name in self._after:
                self._after[name] += name in moves and self._late > HALT_CYCLES
                assert self._after[name] <= 1, f"a burst leaves on {name} after memory has told an error"

    def holds(self, state: int) -> bool:
        """Whether the buses are in a state of `STATES`."""
        axi = self.signal(INNER_MEMORY)
        standing = [axi(f"{name}valid") and not axi(f"{name}ready") for name in ("ar", "aw", "w")]
        return bool([*standing, self.owed["ar"], min(self.owed["aw"], self.owed["w"]), self.host.waits][state])

    async def begin(self, program: int) -> None:
        """Fill memory, set all registers, and start a program."""
        job, host = self.job, self.host
        self.memory.clear()
        bases = [int(base) for base in job[f"base_{program}"]]
        for region, base in enumerate(bases):
            content = job[f"memory_{program}_{region}"].astype(np.uint8).tobytes()
            self.memory.write(base, content)
            await host.write(f"REGION{region}_BASE", base)
            await host.write(f"REGION{region}_SIZE", len(content) // BEAT)
            writable = host[f"REGION{region}_FLAGS_WRITABLE"] * int(job[f"writable_{program}"][region])
            await host.write(f"REGION{region}_FLAGS", host[f"REGION{region}_FLAGS_OPEN"] | writable)
        for name, value in zip(("REGION", "AT", "COUNT"), job[f"program_{program}"], strict=True):
            await host.write(f"PROGRAM_{name}", int(value))
        self._late = -1
        await host.write("COMMAND", host["COMMAND_START"])

    async def status(self) -> np.ndarray:
        """Return status, code and index of an error."""
        return np.array([await self.host.read(name) for name in ("STATUS", "ERROR_CODE", "ERROR_INDEX")])

    def content(self, program: int, name: str) -> dict[str, Any]:
        """Return the regions of a program as `name_region`; nothing else may have been written."""
        found, known = {}, set()
        for region, base in enumerate(int(base) for base in self.job[f"base_{program}"]):
            size = len(self.job[f"memory_{program}_{region}"])
            found[f"{name}_{region}"] = np.frombuffer(bytes(self.memory.read(base, size)), np.uint8)
            known |= set(range(base, base + size, PAGE))
        strays = sorted(self.memory.segs.keys() - known)
        assert not strays, f"memory outside of the regions was written: {[hex(stray) for stray in strays]}"
        return found

    async def ended(self, program: int, name: str, status: str) -> dict[str, Any]:
        """Wait for the interrupt; return memory and what the registers say. The host then takes `done` back."""
        if not int(self.machine.interrupt.value):
            await with_timeout(RisingEdge(self.machine.interrupt), LIMIT, "ns")
        found = {status: await self.status()}
        self.axi.finish()
        self.lite.finish()
        await self.host.write("STATUS", self.host["STATUS_DONE"])
        assert await self.host.read("STATUS") & self.host["STATUS_DONE"] == 0
        assert not int(self.machine.interrupt.value)
        return {**found, **self.content(program, name)}

    async def whole(self, program: int, turn: int) -> dict[str, Any]:
        """Run a program."""
        await self.begin(program)
        return await self.ended(program, f"memory_{turn}", f"status_{turn}")

    async def reaches(self, cycles: int, state: int) -> bool:
        """Look at the registers of a run for some cycles, and on until the buses are in a state or it is over."""
        asking = cocotb.start_soon(self._ask())
        await ClockCycles(self.clk, cycles)
        while not self.holds(state) and not int(self.machine.interrupt.value):
            await RisingEdge(self.clk)
        asking.cancel()
        self.host.waits = False
        return not int(self.machine.interrupt.value)

    async def _ask(self) -> None:
        while True:
            await self.host.read("STATUS")


async def _board(dut: Any) -> Board:
    board = Board(dut, load_job())
    await board.start()
    return board


@cocotb.test()
async def programs(dut: Any) -> None:
    """Programs one after the other, without a reset in between, their regions anywhere."""
    board = await _board(dut)
    saved: dict[str, Any] = {}
    for turn, (program,) in enumerate(board.job["turns"]):
        saved |= await board.whole(int(program), turn)
    save_result(**saved)


@cocotb.test()
async def faults(dut: Any) -> None:
    """Programs one of whose beats memory refuses, each followed by the same with a memory that is whole."""
    board = await _board(dut)
    saved: dict[str, Any] = {}
    for turn, (program, address, write, answer) in enumerate(board.job["turns"]):
        refused = board.answers[int(write)]
        refused[int(address)] = AxiResp(int(answer))
        await board.begin(int(program))
        saved |= await board.ended(int(program), f"begun_{turn}", f"begun_status_{turn}")
        refused.clear()
        saved |= await board.whole(int(program), turn)
    save_result(**saved)


@cocotb.test()
async def cuts(dut: Any) -> None:
    """Programs that the host ends by a command, or a reset of machine, memory and host, each followed by the whole."""
    board = await _board(dut)
    saved: dict[str, Any] = {}
    for turn, (program, cycles, state, length) in enumerate(board.job["turns"]):
        await board.begin(int(program))
        if not await board.reaches(int(cycles), int(state)):
            await board.ended(int(program), "", "")
            continue
        await (_reset(board, int(length)) if length else _clear(board))
        saved |= {f"begun_status_{turn}": await board.status(), **board.content(int(program), f"begun_{turn}")}
        saved |= await board.whole(int(program), turn)
    save_result(**saved)


async def _clear(board: Board) -> None:
    """End a run by the command; all that is under way is finished."""
    await board.host.write("COMMAND", board.host["COMMAND_RESET"])
    while not await board.host.read("STATUS") & board.host["STATUS_IDLE"]:
        pass
    board.axi.finish()
    assert not int(board.machine.interrupt.value)


async def _reset(board: Board, cycles: int) -> None:
    """Reset all; settings are cleared."""
    await board.reset(cycles)
    assert not int(board.machine.interrupt.value)
    for name in ("INTERRUPT", "PROGRAM_COUNT", "REGION0_BASE", "REGION0_FLAGS"):
        assert await board.host.read(name) == 0, f"a reset has not cleared {name}"
    await board.host.write("INTERRUPT", 1)
