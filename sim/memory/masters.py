"""The AXI4 masters of the machine with the memory behind each, cycle by cycle: how bursts and answers meet clients.

Clients are numbered as in `READERS` and `WRITERS`; sets of them are bits, that of client i is 1 << i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.dataflow.contract.limits import READERS, WRITERS
from nmsat.sim.memory.behind import READS, WRITES, MemoryPort
from nmsat.sim.memory.read_port import ReadPort
from nmsat.sim.memory.steer import Steer
from nmsat.sim.memory.write_port import WritePort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.isa import ErrorCode
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.sim.memory.port import Burst

    Asked = Sequence[Burst | None]
    Error = tuple[ErrorCode, int] | None

MOVED = ("read_bursts", "write_bursts", "read_beats", "write_beats")
"""What is counted of memory, in the order of a row of counts."""


class Master:
    """One master: read port, write port, and memory behind them. In every cycle `move` comes first, then `tick`.

    Of the present cycle, after `move`: reads, writes: clients whose burst is taken; arrives, pulled, written: clients
    that get a beat, whose beat is taken, one more burst of which is in memory.
    """

    def __init__(self, settings: Launch, timing: MemoryTiming, faults: frozenset[int]) -> None:
        self.read = ReadPort(settings.regions, settings.watchdog)
        self.write = WritePort(settings.regions, settings.watchdog)
        self.memory = MemoryPort(settings, timing, faults)
        self.reads = self.writes = self.arrives = self.pulled = self.written = 0
        self._ready = (True, True)
        self._leaves = (False, False)

    @property
    def parts(self) -> tuple[Any, ...]:
        """What has a state of its own."""
        return self.read, self.write, self.memory

    @property
    def idle(self) -> bool:
        """Whether no burst is under way at the ports."""
        return self.read.idle and self.write.idle

    @property
    def rests(self) -> bool:
        """Whether none is under way in memory either, and none waits to be."""
        return self.memory.idle and self.idle and not self.read.held and not self.write.held

    @property
    def errors(self) -> tuple[Error, Error]:
        """(code, client) that the read and the write port show."""
        return self.read.error, self.write.error

    @property
    def gives_up(self) -> bool:
        """Whether a port shows that memory is given up."""
        return self.read.gives_up or self.write.gives_up

    def move(self, reads: Asked | None, writes: Asked | None, halt: bool) -> None:
        """Let bursts leave and memory move. reads, writes: what clients ask for, None if nobody does."""
        read, write, memory = self.read, self.write, self.memory
        arready, awready = self._ready = memory.ready()
        self.reads = 0 if reads is None else read.take(reads)
        self.writes = 0 if writes is None else write.take(writes)
        self._leaves = read.choose(arready, halt) >= 0, write.choose(awready, halt) >= 0
        memory.tick(read.address if arready else None, write.address if awready else None)
        self.arrives = 1 << read.told if read.told >= 0 else 0
        self.written = 1 << write.told if write.told >= 0 else 0
        self.pulled = 1 << write.client if write.client >= 0 else 0
        assert write.valid or not memory.writes  # memory waits at least a cycle after the address

    def count(self, moved: list[int]) -> None:
        """Add to the counts in the order of `MOVED`."""
        if self._leaves[0]:
            moved[0] += 1
        if self._leaves[1]:
            moved[1] += 1
        if self.memory.reads is not None:
            moved[2] += 1
        elif self.memory.writes:
            moved[3] += 1

    def tick(self) -> None:
        """End the cycle."""
        read, write, memory = self.read, self.write, self.memory
        arready, awready = self._ready
        beat = memory.reads
        if beat is None:
            read.tick(arready, False, False, False, memory.moves == READS)
        else:
            read.tick(arready, True, *beat)
        if write.active or self.writes:
            part = memory.moves == WRITES
            write.tick(awready, memory.writes, memory.answer is not None, bool(memory.answer), part)


class Masters:
    """Several masters: the burst of a client leaves by that of its region. As `Master`, for all of them together."""

    def __init__(self, ports: int, settings: Launch, timing: MemoryTiming, faults: frozenset[int]) -> None:
        self._all = tuple([Master(settings, timing, faults) for _ in range(ports)])
        self._port_of = [region.port if region is not None else 0 for region in settings.regions]
        self._port_of += [0] * (4 - len(self._port_of))
        self._readers = [Steer(by_beats=True) for _ in READERS]
        self._writers = [Steer(by_beats=False) for _ in WRITERS]
        self._asked: tuple[Asked, Asked] = ((), ())
        self.reads = self.writes = self.arrives = self.pulled = self.written = 0

    @property
    def parts(self) -> tuple[Any, ...]:
        """What has a state of its own."""
        return *[part for one in self._all for part in one.parts], *self._readers, *self._writers

    @property
    def idle(self) -> bool:
        """Whether no burst is under way at the ports."""
        return all(one.idle for one in self._all)

    @property
    def rests(self) -> bool:
        """Whether none is under way in memory either."""
        return all(one.rests for one in self._all)

    @property
    def errors(self) -> tuple[Error, Error]:
        """(code, client) that the first read and the first write port with an error show."""
        shown = [one.errors for one in self._all]
        return tuple([next((error for error in kind if error is not None), None) for kind in zip(*shown, strict=True)])  # type: ignore[return-value]

    @property
    def gives_up(self) -> bool:
        """Whether a port shows that memory is given up."""
        return any(one.gives_up for one in self._all)

    def move(self, reads: Asked | None, writes: Asked | None, halt: bool) -> None:
        """Let bursts leave and memory move. reads, writes: what clients ask for, None if nobody does."""
        self._asked = reads or (), writes or ()
        self.reads = self.writes = self.arrives = self.pulled = self.written = 0
        for port, one in enumerate(self._all):
            one.move(self._for(port, reads, self._readers), self._for(port, writes, self._writers), halt)
            self.reads |= one.reads
            self.writes |= one.writes
            self.arrives |= one.arrives
            self.pulled |= one.pulled
            self.written |= one.written

    def count(self, moved: list[int]) -> None:
        """Add to the counts in the order of `MOVED`."""
        for one in self._all:
            one.count(moved)

    def tick(self) -> None:
        """End the cycle."""
        reads, writes = self._asked
        self._steer(self._readers, reads, self.reads, self.arrives)
        self._steer(self._writers, writes, self.writes, self.written)
        for one in self._all:
            one.tick()

    def _for(self, port: int, asked: Asked | None, steers: Sequence[Steer]) -> Asked | None:
        """Return what the clients ask of one master."""
        if asked is None:
            return None
        return [
            burst if burst is not None and self._port_of[burst.region] == port and steer.may(port) else None
            for burst, steer in zip(asked, steers, strict=False)
        ]

    def _steer(self, steers: Sequence[Steer], asked: Asked, left: int, answered: int) -> None:
        if not (left | answered):
            return
        for client, steer in enumerate(steers):
            burst = asked[client] if left >> client & 1 else None
            port, beats = (0, 0) if burst is None else (self._port_of[burst.region], burst.beats)
            steer.tick(port, beats, bool(answered >> client & 1))


def masters(ports: int, settings: Launch, timing: MemoryTiming, faults: frozenset[int]) -> Master | Masters:
    """Return the masters of a machine before a run; ValueError if a region lies behind none of them."""
    settings.check_ports(ports)
    return Master(settings, timing, faults) if ports == 1 else Masters(ports, settings, timing, faults)
