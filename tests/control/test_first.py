"""Which error a run ends with when several come in the same cycle: every set of them, on the circuit."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode, Opcode, Queue
from nmsat.dataflow.contract.limits import READERS, WRITERS
from nmsat.hw.control import sequencer
from nmsat.hw.control.sequencer import Sequencer

RECEIVED, BAD = 77, 55
"""Place of the word that the fetch waits for, and of the word that it found to be wrong."""

READS = (ErrorCode.READ, ErrorCode.REGION, ErrorCode.TIMEOUT)
WRITES = (ErrorCode.WRITE, ErrorCode.REGION, ErrorCode.TIMEOUT)
"""What ports tell."""

NOTHING = (0, 0, 0)


def first(empty: bool, bad: bool, beyond: tuple[int, ...], deadlock: bool) -> tuple[int, int, int]:
    """Return valid, code, index of what the sequencer itself finds: docs/machine/control.md."""
    if empty:
        return 1, ErrorCode.NO_END, 0
    if bad:
        return 1, ErrorCode.FIELD, BAD
    if any(beyond):
        return 1, ErrorCode.SEMAPHORE, 100 + beyond.index(1)
    return (1, ErrorCode.DEADLOCK, 201) if deadlock else NOTHING


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Put parts that do nothing into the sequencer, so that their outputs can be set; return them as they are made."""
    made: dict[str, list[Any]] = {}

    def hollow(name: str) -> Any:
        real = getattr(sequencer, name)

        class Hollow(real):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                made.setdefault(name, []).append(self)

            def elaborate(self, platform: object) -> Module:
                return Module()

        return Hollow

    for name in ("Fetch", "Semaphores", "Lane"):
        monkeypatch.setattr(sequencer, name, hollow(name))
    return made


def test_every_error_before_every_other(parts: dict[str, list[Any]]) -> None:
    dut = Sequencer(preset("tiny"))
    beyonds = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (1, 0, 0, 0), (0, 1, 1, 1), (1, 1, 1, 1)]
    readers = [None, *((code, r) for code in READS for r in range(len(READERS)))]
    writers = [None, *((code, w) for code in WRITES for w in range(len(WRITERS)))]
    oldest = {queue: 100 + q for q, queue in enumerate(Queue)}
    met = set()

    async def process(ctx: Any) -> None:
        (fetch,), (semaphores,), lanes = parts["Fetch"], parts["Semaphores"], parts["Lane"]
        ctx.set(dut.run, 1)
        ctx.set(fetch.index, BAD)
        ctx.set(fetch.received, RECEIVED)
        for q, lane in enumerate(lanes):
            ctx.set(lane.oldest, 100 + q)
            ctx.set(lane.head_index, 200 + q)
        for number, (empty, bad, beyond, deadlock) in enumerate(product((0, 1), (0, 1), beyonds, (0, 1))):
            ctx.set(dut.count, 0 if empty else 9)
            ctx.set(fetch.valid, bad | deadlock)
            ctx.set(fetch.code, ErrorCode.FIELD if bad else ErrorCode.NONE)
            ctx.set(fetch.word, Opcode.END)
            ctx.set(semaphores.beyond, sum(1 << q for q, bit in enumerate(beyond) if bit))
            for q, lane in enumerate(lanes):
                ctx.set(lane.some, deadlock and q > 0)
                ctx.set(lane.blocked, deadlock and q > 0)
            await ctx.tick()
            own = first(bool(empty), bool(bad), beyond, bool(deadlock))
            for read, write in product(readers, writers):
                for port, error in ((dut.read_error, read), (dut.write_error, write)):
                    code, client = error or (0, 0)
                    ctx.set(port.valid, error is not None)
                    ctx.set(port.code, code)
                    ctx.set(port.client, client)
                expected, clients = own, None
                for error, queues in ((write, WRITERS), (read, READERS)):
                    if error is not None:
                        clients = queues[error[1]]
                        expected = (1, error[0], RECEIVED if clients is None else oldest[clients])
                found = tuple(ctx.get(getattr(dut.failure, name)) for name in ("valid", "code", "index"))
                assert found == expected or (not expected[0] and not found[0]), (number, read, write)
                met.add(ErrorCode(expected[1]))

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(process)
    simulator.run()
    assert met == set(ErrorCode) - {ErrorCode.OPCODE}
