"""Proofs of the semaphores: their counts are exact, from 0 to 255, and a raise beyond is told."""

from __future__ import annotations

from typing import Final
from unittest.mock import patch

from amaranth.hdl import Cat, Mux, Signal, Value

from nmsat.dataflow.contract.isa import SEMAPHORE_MAX, SEMAPHORES, Queue
from nmsat.hw.control import semaphores as module
from nmsat.hw.control.semaphores import Semaphores
from nmsat.tb.formal.harness import Harness, inside, opened
from nmsat.tb.formal.proof import Fault, Proof

SAMPLE_MAX: Final = 7
"""Highest value of a semaphore in the sample: 255 would take 64 cycles."""


def semaphores(most: int = SEMAPHORE_MAX) -> Harness:
    """All semaphores against counts of plenty of bits. most: the highest value."""
    proof = Harness()
    m = proof.m
    dut = proof.add(Semaphores())
    with patch.object(module, "SEMAPHORE_MAX", most):
        inner = opened(dut)
    proof.assume((dut.lower & ~dut.above) == 0)
    beyond = Signal(len(Queue), name="expected_beyond")
    queues = [Signal(SEMAPHORES, name=f"beyond_{queue.name.lower()}") for queue in Queue]
    for s in range(SEMAPHORES):
        count, exact = Signal(16, name=f"count_{s}"), Signal(16, name=f"exact_{s}")
        raised = sum((dut.raises[q][s] for q in range(len(Queue))), Value.cast(0))
        m.d.comb += exact.eq(count + raised - dut.lower[s])
        m.d.sync += count.eq(Mux(exact > most, most, exact))
        m.d.comb += [at[s].eq((exact > most) & dut.raises[q][s]) for q, at in enumerate(queues)]
        proof.check(exact <= most + len(Queue), "no semaphore falls below 0")
        proof.check(count <= most, "no semaphore passes 255")
        proof.check(inside(inner, f"value_{s}") == count, "a semaphore is what was raised less what was lowered")
        proof.check(dut.above[s] == (count != 0), "above says whether a semaphore is above 0")
    m.d.sync += beyond.eq(Cat(at.any() for at in queues))
    proof.check(dut.beyond == beyond, "a raise beyond 255 is told in the next cycle, of the queue that raises")
    proof.cover(dut.beyond != 0, "a semaphore is raised beyond the last")
    proof.cover((dut.lower & dut.raises[0]) != 0, "a semaphore is lowered and raised in a cycle")
    return proof


PROOFS: Final = (
    Proof(
        name="semaphores",
        claim="Each semaphore is what was raised less what was lowered, from 0 to 255; a raise beyond 255 is told, of "
        "the queue that raises, and changes nothing else.",
        make=semaphores,
        unbounded=True,
        depth=2,
        reach=4,
        sample=lambda: semaphores(SAMPLE_MAX),
        smaller="nobody lowers a semaphore that is 0: proved as `sequencer_starts`",
        faults=(
            Fault(
                "a semaphore wraps",
                "hw/control/semaphores.py",
                "value.eq(Mux(full[s], SEMAPHORE_MAX, total))",
                "value.eq(total)",
            ),
            Fault(
                "two raises in a cycle count once",
                "hw/control/semaphores.py",
                "total.eq(value + raised - self.lower[s])",
                "total.eq(value + (raised != 0) - self.lower[s])",
            ),
            Fault(
                "the last place is one too low",
                "hw/control/semaphores.py",
                "self.lower[s] >= 1 << len(low))",
                "self.lower[s] > 1 << len(low))",
            ),
        ),
    ),
)
